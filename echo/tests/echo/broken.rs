//! Promise: a client whose message does not come back exits with 1 and one line, and soon.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use echo::{Stop, client};

use crate::harness::{
    DEADLINE, Guard, Server, assert_failed, client, client_command, fake_server, finish, pattern,
};

/// Longer than the buffers of both kernels together, so the sender is stopped in the middle.
const LONG: usize = 64 * 1024 * 1024;

fn exchange(to: SocketAddr, message: &[u8], silence: Duration) -> (Result<(), Stop>, Vec<u8>) {
    let stream = client::connect("127.0.0.1", to.port(), DEADLINE).expect("the server accepts");
    stream.set_read_timeout(Some(silence)).expect("the timeout is not zero");
    // So that a sender nobody wakes fails the test in place of hanging it.
    stream.set_write_timeout(Some(DEADLINE)).expect("the timeout is not zero");
    let mut reply = Vec::new();
    (client::exchange(&stream, message, &mut reply), reply)
}

/// Asserts that the network or the other side failed, in the way that `part` says.
fn assert_failure(outcome: Result<(), Stop>, part: &str) {
    match outcome {
        Err(Stop::Failure(line)) if line.contains(part) => {}
        other => panic!("{other:?} instead of {part:?}"),
    }
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
    let mut command = client_command();
    command.arg(format!("two\nlines{}", "x".repeat(64))).arg("9009");
    let line = assert_failed(&finish(command), 1);
    assert!(line.contains("two\\nlines"), "{line}");
}

#[cfg(target_os = "linux")]
#[test]
fn no_time_to_connect() {
    // Goal: the time allowed to connect is kept, where the system alone would try for minutes. A
    // listener that accepts nothing has a full queue at some time, and then it answers nobody.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Duration::from_secs(1);
    let queue: Vec<_> =
        (0..200).map_while(|_| TcpStream::connect_timeout(&address, patience).ok()).collect();
    assert!(queue.len() < 200, "the queue does not fill");
    let before = Instant::now();
    let port = address.port();
    let outcome = client::connect("127.0.0.1", port, Duration::from_millis(300)).map(drop);
    assert_failure(outcome, &format!("cannot connect to 127.0.0.1 port {port}: timed out"));
    assert!(before.elapsed() < DEADLINE, "{:?}", before.elapsed());
}

/// A server that accepts and then neither reads nor answers, until the sender is dropped.
fn mute_server() -> (SocketAddr, mpsc::Sender<()>) {
    let (done, wait) = mpsc::channel();
    let address = fake_server(move |stream| {
        let _ = wait.recv();
        drop(stream);
    });
    (address, done)
}

#[test]
fn silent_server() {
    // Goal: the client gives up a server that never answers, after the time that its help states.
    let (address, _done) = mute_server();
    let before = Instant::now();
    let line = assert_failed(&client(address, &["x"]), 1);
    assert!(line.contains("timed out, 0 of 1 bytes came back"), "{line}");
    assert!(before.elapsed() >= client::TIMEOUT && before.elapsed() < DEADLINE);
    assert_eq!(client::TIMEOUT, Duration::from_secs(5));
}

#[test]
fn silent_server_and_a_long_message() {
    // Goal: the client gives up a server that never answers, though it cannot send everything.
    let (address, _done) = mute_server();
    let before = Instant::now();
    let (outcome, _) = exchange(address, &pattern(LONG), Duration::from_millis(300));
    assert_failure(outcome, &format!("timed out, 0 of {LONG} bytes came back"));
    assert!(before.elapsed() < DEADLINE / 2, "{:?}", before.elapsed());
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

#[cfg(unix)]
#[test]
fn client_stopped_and_continued() {
    // Goal: a client stopped while it waits for the reply (Ctrl-Z, fg) takes the reply all the
    // same, though on Linux the signal interrupts its read.
    let (sender, receiver) = mpsc::channel();
    let address = fake_server(move |mut stream| {
        let mut message = Vec::new();
        stream.read_to_end(&mut message).unwrap();
        let pid: u32 = receiver.recv().unwrap();
        for signal in ["-STOP", "-CONT"] {
            let kill = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
            assert!(kill.success());
            thread::sleep(Duration::from_millis(50));
        }
        stream.write_all(&message).unwrap();
    });
    let mut command = client_command();
    command.args(["127.0.0.1", &address.port().to_string(), "again"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Guard(command.spawn().unwrap());
    sender.send(process.0.id()).unwrap();
    let (mut reply, mut stderr) = (String::new(), String::new());
    process.0.stdout.take().unwrap().read_to_string(&mut reply).unwrap();
    process.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((reply.as_str(), stderr.as_str()), ("again\n", ""));
}

#[test]
fn reply_printed_as_it_comes() {
    // Goal: a part of the reply is printed before the rest has come, line end or not.
    let (printed, wait) = mpsc::channel();
    let address = fake_server(move |mut stream| {
        stream.write_all(b"now").unwrap();
        wait.recv_timeout(DEADLINE).expect("the first part is printed");
        stream.write_all(b", then").unwrap();
    });
    let mut command = client_command();
    command.args(["127.0.0.1", &address.port().to_string(), "now, then"]);
    let mut process = Guard(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut stdout = process.0.stdout.take().unwrap();
    let mut first = [0; 3];
    stdout.read_exact(&mut first).expect("the first part is printed");
    printed.send(()).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((&first, rest.as_str()), (b"now", ", then\n"));
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
    assert_eq!(output.stdout, b"cut \n");
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
    assert_failure(outcome, &format!("connection cut short, 0 of {LONG} bytes came back"));
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
        assert_eq!(output.stdout, [reply.as_bytes(), b"\n"].concat());
    }
}

#[test]
fn output_that_nobody_reads() {
    // Goal: a reply that cannot be printed is an error on one line, and no panic.
    let server = Server::start();
    let mut command = client_command();
    command.arg("127.0.0.1").arg(server.address.port().to_string()).arg("x".repeat(100_000));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Guard(command.spawn().unwrap());
    drop(process.0.stdout.take());
    let mut stderr = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(process.0.wait().unwrap().code(), Some(1));
    assert!(stderr.lines().count() == 1 && stderr.contains("cannot write the reply"), "{stderr}");
}
