//! Promise: each of the two programs works with netcat in the place of the other.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::{DEADLINE, Guard, Server, assert_reply, client, lines_of, pattern};

/// Whether OpenBSD's netcat is here. The others spell the options differently.
fn netcat_is_here(test: &str) -> bool {
    let help = Command::new("nc").arg("-h").stdin(Stdio::null()).output();
    let here = help.is_ok_and(|help| String::from_utf8_lossy(&help.stderr).contains("OpenBSD"));
    if !here {
        println!("skipped {test}: OpenBSD's nc is not installed");
    }
    here
}

#[test]
fn netcat_as_client() {
    // Goal: `nc -N` (end the sending side with the input) gets back what it sends, and ends.
    if !netcat_is_here("netcat_as_client") {
        return;
    }
    let server = Server::start();
    let mut command = Command::new("nc");
    command.args(["-N", "127.0.0.1", &server.address.port().to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Guard(command.spawn().unwrap());
    let mut input = process.0.stdin.take().unwrap();
    let message = pattern(1_000_000);
    let sent = message.clone();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    let mut reply = Vec::new();
    process.0.stdout.take().unwrap().read_to_end(&mut reply).unwrap();
    writer.join().unwrap();
    assert!(reply == message, "{} of {} bytes came back", reply.len(), message.len());
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn netcat_as_server() {
    // Goal: the client sends its message to `nc -l` and takes what nc has to say. As nc -l ends
    // when the peer has ended its sending side, the reply lies ready in its input beforehand.
    if !netcat_is_here("netcat_as_server") {
        return;
    }
    let mut command = Command::new("nc");
    command.args(["-v", "-n", "-l", "127.0.0.1", "0"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Guard(command.spawn().unwrap());
    let message = "through netcat ".repeat(100);
    process.0.stdin.take().unwrap().write_all(message.as_bytes()).unwrap();
    let lines = lines_of(process.0.stderr.take().unwrap());
    let listening = lines.recv_timeout(DEADLINE).unwrap();
    let port = listening.rsplit(' ').next().and_then(|port| port.parse().ok());
    let port: u16 = port.unwrap_or_else(|| panic!("no port in {listening:?}"));

    let output = client(SocketAddr::from(([127, 0, 0, 1], port)), &[&message]);
    assert_reply(&output, message.as_bytes());
    let mut received = String::new();
    process.0.stdout.take().unwrap().read_to_string(&mut received).unwrap();
    assert_eq!(received, message);
    assert!(process.0.wait().unwrap().success());
}
