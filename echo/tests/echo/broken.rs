//! Promise: a client whose message does not come back exits with 1 and one line, and soon.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use echo::client::{self, Error};

use crate::harness::{
    DEADLINE, Guard, Server, assert_failed, client, fake_server, finish, pattern,
};

/// Longer than the buffers of both kernels together, so the sender is stopped in the middle.
const LONG: usize = 64 * 1024 * 1024;

fn exchange(to: SocketAddr, message: &[u8], silence: Duration) -> (Result<(), Error>, Vec<u8>) {
    let stream = client::connect("127.0.0.1", to.port(), DEADLINE).expect("the server accepts");
    // So that a sender nobody wakes fails the test in place of hanging it.
    stream.set_write_timeout(Some(DEADLINE)).expect("the timeout is not zero");
    let mut reply = Vec::new();
    (client::exchange(stream, message, silence, &mut reply), reply)
}

#[test]
fn connection_refused() {
    // Goal: a port nobody listens on is a connection error.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let line = assert_failed(&client(address, &["x"]), 1);
    assert!(line.contains(&format!("cannot connect to 127.0.0.1 port {}", address.port())));
}

#[test]
fn unknown_host() {
    // Goal: a host that cannot be looked up is a connection error on one line, even if the name
    // itself has two. Its parts are longer than the 63 bytes allowed, so the system knows without
    // asking anybody.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.arg(format!("two\nlines{}", "x".repeat(64))).arg("9009");
    let line = assert_failed(&finish(command), 1);
    assert!(line.contains("two\\nlines"), "{line}");
}

#[test]
fn no_time_to_connect() {
    // Goal: the time allowed to connect is kept, where the system alone would try for minutes.
    // The address is from TEST-NET-1 of RFC 5737: packets to it are lost, or refused at once.
    let before = Instant::now();
    let error = client::connect("192.0.2.1", 9, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(before.elapsed() < DEADLINE, "{:?}", before.elapsed());
}

#[test]
fn silent_server() {
    // Goal: a server that accepts and never answers is given up after the time allowed, with a
    // short message (all sent) as with one too long to be sent.
    for length in [5, LONG] {
        let (done, wait) = mpsc::channel::<()>();
        let address = fake_server(move |stream| {
            let _ = wait.recv();
            drop(stream);
        });
        let before = Instant::now();
        let silence = Duration::from_millis(300);
        let (outcome, _) = exchange(address, &pattern(length), silence);
        assert!(matches!(outcome, Err(Error::Silent { received: 0, .. })), "{outcome:?}");
        assert!(before.elapsed() >= silence && before.elapsed() < DEADLINE);
        drop(done);
    }
    assert_eq!(client::TIMEOUT, Duration::from_secs(5));
}

#[test]
fn slow_is_not_silent() {
    // Goal: what is timed is the silence, not the exchange: a reply that drips in takes longer
    // than the silence allowed, and arrives.
    let address = fake_server(|mut stream| {
        let mut message = Vec::new();
        stream.read_to_end(&mut message).unwrap();
        for byte in message {
            thread::sleep(Duration::from_millis(300));
            stream.write_all(&[byte]).unwrap();
        }
    });
    let (outcome, reply) = exchange(address, b"slowly", Duration::from_millis(1500));
    outcome.unwrap();
    assert_eq!(reply, b"slowly");
}

#[test]
fn sending_is_not_silence() {
    // Goal: as long as the message moves on, a server that answers only in the end is not given
    // up, though nothing comes back for longer than the silence allowed.
    let address = fake_server(|mut stream| {
        let mut message = vec![0; LONG];
        for part in message.chunks_mut(LONG / 32) {
            thread::sleep(Duration::from_millis(80));
            stream.read_exact(part).unwrap();
        }
        stream.write_all(&message).unwrap();
    });
    let (outcome, reply) = exchange(address, &pattern(LONG), Duration::from_millis(1500));
    outcome.unwrap();
    assert!(reply == pattern(LONG), "{} bytes came back", reply.len());
}

#[test]
fn server_that_closes_early() {
    // Goal: a reply cut short is an error, and the part that came back is printed all the same.
    let address = fake_server(|mut stream| {
        let mut message = Vec::new();
        stream.read_to_end(&mut message).unwrap();
        stream.write_all(&message[..4]).unwrap();
    });
    let output = client(address, &["cut short"]);
    let line = assert_failed(&output, 1);
    assert!(line.contains("4 of 9 bytes came back"), "{line}");
    assert_eq!(output.stdout, b"cut ");
}

#[test]
fn server_that_closes_at_once() {
    // Goal: a connection closed while the message is on its way is an error.
    for message in ["x".to_owned(), "x".repeat(100_000)] {
        assert_failed(&client(fake_server(drop), &[message]), 1);
    }
}

#[test]
fn server_that_ends_its_reply_and_stops_reading() {
    // Goal: the end of the reply ends the exchange, though the sender still waits for a server
    // that keeps the connection open and reads nothing.
    let (done, wait) = mpsc::channel::<()>();
    let address = fake_server(move |stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = wait.recv();
    });
    let before = Instant::now();
    let (outcome, _) = exchange(address, &pattern(LONG), DEADLINE);
    assert!(matches!(outcome, Err(Error::CutShort { received: 0, .. })), "{outcome:?}");
    assert!(before.elapsed() < DEADLINE / 2, "{:?}", before.elapsed());
    drop(done);
}

#[test]
fn server_that_answers_something_else() {
    // Goal: other bytes than those sent, or more of them, are printed and are an error.
    for (message, reply) in [("hello", "hallo"), ("hello", "hello!"), ("", "!"), ("ab", "c")] {
        let address = fake_server(move |mut stream: TcpStream| {
            stream.read_to_end(&mut Vec::new()).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let output = client(address, &[message]);
        let line = assert_failed(&output, 1);
        assert!(line.contains("differs"), "{line}");
        assert_eq!(output.stdout, reply.as_bytes());
    }
}

#[test]
fn output_that_nobody_reads() {
    // Goal: a reply that cannot be printed is an error on one line, and no panic.
    let server = Server::start();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.arg("127.0.0.1").arg(server.address.port().to_string()).arg("x".repeat(100_000));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Guard(command.spawn().unwrap());
    drop(process.0.stdout.take());
    let mut stderr = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(process.0.wait().unwrap().code(), Some(1));
    assert!(stderr.lines().count() == 1 && stderr.contains("cannot write the reply"), "{stderr}");
}
