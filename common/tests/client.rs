//! Calls from node to node: every way of failing has a plain reason and a bound.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::client::Client;

const TIMEOUT: Duration = Duration::from_millis(500);

/// Somebody who accepts connections, counts them, and treats each as told.
fn peer(treat: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> (Client, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), TIMEOUT);
    let (accepted, treat) = (Arc::new(AtomicUsize::new(0)), Arc::new(treat));
    let count = Arc::clone(&accepted);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (number, treat) = (count.fetch_add(1, SeqCst), Arc::clone(&treat));
            thread::spawn(move || treat(number, stream));
        }
    });
    (client, accepted)
}

/// Reads one request; `false` when there is none.
fn read_request(stream: &mut TcpStream) -> bool {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => seen.push(byte[0]),
            _ => return false,
        }
    }
    let head = String::from_utf8(seen).unwrap().to_ascii_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    stream.read_exact(&mut vec![0; length]).is_ok()
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes());
}

fn reason(client: &Client) -> (String, Duration) {
    let start = Instant::now();
    let error = client.post("/replicate", b"{}").expect_err("there is no answer");
    (error.to_string(), start.elapsed())
}

#[test]
fn connections_are_kept_and_statuses_are_answers() {
    // Goal: forty calls, one connection; 4xx, 5xx and redirects are answers like any other.
    let (client, accepted) = peer(|_, mut stream| {
        while read_request(&mut stream) {
            answer(&mut stream, "302 Found\r\nLocation: /elsewhere", "moved");
            if !read_request(&mut stream) {
                break;
            }
            answer(&mut stream, "500 Oh", "no JSON");
        }
    });
    for _ in 0..20 {
        let moved = client.post("/replicate", b"{}").unwrap();
        assert_eq!((moved.status, moved.body), (302, b"moved".to_vec()));
        let broken = client.get("/health").unwrap();
        assert_eq!((broken.status, broken.body), (500, b"no JSON".to_vec()));
    }
    assert_eq!(accepted.load(SeqCst), 1);
}

#[test]
fn a_kept_connection_that_was_closed_is_no_failure() {
    // Goal: the peer answers once per connection and closes it as the next request arrives.
    let (client, accepted) = peer(|_, mut stream| {
        if read_request(&mut stream) {
            answer(&mut stream, "200 OK", "{}");
            // The next request is read and never answered.
            read_request(&mut stream);
        }
    });
    for _ in 0..10 {
        assert_eq!(client.post("/replicate", b"{}").unwrap().status, 200);
    }
    assert!(accepted.load(SeqCst) <= 20, "{} connections", accepted.load(SeqCst));
}

#[test]
fn who_always_breaks_off_is_called_a_few_times_only() {
    // Goal: calling again is bounded, and the reason is plain.
    let (client, accepted) = peer(|_, mut stream| _ = read_request(&mut stream));
    let (reason, _) = reason(&client);
    assert!(reason.starts_with("connection broken: "), "{reason}");
    assert!(accepted.load(SeqCst) <= 3, "{} calls", accepted.load(SeqCst));
}

#[test]
fn silence_and_dribbling_are_bounded_by_the_same_timeout() {
    // Goal: a peer that accepts and says nothing, or a byte now and then, in head or body.
    let beginnings =
        ["", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"];
    for beginning in beginnings {
        let (client, _) = peer(move |_, mut stream| {
            read_request(&mut stream);
            let mut sent = stream.write_all(beginning.as_bytes());
            while sent.is_ok() && !beginning.is_empty() {
                thread::sleep(Duration::from_millis(50));
                sent = stream.write_all(b"x");
            }
            // Holds the connection open until the client gives up.
            while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        });
        let (reason, took) = reason(&client);
        assert_eq!(reason, "no answer within 500 ms", "after {beginning:?}");
        assert!(took >= TIMEOUT && took < 8 * TIMEOUT, "{took:?} after {beginning:?}");
    }
}

#[test]
fn reasons_are_plain() {
    // Goal: refused, unknown and not HTTP, in words for an operator.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = Client::new(&format!("http://127.0.0.1:{port}"), TIMEOUT);
    assert_eq!(reason(&refused).0, "connection refused");
    let unknown = Client::new("http://no-such-host.invalid:1", Duration::from_secs(10));
    let (unknown, _) = reason(&unknown);
    assert!(unknown.starts_with("its name does not resolve"), "{unknown}");
    let (client, _) = peer(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"SSH-2.0-hello\r\n\r\n");
    });
    let (not_http, _) = reason(&client);
    assert!(not_http.starts_with("not an HTTP answer: "), "{not_http}");
}

#[test]
fn calls_at_once_are_made_at_once_and_their_connections_kept() {
    // Goal: as many connections as calls in flight, used again by the next ones.
    let (client, accepted) = peer(|_, mut stream| {
        while read_request(&mut stream) {
            thread::sleep(Duration::from_millis(100));
            answer(&mut stream, "200 OK", "{}");
        }
    });
    for _ in 0..2 {
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert_eq!(client.post("/replicate", b"{}").unwrap().status, 200));
            }
        });
    }
    let count = accepted.load(SeqCst);
    assert!((16..=40).contains(&count), "{count} connections for twice 32 calls");
}
