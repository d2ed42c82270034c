//! Where one request ends and the next begins: nothing is handled that was not sent as a request,
//! whole and unmistakable.

mod support;

use std::thread;
use std::time::Duration;

use common::http::Limits;
use support::{Node, WIDE, Wire};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: node\r\n\r\n";

/// Sends these bytes and expects one error and the end of the connection, and nothing handled.
fn assert_refused(node: &Node, status: u16, bytes: &str) {
    let mut client = node.connect();
    client.send(bytes);
    client.answer_if_any().unwrap_or_else(|| panic!("no answer to {bytes:?}")).assert_error(status);
    client.assert_closed();
    node.assert_alive();
    assert!(node.begun().iter().all(|call| call == "GET /hello"), "{:?} {bytes:?}", node.begun());
}

/// Goal: whatever two readers could take for two different lengths is refused, and what follows is
/// not taken for a request. CVE-2026-66752: to tiny_http any Transfer-Encoding is chunked.
#[test]
fn nothing_after_an_ambiguous_length_is_believed() {
    let node = Node::start(WIDE);
    let fields = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: abc",
        "Content-Length:",
        "Content-Length: -5",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: +5",
        "Content-Length: 5\r\n Content-Length: 6",
        "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ];
    for fields in fields {
        let body = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}{SMUGGLED}");
        assert_refused(
            &node,
            400,
            &format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}"),
        );
    }
}

/// Goal: what another reader could take for the end of a line, and a name that is none, are refused.
#[test]
fn nothing_after_a_hidden_line_end_is_believed() {
    let node = Node::start(WIDE);
    let fields = [
        "X: a\rb",
        "X: a\nGET /smuggled HTTP/1.1",
        "X: a\nContent-Length: 38",
        "X: y\nContent-Length: 38",
        "X: a\0b",
        "X: \x1b[2J",
        "X(y): a",
        ": a",
    ];
    for field in fields {
        let head = format!("GET /echo HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        assert_refused(&node, 400, &format!("{head}{SMUGGLED}"));
    }
    for target in ["/echo\nX:", "/echo?a=\r", "/echo?\0"] {
        assert_refused(&node, 400, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}"));
    }
}

/// Goal: a folded line that is no field of its own, and a blank before the colon, end the
/// connection with tiny_http's own 400.
#[test]
fn nothing_after_a_folded_line_is_believed() {
    let node = Node::start(WIDE);
    let fields = [
        "X: y\r\n folded",
        "Content-Length: 5\r\n 6",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
        "Content-Length\t: 5",
        "Transfer\nX-Encoding: chunked",
    ];
    for fields in fields {
        let mut client = node.connect();
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n5\r\nhello\r\n{SMUGGLED}"
        ));
        assert!(client.rest().starts_with("HTTP/1.1 400"), "{fields:?}");
        node.assert_alive();
        assert!(node.begun().iter().all(|call| call == "GET /hello"), "{:?}", node.begun());
    }
}

/// Goal: a malformed chunk is refused, and what follows is not taken for a request.
#[test]
fn nothing_after_a_bad_chunk_is_believed() {
    let node = Node::start(WIDE);
    let chunks = [
        "zz\r\n",
        "-5\r\nhello\r\n",
        "\r\n",
        "5\r\nhelloXX",
        "5\nhello\r\n",
        "99999999999999999\r\n",
    ];
    for chunk in chunks {
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_refused(&node, 400, &format!("{head}{chunk}{SMUGGLED}{SMUGGLED}"));
    }
}

/// Goal: the unread part of a body that is too large is not taken for a request.
#[test]
fn the_rest_of_a_large_body_is_no_request() {
    let node = Node::start(Limits { max_body_bytes: 2000, ..WIDE });
    let body = SMUGGLED.repeat(100);
    let (head, length) = ("POST /echo HTTP/1.1\r\nHost: a\r\n", body.len());
    assert_refused(&node, 413, &format!("{head}Content-Length: {length}\r\n\r\n{body}"));
    // However the limit falls on the requests inside the chunk.
    for shift in 0..SMUGGLED.len() {
        let body = format!("{}{body}", "x".repeat(shift));
        let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        assert_refused(&node, 413, &format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}"));
    }
}

/// Goal: a body that looks like a request is a body.
#[test]
fn a_body_may_look_like_a_request() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    for count in [1, 30, 3000] {
        let body = SMUGGLED.repeat(count);
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(client.answer().body, body);
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (first, second) = body.split_at(10);
        let chunk = |text: &str| format!("{:x};extension=1\r\n{text}\r\n", text.len());
        client.send(format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(second)));
        assert_eq!(client.answer().body, body);
    }
    assert!(node.begun().iter().all(|call| call == "POST /echo"), "{:?}", node.begun());
}

