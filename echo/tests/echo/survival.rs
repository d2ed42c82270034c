//! Promise: no peer, and no shortage, ends the server, spins it or makes it grow.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use echo::server;

use crate::harness::{
    DEADLINE, Guard, Server, assert_reply, client, connect, pattern, server_command,
    with_many_descriptors,
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

/// A new connection, if the server has a place for it; `None` if the server closes it instead.
fn served(server: &Server) -> Option<TcpStream> {
    let mut stream = server.connect();
    let mut reply = [0];
    match stream.write_all(b"!").and_then(|()| stream.read(&mut reply)) {
        Ok(1) => Some(stream),
        Ok(_) => None,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => None,
            _ => panic!("neither served nor refused: {error}"),
        },
    }
}

/// Sends on all of `open` before it reads from any, so that the server has all of them to serve.
fn exchange_at_once(open: &mut [TcpStream]) {
    let message = pattern(10_000);
    for stream in &mut *open {
        stream.write_all(&message).expect("the server reads");
    }
    for stream in open {
        let mut reply = vec![0; message.len()];
        stream.read_exact(&mut reply).expect("the server answers");
        assert!(reply == message, "other bytes came back");
    }
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
    assert_reply(&client(server.address, &["meanwhile"]), b"meanwhile");

    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply.len(), sent);
    assert!(reply.chunks(chunk.len()).all(|part| part == &chunk[..part.len()]));
}

#[test]
fn connections_beyond_the_limit() {
    // Goal: the limit is served in full and at once, the next connection is closed at once with
    // one line logged, and a place is free again as soon as a connection has ended.
    with_many_descriptors("survival::connections_beyond_the_limit", || {
        let limit = server::MOST_CONNECTIONS;
        let mut server = Server::start();
        let mut open: Vec<_> = (0..limit).map(|_| served(&server).expect("a place")).collect();
        exchange_at_once(&mut open);

        let mut refused = server.connect();
        assert_closed(&mut refused);
        let peer = refused.local_addr().unwrap();
        let line = server.wait_for_line("refused ");
        let reason = "error=\"no place is free\"";
        assert_eq!(line, format!("refused peer={peer} open={limit} limit={limit} {reason}"));

        let mut last = open.pop().unwrap();
        last.shutdown(Shutdown::Write).unwrap();
        assert_closed(&mut last);
        ping(&mut server.connect());
        exchange_at_once(&mut open);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn crowd_at_a_thousand_descriptors() {
    // Goal: with the 1 024 descriptors that Linux allows by default, the server serves all but the
    // few connections it has none left for, and those are closed at once.
    with_many_descriptors("survival::crowd_at_a_thousand_descriptors", || {
        let mut server = start_below("-n 1024");
        let crowd = server::MOST_CONNECTIONS + 100;
        let mut open: Vec<_> = (0..crowd).filter_map(|_| served(&server)).collect();
        assert!((1000..1024).contains(&open.len()), "{} connections served", open.len());
        let line = server.wait_for_line("refused ");
        assert!(line.contains("error=\"Too many open files"), "{line}");
        exchange_at_once(&mut open);
        drop(open);
        assert_serves_again(&mut server);
    });
}

#[test]
fn idle_connection() {
    // Goal: a connection on which nothing moves is closed after the time allowed, be it that the
    // peer does not send or that it does not read, and its place is free again.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || server::serve(&listener, 1, Duration::from_millis(200)));
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
    assert_reply(&client(server.address, &["still here"]), b"still here");
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
        assert_reply(&client(address, &["still here"]), b"still here");
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

/// Asserts that the server serves again, soon after connections have ended, and that no attempt
/// to accept has failed.
#[cfg(target_os = "linux")]
fn assert_serves_again(server: &mut Server) {
    let end = Instant::now() + DEADLINE;
    // The first may still be refused: the connections that were too many end one by one.
    while let Err(refusal) = server.exchange(&pattern(12_345)) {
        assert!(Instant::now() < end, "the server does not serve again: {refusal:?}");
    }
    server.wait_for_line("bytes=12345");
    assert!(server.lines_seen().all(|line| !line.contains("failed to accept")));
}

#[cfg(target_os = "linux")]
#[test]
fn shortage_of_descriptors() {
    // Goal: a connection that the server has no descriptor for is closed at once, not left to
    // wait; the others are served, and there is room again when they have ended.
    let mut server = start_below("-n 16");
    let open: Vec<_> = (0..32).filter_map(|_| served(&server)).collect();
    assert!((1..16).contains(&open.len()), "{} connections served", open.len());
    let line = server.wait_for_line("refused ");
    assert!(line.contains("error=\"Too many open files"), "{line}");
    drop(open);
    assert_serves_again(&mut server);
}

#[cfg(target_os = "linux")]
#[test]
fn shortage_of_threads() {
    // Goal: a connection that the server has no thread for is closed at once, and there is room
    // again when others have ended. What it lacks is room for the stacks, 2 MiB each: there are
    // not more than 15 in 32 MiB.
    let mut server = start_below("-v 32768");
    let open: Vec<_> = (0..20).filter_map(|_| served(&server)).collect();
    assert!((1..16).contains(&open.len()), "{} connections served", open.len());
    let line = server.wait_for_line("refused ");
    assert!(line.contains("error=\"Resource temporarily unavailable"), "{line}");
    drop(open);
    assert_serves_again(&mut server);
}

#[cfg(target_os = "linux")]
#[test]
fn accept_that_fails() {
    // Goal: a server that cannot accept at all says so once, does not spin, and serves again when
    // it can. Its limit is set below the descriptors it has open, and then back.
    let mut server = Server::start();
    let pid = server.process.0.id().to_string();
    let set_descriptors = |limit: &str| {
        Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status()
    };
    if !set_descriptors("3").is_ok_and(|status| status.success()) {
        println!("skipped accept_that_fails: prlimit is not installed");
        return;
    }
    // The first may still be accepted: the system reserves a descriptor when the server asks.
    let _waiting = [server.connect(), server.connect()];
    server.wait_for_line("failed to accept error=\"Too many open files");
    let before = Instant::now();
    thread::sleep(Duration::from_secs(1));
    set_descriptors("1024").unwrap();
    assert_eq!(server.exchange(b"still here").expect("the server accepts"), b"still here");
    let line = server.wait_for_line("accepted again failures=");
    let failures: u128 = line.rsplit('=').next().unwrap().parse().unwrap();
    // A tenth of a second passes between two attempts, and the first was made before.
    let most = before.elapsed().as_millis() / 100 + 2;
    assert!((2..=most).contains(&failures), "{failures} failures where {most} are the most");
    server.exchange(&pattern(12_345)).expect("the server goes on accepting");
    server.wait_for_line("bytes=12345");
    for once in ["failed to accept", "accepted again"] {
        assert_eq!(server.lines_seen().filter(|line| line.contains(once)).count(), 1, "{once}");
    }
}
