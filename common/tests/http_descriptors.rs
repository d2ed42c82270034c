//! A node that ran out of descriptors goes on, and accepts again when there are some.

mod support;

use std::process::Command;
use std::time::Duration;
use std::{env, io};

use support::{Node, WIDE, eventually};

/// Set in the child process of the test below.
const CHILD: &str = "HTTP_DESCRIPTORS_CHILD";

/// Goal: when descriptors run out a node goes on, and accepts again when there are some. tiny_http
/// alone stops accepting for good after one failure.
#[test]
fn a_node_without_descriptors_accepts_again() {
    if env::var(CHILD).is_ok() {
        return run_out_of_descriptors();
    }
    let this = env::current_exe().expect("a running program has a path");
    let script = "ulimit -n 64 && exec \"$0\" --exact --nocapture \
                  a_node_without_descriptors_accepts_again";
    let child = Command::new("sh").args(["-c", script]).arg(this).env(CHILD, "1").output();
    let child = child.expect("there is a shell");
    let (out, err) =
        (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success(), "{out}\n{err}");
    assert!(out.contains("descriptors ran out"), "they did not run out: {out}\n{err}");
}

fn run_out_of_descriptors() {
    let node = Node::start(WIDE);
    for round in 0..2 {
        // Descriptors of this process, which is node and clients at once.
        let mut held: Vec<std::net::TcpStream> = Vec::new();
        let full = loop {
            match std::net::TcpStream::connect(node.address) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 100, "no limit applies");
        };
        assert_eq!(full.raw_os_error(), Some(24), "{full}");
        println!("descriptors ran out, round {round}, {} clients", held.len());
        drop(held);
        eventually("accepting again", || -> Result<(), io::Error> {
            let mut stream = std::net::TcpStream::connect(node.address)?;
            stream.set_read_timeout(Some(Duration::from_millis(500)))?;
            io::Write::write_all(&mut stream, b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let mut answer = [0; 12];
            io::Read::read_exact(&mut stream, &mut answer)?;
            match &answer {
                b"HTTP/1.1 200" => Ok(()),
                other => Err(io::Error::other(String::from_utf8_lossy(other).into_owned())),
            }
        });
    }
}
