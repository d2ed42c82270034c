//! Promise: no peer, and no shortage, ends the server, spins it or makes it grow.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use echo::server::{self, Limits};

use crate::harness::{
    DEADLINE, Guard, Server, assert_printed, client, connect, pattern, server_command,
};

/// Sends one byte and waits for it to come back: from then on the server has a thread for it.
fn ping(stream: &mut TcpStream) {
    stream.write_all(b"!").expect("the server reads");
    let mut reply = [0];
    stream.read_exact(&mut reply).expect("the server answers");
    assert_eq!(&reply, b"!");
}

/// Asserts that the server has closed `stream`, or does so now, without another byte.
fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // Unlike read, it does not stop when a signal interrupts it.
    stream.read_to_end(&mut rest).expect("the server closes");
    assert_eq!(rest, b"");
}

#[test]
fn peer_that_does_not_read() {
    // Goal: a peer that sends and never reads is soon no longer read from, so the server holds no
    // more than its buffer; when it does read, not a byte is missing.
    let server = Server::start();
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let chunk = pattern(256 * 1024);
    let mut sent = 0;
    let budget = 512 * 1024 * 1024;
    while sent < budget {
        match stream.write(&chunk[sent % chunk.len()..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < budget, "the server took {sent} bytes from a peer that does not read");
    assert_printed(&client(server.address, &["meanwhile"]), b"meanwhile");

    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply.len(), sent);
    assert!(reply.chunks(chunk.len()).all(|part| part == &chunk[..part.len()]));
}

#[test]
fn connections_beyond_the_limit() {
    // Goal: the limit is served in full, the next connection is closed at once with one line
    // logged, and a place is free again as soon as a connection has ended.
    let limit = Limits::DEFAULT.connections;
    let mut server = Server::start();
    let mut open: Vec<_> = (0..limit).map(|_| server.connect()).collect();
    open.iter_mut().for_each(ping);

    let mut refused = server.connect();
    assert_closed(&mut refused);
    let peer = refused.local_addr().unwrap();
    let line = server.wait_for_line("refused ");
    assert_eq!(line, format!("refused peer={peer} open={limit} limit={limit}"));

    let mut last = open.pop().unwrap();
    last.shutdown(Shutdown::Write).unwrap();
    assert_closed(&mut last);
    ping(&mut server.connect());
    open.iter_mut().for_each(ping);
}

#[test]
fn idle_connection() {
    // Goal: a connection on which nothing moves is closed after the time allowed, be it that the
    // peer does not send or that it does not read, and its place is free again.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { connections: 1, idle: Duration::from_millis(200) };
    thread::spawn(move || server::serve(&listener, limits));
    for _ in 0..2 {
        let mut silent = connect(address);
        ping(&mut silent);
        assert_closed(&mut silent);
    }
    let mut unreading = connect(address);
    let chunk = pattern(256 * 1024);
    let error = loop {
        if let Err(error) = unreading.write_all(&chunk) {
            break error;
        }
    };
    assert!(error.kind() != ErrorKind::WouldBlock, "the server keeps a peer that does not read");
    ping(&mut connect(address));
}

#[test]
fn peer_that_breaks_off() {
    // Goal: a connection reset in the middle costs the server that connection alone. Closing with
    // an unread reply is what makes the system send a reset.
    let mut server = Server::start();
    let mut stream = server.connect();
    ping(&mut stream);
    stream.write_all(&pattern(100_000)).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    drop(stream);
    server.wait_for_line("error=");
    assert_printed(&client(server.address, &["still here"]), b"still here");
}

#[test]
fn log_that_nobody_reads() {
    // Goal: the server outlives the reader of its output (`echo-server | head -1`).
    let mut command = server_command();
    let mut child = command.arg("0").stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let _guard = Guard(child);
    let mut first = Vec::new();
    while first.last() != Some(&b'\n') {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        first.push(byte[0]);
    }
    drop(stdout);
    let first = String::from_utf8(first).unwrap();
    let address = first.trim_end().strip_prefix("listening on ").unwrap().parse().unwrap();
    for _ in 0..3 {
        assert_printed(&client(address, &["still here"]), b"still here");
    }
}

/// Starts the real server with what `ulimit` leaves it.
#[cfg(target_os = "linux")]
fn start_below(ulimit: &str) -> Server {
    let mut command = Command::new("sh");
    let script = format!("ulimit {ulimit} && exec \"$0\" 0");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_echo-server")]);
    command.env_remove("HOST").stdin(Stdio::null());
    Server::from_command(command)
}

/// Waits until the server accepts again, and returns how often it had failed the first time.
/// Asserts that each shortage was reported once when it began and once when it was over.
#[cfg(target_os = "linux")]
fn failures_until_recovery(server: &mut Server) -> u128 {
    let end = Instant::now() + DEADLINE;
    // The first attempts may still fail: the connections that were too many end one by one.
    while let Err(error) = server.exchange(b"still here") {
        assert!(Instant::now() < end, "the server does not accept again: {error}");
    }
    let line = server.wait_for_line("accepted again");
    let (_, failures) = line.split_once("failures=").expect("the line has a count");
    let failures = failures.parse().expect("the count is a number");

    server.exchange(&pattern(12_345)).expect("the server goes on accepting");
    server.wait_for_line("bytes=12345");
    let count = |server: &Server, part| server.lines_seen().filter(|l| l.contains(part)).count();
    while count(server, "failed to accept") > count(server, "accepted again") {
        server.wait_for_line("accepted again");
    }
    assert_eq!(count(server, "failed to accept"), count(server, "accepted again"));
    failures
}

#[cfg(target_os = "linux")]
#[test]
fn shortage_of_descriptors() {
    // Goal: a server that cannot accept for want of descriptors pauses after each attempt, and
    // accepts again when connections have ended.
    let mut server = start_below("-n 16");
    let before = Instant::now();
    let open: Vec<_> = (0..32).map(|_| server.connect()).collect();
    server.wait_for_line("failed to accept error=");
    drop(open);
    let failures = failures_until_recovery(&mut server);
    let pauses = before.elapsed().as_millis() / server::ACCEPT_PAUSE.as_millis();
    assert!(failures >= 1 && failures <= pauses + 1, "{failures} failures in {pauses} pauses");
}

#[cfg(target_os = "linux")]
#[test]
fn shortage_of_threads() {
    // Goal: a server that cannot start a thread closes that connection, pauses, and lives on.
    // What it lacks is room for the stacks, 2 MiB each: there are not more than 15 in 32 MiB.
    let mut server = start_below("-v 32768");
    let before = Instant::now();
    let mut open: Vec<_> = (0..20).map(|_| server.connect()).collect();
    server.wait_for_line("failed to accept error=");
    open.iter_mut().skip(15).for_each(assert_closed);
    drop(open);
    let failures = failures_until_recovery(&mut server);
    let pauses = before.elapsed().as_millis() / server::ACCEPT_PAUSE.as_millis();
    assert!(failures >= 5 && failures <= pauses + 1, "{failures} failures in {pauses} pauses");
}
