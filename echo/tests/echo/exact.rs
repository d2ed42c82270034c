//! Promise: what comes back is what was sent, byte for byte, whatever it is and however long.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use echo::client;

use crate::harness::{DEADLINE, Server, assert_reply, client, pattern};

const NONE: [&str; 0] = [];

#[test]
fn default_message() {
    // Goal: without a MESSAGE the client sends "hello".
    let server = Server::start();
    assert_reply(&client(server.address, &NONE), b"hello");
}

#[test]
fn host_by_name() {
    // Goal: a host may be a name, also one whose first address refuses (localhost is often ::1
    // and then 127.0.0.1, and the server listens only on the latter).
    let server = Server::start();
    let stream = client::connect("localhost", server.address.port(), DEADLINE).unwrap();
    let mut reply = Vec::new();
    client::exchange(&stream, b"by name", &mut reply).unwrap();
    assert_eq!(reply, b"by name");
}

#[test]
fn empty_message() {
    // Goal: an empty message is a message; the exchange ends at once.
    let server = Server::start();
    assert_reply(&client(server.address, &[""]), b"");
}

#[test]
fn message_that_looks_like_an_option() {
    // Goal: the third argument is a message whatever it looks like, line ends included.
    let server = Server::start();
    for message in ["--help", "-n", "--", "two\nlines\n", " "] {
        assert_reply(&client(server.address, &[message]), message.as_bytes());
    }
}

#[cfg(unix)]
#[test]
fn message_that_is_not_text() {
    // Goal: any bytes the system passes as an argument are sent as they are.
    use std::os::unix::ffi::OsStrExt;
    let server = Server::start();
    let message: Vec<u8> = (1..=255).collect();
    assert_reply(&client(server.address, &[OsStr::from_bytes(&message)]), &message);
}

#[test]
fn long_argument() {
    // Goal: a message as long as one argument may be on Linux (128 KiB with its end mark).
    let server = Server::start();
    let message = "0123456789abcde\n".repeat(8 * 1024).split_off(1);
    assert_eq!(message.len(), 128 * 1024 - 1);
    assert_reply(&client(server.address, &[&message]), message.as_bytes());
}

#[test]
fn message_longer_than_all_buffers() {
    // Goal: a message that fills the buffers of both sides does not leave them waiting for each
    // other.
    let mut server = Server::start();
    let message = pattern(64 * 1024 * 1024 + 1);
    let reply = server.exchange(&message).expect("the exchange succeeds");
    assert!(reply == message, "{} bytes came back, or others than sent", reply.len());
    let closed = server.wait_for_line("closed ");
    assert!(closed.ends_with(&format!("bytes={}", message.len())), "{closed}");
}

#[test]
fn several_clients_at_once() {
    // Goal: clients served at the same time get their own bytes, and none waits for another:
    // one connection stays open and unfinished all the while.
    let server = Server::start();
    let mut unfinished = server.connect();
    unfinished.write_all(b"first half, ").unwrap();
    thread::scope(|scope| {
        for number in 0..16 {
            let address = server.address;
            scope.spawn(move || {
                let message = format!("client {number} ").repeat(1000);
                assert_reply(&client(address, &[&message]), message.as_bytes());
            });
        }
    });
    unfinished.write_all(b"second half").unwrap();
    unfinished.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    unfinished.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "first half, second half");
}

#[test]
fn echo_before_the_end() {
    // Goal: the server sends back what it has as it comes, and does not wait for the end.
    let server = Server::start();
    let mut stream = server.connect();
    for part in [b"one", b"two"] {
        stream.write_all(part).unwrap();
        let mut reply = [0; 3];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, part);
    }
}

#[test]
fn half_close() {
    // Goal: after the peer has ended its sending side, everything received is still sent back,
    // though the peer begins to read only then; after that the server closes.
    let mut server = Server::start();
    let mut stream = server.connect();
    let message = pattern(200_000);
    stream.write_all(&message).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply == message, "{} of {} bytes came back", reply.len(), message.len());

    let peer = stream.local_addr().unwrap();
    assert_eq!(server.wait_for_line("connected "), format!("connected peer={peer}"));
    assert_eq!(server.wait_for_line("closed "), format!("closed peer={peer} bytes=200000"));
}