/// Goal: a body that ends before its announced length, or between two chunks, is refused and never
/// handled. Of a short one tiny_http ends the connection before anybody else hears of it.
#[test]
fn a_body_that_is_cut_off_is_refused() {
    let node = Node::start(WIDE);
    let text = "x".repeat(1500);
    let bodies = [
        format!("Content-Length: 5000\r\n\r\n{text}"),
        "Content-Length: 5000\r\n\r\n".to_string(),
        "Transfer-Encoding: chunked\r\n\r\n".to_string(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_string(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n".to_string(),
    ];
    for body in bodies {
        let mut client = node.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{body}"));
        client.half_close();
        client.answer_if_any().unwrap_or_else(|| panic!("no answer: {body}")).assert_error(400);
        client.assert_closed();
    }
    let mut client = node.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nshort");
    client.half_close();
    client.assert_closed();
    assert_eq!(node.begun(), Vec::<String>::new());
}

/// Goal: of a body that is cut off inside a chunk no more is handed over than what came. That it
/// was cut off is not seen: only its sense can tell.
#[test]
fn a_body_cut_inside_a_chunk_ends_there() {
    let node = Node::start(WIDE);
    for (size, came) in [(5, "hel"), (0x5000, &*"x".repeat(1500))] {
        let mut client = node.connect();
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{size:x}\r\n{came}"));
        client.half_close();
        assert_eq!(client.answer().body, came);
        client.assert_closed();
    }
}

/// Goal: an offer to upgrade, as Java's client makes it with each request, is ignored, and what
/// follows the body is not taken for a request.
#[test]
fn a_body_beside_an_upgrade_is_read() {
    let node = Node::start(WIDE);
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA";
    let long = "x".repeat(70_000);
    let chunked = format!("{:x}\r\n{long}\r\n5\r\nhello\r\n0\r\n\r\n", long.len());
    for body in [
        format!("Transfer-Encoding: chunked\r\n\r\n{chunked}"),
        format!("Content-Length: {}\r\n\r\n{long}hello", long.len() + 5),
    ] {
        let mut client = node.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n{body}{SMUGGLED}"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.body), (200, format!("{long}hello")));
        client.assert_closed();
    }
    assert_eq!(node.begun(), ["POST /echo", "POST /echo"]);
}

/// Goal: of two fields tiny_http believes the first, so what was decoded is not decoded again, and
/// nothing is left over for a request.
#[test]
fn an_upgrade_in_a_second_field_smuggles_nothing() {
    let node = Node::start(WIDE);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let inner = format!("{}0\r\n\r\n{SMUGGLED}", chunk("hello"));
    let outer = format!("{}0\r\n\r\n", chunk(&inner));
    for (fields, expected) in
        [("x\r\nConnection: Upgrade", &inner), ("Upgrade\r\nConnection: x", &inner)]
    {
        let mut client = node.connect();
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: ";
        client.send(format!("{head}{fields}\r\n\r\n{outer}"));
        assert_eq!(client.answer().body, *expected, "{fields}");
        client.half_close();
        client.assert_closed();
    }
    assert_eq!(node.begun(), ["POST /echo", "POST /echo"]);
}

/// Goal: each piece of a stream is a chunk and the stream has an end, but for a client of HTTP/1.0.
#[test]
fn a_stream_comes_in_chunks_and_ends() {
    let node = Node::start(WIDE);
    let told = |request: &str| {
        let mut client = node.connect();
        client.send(format!("{request}\r\nHost: a\r\n\r\n"));
        if request.starts_with("HEAD") {
            client.half_close();
        }
        let text = client.rest();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("\r\nConnection: close"), "{head}");
        assert!(!head.contains("Content-Length"), "{head}");
        (head.contains("\r\nTransfer-Encoding: chunked"), body.to_string())
    };
    let chunks = "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
    assert_eq!(told("GET /stream HTTP/1.1"), (true, chunks.into()));
    assert_eq!(told("GET /stream HTTP/1.0"), (false, "onetwo".into()));
    assert_eq!(told("HEAD /stream HTTP/1.1"), (true, String::new()));
}

/// Goal: a request says one host, in its target or in a field, and the target is what it stands for.
#[test]
fn a_target_may_name_the_host() {
    let node = Node::start(WIDE);
    assert_refused(&node, 400, &format!("GET /none HTTP/1.1\r\n\r\n{SMUGGLED}"));
    assert_refused(
        &node,
        400,
        &format!("GET /two HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n{SMUGGLED}"),
    );
    let mut client = node.connect();
    for (line, path) in [
        ("GET http://node:1/absolute?a HTTP/1.1\r\nHost: other", "/absolute"),
        ("GET /message%73 HTTP/1.1\r\nHost: a", "/messages"),
        ("GET /old HTTP/1.0\r\nConnection: keep-alive", "/old"),
    ] {
        client.send(format!("{line}\r\n\r\n"));
        assert_eq!(client.answer().body, format!("\"{path}\""), "{line}");
    }
}

/// Goal: a chunked request that is the last one of its connection is answered, also when the end
/// of the connection comes with it.
#[test]
fn chunked_requests_that_close_are_answered() {
    let node = Node::start(WIDE);
    let head =
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    for number in 0..300 {
        let mut client = node.connect();
        client.send(format!("{head}5\r\nhello\r\n0\r\n\r\n"));
        if number % 2 == 0 {
            client.half_close();
        }
        assert_eq!(client.answer().body, "hello", "request {number}");
        client.assert_closed();
    }
}

/// Goal: a client that sends a whole request and ends its side gets its answer.
#[test]
fn a_client_that_ends_its_side_is_answered() {
    let node = Node::start(WIDE);
    for length in [0, 5, 5000] {
        let (mut client, body) = (node.connect(), "x".repeat(length));
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        client.half_close();
        assert_eq!(client.answer().body, body);
        client.assert_closed();
    }
}

/// Goal: `Expect: 100-continue` is honoured for a body of legal size; a larger one is refused
/// before it is sent.
#[test]
fn only_a_legal_body_is_told_to_continue() {
    let node = Node::start(Limits { max_body_bytes: 2000, ..WIDE });
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n";
    let mut client = node.connect();
    for length in [5, 2000] {
        let body = "x".repeat(length);
        client.send(format!("{head}Content-Length: {length}\r\n\r\n"));
        assert_eq!(client.answer_without_body().status, 100);
        client.send(&body);
        assert_eq!(client.answer().body, body);
    }
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    assert_eq!(client.answer_without_body().status, 100);
    client.send("5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.answer().body, "hello");
    client.send(format!("{head}Content-Length: 2001\r\n\r\n"));
    client.answer().assert_error(413);
    client.assert_closed();
}

/// Goal: pipelined requests are answered in order, and handled one at a time.
#[test]
fn pipelined_requests_are_handled_one_at_a_time() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    for round in 0..20 {
        let requests: Vec<String> = (0..40)
            .map(|n| match n % 3 {
                0 => format!("GET /{round}-{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
                1 => format!(
                    "POST /{round}-{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
                ),
                _ => format!(
                    "POST /{round}-{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 1500\r\n\r\n{}",
                    "x".repeat(1500)
                ),
            })
            .collect();
        client.send(requests.concat());
        for n in 0..40 {
            assert_eq!(client.answer().body, format!("\"/{round}-{n}\""));
        }
    }
    assert_eq!(node.most_inside(), 1, "handled at the same time");
}

/// Goal: a HEAD is answered with the head alone, and the connection goes on.
#[test]
fn a_head_request_is_answered_without_a_body() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    for _ in 0..3 {
        client.send("HEAD /bytes?70000 HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer_without_body();
        assert_eq!((answer.status, answer.field("Content-Length")), (200, Some("70000")));
        assert_eq!(client.get("/bytes?70000").body.len(), 70_000);
    }
    client.send("HEAD /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(client.answer_without_body().status, 413);
    client.assert_closed();
}

/// Goal: large answers are framed by their length, whatever the client says it could take.
#[test]
fn large_answers_carry_their_length() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    for field in ["X: y", "TE: chunked", "TE: gzip, chunked, trailers", "TE: identity;q=0"] {
        for bytes in [0, 1, 33_000, 1_000_000] {
            client.send(format!("GET /bytes?{bytes} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
            let answer = client.answer();
            assert_eq!((answer.status, answer.body.len()), (200, bytes), "{field}");
        }
    }
}

/// Goal: the connection is kept or closed as the client wishes, and the answer says which.
#[test]
fn a_connection_ends_as_the_client_wishes() {
    let node = Node::start(WIDE);
    let ask = |client: &mut Wire, first_line: &str, field: &str| {
        client.send(format!("{first_line}\r\nHost: a\r\n{field}\r\n\r\n"));
        client.answer().field("Connection").map(str::to_string)
    };
    let closing = [
        ("GET /hello HTTP/1.0", "X: y"),
        ("GET /hello HTTP/1.1", "Connection: close"),
        ("GET /hello HTTP/1.0", "Connection: close"),
        ("GET /hello HTTP/1.1", "connection: Keep-Alive, Close"),
    ];
    for (line, field) in closing {
        let mut client = node.connect();
        assert_eq!(ask(&mut client, line, field), Some("close".into()), "{line} {field}");
        client.assert_closed();
    }
    let keeping = [
        ("GET /hello HTTP/1.1", "X: y", None),
        ("GET /hello HTTP/1.1", "Connection: keep-alive", None),
        ("GET /hello HTTP/1.0", "Connection: keep-alive", Some("keep-alive".to_string())),
    ];
    for (line, field, expected) in keeping {
        let mut client = node.connect();
        for _ in 0..3 {
            assert_eq!(ask(&mut client, line, field), expected, "{line} {field}");
        }
    }
}

/// Goal: a client whose request took long is told that the connection closes, before it sends the
/// next one into a socket that has timed out.
#[test]
fn an_answer_that_took_long_says_close() {
    let node = Node::start(Limits { timeout: Duration::from_millis(400), ..WIDE });
    let mut slow = node.connect();
    slow.ask("/block");
    node.wait_until_blocked(1);
    // The socket's own timeout is a second at least.
    thread::sleep(Duration::from_millis(1100));
    node.release();
    let answer = slow.answer();
    assert_eq!((answer.status, answer.field("Connection")), (200, Some("close")));
    slow.assert_closed();
    assert_eq!(node.get("/hello").field("Connection"), None);
}
