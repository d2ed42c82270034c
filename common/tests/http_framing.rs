//! Where a request ends and the next begins is never a matter of opinion.

mod support;

use support::{Node, WIDE};

/// What nobody asked for, hidden in a body.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\n\r\n";

/// Sends a request that must be refused, and what follows on the connection must not be believed.
fn assert_refused(status: u16, request: &str) {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    client.send(request);
    client.answer().assert_error(status);
    client.send_if_open(SMUGGLED);
    client.assert_closed();
    node.assert_alive();
    assert_eq!(node.begun(), ["GET /hello"], "after {request:?}");
}

/// Goal: two lengths, or one that is none, are refused, and the rest is no request.
#[test]
fn ambiguous_lengths_are_refused() {
    for length in ["abc", "-5", "+5", "5, 5", "0x5", "5.0", ""] {
        assert_refused(
            400,
            &format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"),
        );
    }
    let two = "Content-Length: 5\r\nContent-Length: 6";
    assert_refused(400, &format!("POST /echo HTTP/1.1\r\n{two}\r\n\r\n{SMUGGLED}"));
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked";
    assert_refused(400, &format!("POST /echo HTTP/1.1\r\n{both}\r\n\r\n0\r\n\r\n{SMUGGLED}"));
}

/// Goal: only whole chunked bodies are believed.
#[test]
fn a_transfer_encoding_is_chunked_or_refused() {
    for coding in ["gzip", "gzip, chunked", "identity", ""] {
        let head = format!("POST /echo HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n");
        assert_refused(400, &format!("{head}5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"));
    }
    let head = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_refused(400, &format!("{head}zz\r\nhello\r\n0\r\n\r\n{SMUGGLED}"));
    assert_refused(400, &format!("{head}5\r\nhelloXX0\r\n\r\n{SMUGGLED}"));
    let large = format!("{:x}\r\n{}\r\n", 1 << 19, "x".repeat(1 << 19)).repeat(3);
    assert_refused(413, &format!("{head}{large}0\r\n\r\n{SMUGGLED}"));
}

/// Goal: a body that ends early never reaches the handler.
#[test]
fn a_body_shorter_than_announced_is_refused() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    client.send(format!("POST /echo HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(4999)));
    client.half_close();
    client.answer().assert_error(400);
    client.assert_closed();
    assert_eq!(node.begun(), [""; 0]);
}

/// Goal: bodies of every size around the limits of the library and of ours arrive whole, announced
/// or in chunks, and the connection goes on.
#[test]
fn bodies_of_all_sizes_arrive_whole() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    for size in [0, 1, 1023, 1024, 1025, 32 * 1024, 1 << 20] {
        let body = "x".repeat(size);
        client.send(format!("POST /echo HTTP/1.1\r\nContent-Length: {size}\r\n\r\n{body}"));
        assert_eq!(client.answer().body.len(), size);
        let chunk = if size == 0 { String::new() } else { format!("{size:x}\r\n{body}\r\n") };
        let head = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{chunk}0\r\n\r\n"));
        assert_eq!(client.answer().body.len(), size);
    }
}

/// Goal: a client that waits for leave to send gets it when its body is welcome, and only then.
#[test]
fn a_client_that_asks_first_is_answered_first() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    client.send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.answer_without_body().status, 100);
    client.send("hello");
    assert_eq!(client.answer().body, "hello");
    client.send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n");
    client.answer().assert_error(413);
}

/// Goal: HEAD has no body, old clients are closed unless they ask to be kept, and a large answer
/// has a length whatever the client would accept.
#[test]
fn answers_fit_the_request() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    client.send("HEAD /hello HTTP/1.1\r\n\r\n");
    let head = client.answer_without_body();
    assert_eq!((head.status, head.field("Content-Length")), (200, Some("8")));
    client.send("GET /bytes?100000 HTTP/1.1\r\nTE: chunked\r\n\r\n");
    assert_eq!(client.answer().body.len(), 100_000);
    client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().field("Connection"), Some("keep-alive"));
    client.send("GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().field("Connection"), Some("close"));
    client.assert_closed();
    let mut old = node.connect();
    old.send("GET /hello HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().status, 200);
    old.assert_closed();
}
