//! Beyond a limit there is a clear answer, and below it again all is well.

mod support;

use std::process::Command;
use std::time::Duration;
use std::{env, io};

use common::http::Limits;
use support::{Node, WIDE, Wire, eventually};

/// Goal: one request too many is refused at once, and served when there is room again.
#[test]
fn too_many_requests_in_progress_are_refused() {
    let node = Node::start(Limits { max_in_flight: 3, ..WIDE });
    let mut blocked: Vec<Wire> = (0..3).map(|_| node.connect()).collect();
    blocked.iter_mut().for_each(|client| client.ask("/block"));
    node.wait_until_blocked(3);
    let mut client = node.connect();
    for _ in 0..3 {
        let refused = client.get("/hello");
        refused.assert_error(503);
        assert_eq!(refused.field("Retry-After"), Some("1"));
    }
    client.send(format!("POST /echo HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{}", "x".repeat(9999)));
    client.answer().assert_error(503);
    client.assert_closed();
    node.release();
    blocked.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    eventually("served again", || match node.get("/hello").status {
        200 => Ok(()),
        status => Err(status),
    });
}

/// Goal: a stop lets finish what is in progress, refuses what is new, and counts what does not.
#[test]
fn a_stop_is_in_good_order() {
    let node = Node::start(WIDE);
    let (mut blocked, mut kept) = (node.connect(), node.connect());
    assert_eq!(kept.get("/hello").status, 200);
    blocked.ask("/block");
    node.wait_until_blocked(1);
    assert_eq!(node.server.stop(Duration::from_millis(50)).unfinished, 1);
    assert!(std::net::TcpStream::connect(node.address).is_err(), "it still accepts");
    kept.get("/hello").assert_error(503);
    node.release();
    assert_eq!(blocked.answer().body, "\"released\"");
    assert_eq!(node.server.stop(Duration::from_secs(5)).unfinished, 0);
}

/// Set in the child process of the test below.
const CHILD: &str = "HTTP_LIMITS_CHILD";

/// Goal: when descriptors run out a node goes on, and accepts again when there are some. tiny_http
/// alone stops accepting for good after one failure.
#[test]
fn a_node_that_ran_out_of_descriptors_accepts_again() {
    if env::var(CHILD).is_ok() {
        return run_out_of_descriptors();
    }
    let this = env::current_exe().expect("a running program has a path");
    let script = "ulimit -n 64 && exec \"$0\" --exact --nocapture \
                  a_node_that_ran_out_of_descriptors_accepts_again";
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
            io::Write::write_all(&mut stream, b"GET /hello HTTP/1.1\r\n\r\n")?;
            let mut answer = [0; 12];
            io::Read::read_exact(&mut stream, &mut answer)?;
            match &answer {
                b"HTTP/1.1 200" => Ok(()),
                other => Err(io::Error::other(String::from_utf8_lossy(other).into_owned())),
            }
        });
    }
}
