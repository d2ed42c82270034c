//! What a client announces, withholds or floods ends no node and blocks nobody else.

mod support;

use std::time::{Duration, Instant};

use common::http::Limits;
use support::{DEADLINE, Node, WIDE, Wire, eventually};

const SHORT: Limits = Limits { timeout: Duration::from_millis(400), ..WIDE };

/// Connections that an attacker has lost.
const LOST: usize = 400;

/// Goal: a body that is announced with any length gets its 413, and the node lives. tiny_http
/// alone allocates what was announced and aborts; where that cannot be undone the connection is
/// lost and counted.
#[test]
fn announced_terabytes_are_refused_and_counted() {
    let node = Node::start(WIDE);
    let lost = ["1000000000000000", "9223372036854775808", "18446744073709551615", "2147483648"];
    let harmless = ["99999999999999999999999999", "1000000000", "1048577"];
    for number in 0..LOST {
        let mut client = node.connect();
        let length = lost[number % lost.len()];
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{{}}"
        ));
        client.answer().assert_error(413);
        // Every other client leaves without waiting for the end.
        if number % 2 == 0 {
            client.assert_closed();
        }
        let mut client = node.connect();
        let length = harmless[number % harmless.len()];
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{{}}"
        ));
        client.answer().assert_error(413);
    }
    node.assert_alive();
    node.wait_for_stats("all that was lost is counted", |stats| stats.stuck == LOST);
    node.assert_alive();
    assert_eq!(node.begun(), ["GET /hello", "GET /hello"]);
}

/// Goal: a request line with HTTP/2.0, which deadlocks its thread inside tiny_http, costs that
/// connection and nothing else, and is counted.
#[test]
fn http_2_request_lines_are_counted() {
    let node = Node::start(SHORT);
    let mut clients: Vec<Wire> = (0..3).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.send(
            "GET /hello HTTP/2.0\r\nHost: node\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        );
    }
    node.assert_alive();
    clients.iter_mut().for_each(Wire::assert_closed);
    node.wait_for_stats("all three are counted", |stats| stats.stuck == 3);
    node.assert_alive();
    assert!(node.begun().iter().all(|call| call == "GET /hello"), "{:?}", node.begun());
}

/// Goal: a connection that says nothing is closed after the timeout and not before, whether it
/// never said anything or has been answered; one whose request is being handled is not.
#[test]
fn only_idle_connections_are_closed() {
    let node = Node::start(SHORT);
    let start = Instant::now();
    let (mut silent, mut answered, mut blocked) = (node.connect(), node.connect(), node.connect());
    assert_eq!(answered.get("/hello").status, 200);
    blocked.ask("/block");
    silent.assert_closed();
    answered.assert_closed();
    assert!(start.elapsed() >= SHORT.timeout, "closed after {:?}", start.elapsed());
    node.release();
    assert_eq!(blocked.answer().body, "\"released\"");
}

/// Goal: a request that arrives a byte now and then is cut off after the timeout, wherever it
/// has got to, and never handled.
#[test]
fn trickling_requests_are_cut_off() {
    let node = Node::start(SHORT);
    let beginnings = [
        "GET /trickled",
        "GET /trickled HTTP/1.1\r\nHost: a\r\nX: ",
        "POST /trickled HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n",
        "POST /trickled HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
        "POST /trickled HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /trickled HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n99999\r\n",
        "POST /trickled HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    ];
    let mut clients: Vec<Wire> = beginnings.iter().map(|_| node.connect()).collect();
    let mut open = vec![true; clients.len()];
    for (client, beginning) in clients.iter_mut().zip(beginnings) {
        client.send(beginning);
    }
    eventually("all are cut off", || {
        std::thread::sleep(Duration::from_millis(30));
        for (client, open) in clients.iter_mut().zip(&mut open) {
            *open = *open && client.send_if_open("0");
        }
        if open.contains(&true) { Err(open.clone()) } else { Ok(()) }
    });
    node.assert_alive();
    node.wait_for_stats("nothing is left in progress", |stats| stats.in_flight == 0);
    assert_eq!(node.begun(), ["GET /hello"]);
}

/// Sends a beginning that is no whole request and then this filler, until it is cut off.
fn assert_cut_off(beginning: &str, filler: &str) {
    let node = Node::start(Limits { max_body_bytes: 1 << 16, ..WIDE });
    let (mut client, mut sent, start) = (node.connect(), 0, Instant::now());
    client.send(beginning);
    let piece = filler.repeat(16 * 1024);
    while client.send_if_open(&piece) {
        sent += piece.len();
        assert!(start.elapsed() < DEADLINE, "{beginning:?}: it took {sent} bytes");
    }
    node.assert_alive();
    node.wait_for_stats("nothing is left in progress", |stats| stats.in_flight == 0);
    assert_eq!(node.begun(), ["GET /hello"]);
}

/// Goal: a request whose head never ends is cut off long before the timeout, as it fills the
/// memory.
#[test]
fn endless_heads_are_cut_off() {
    assert_cut_off("", "x");
    assert_cut_off("GET /flood HTTP/1.1\r\nHost: a\r\nX: ", "x");
    assert_cut_off("GET /flood HTTP/1.1\r\nHost: a\r\n", "X: y\r\n");
}

/// Goal: a chunk whose size never ends is cut off long before the timeout too, and so are chunks
/// that are all extension.
#[test]
fn endless_chunk_sizes_are_cut_off() {
    let head = "POST /flood HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_cut_off(&format!("{head}5;"), "x");
    assert_cut_off(head, "0");
    assert_cut_off(head, "1;x=y\r\nx\r\n");
}

/// Goal: a client that does not read its answer does not keep the thread that sends it.
#[test]
fn a_client_that_does_not_read_is_given_up() {
    let node = Node::start(SHORT);
    let mut clients: Vec<Wire> = (0..3).map(|_| node.connect()).collect();
    // More than the buffers of both sides take.
    clients.iter_mut().for_each(|client| client.ask("/bytes?50000000"));
    eventually("all three are being answered", || {
        let begun = node.begun().len();
        if begun == 3 { Ok(()) } else { Err(begun) }
    });
    node.assert_alive();
    node.wait_for_stats("no thread sends any more", |stats| stats.in_flight == 0);
}

/// Goal: requests pipelined behind a blocked one use up no threads; too many end the connection.
#[test]
fn a_thousand_pipelined_requests_keep_nobody_waiting() {
    let node = Node::start(Limits { max_in_flight: 8, ..WIDE });
    let (mut few, mut many) = (node.connect(), node.connect());
    for client in [&mut few, &mut many] {
        client.ask("/block");
    }
    node.wait_until_blocked(2);
    (0..60).for_each(|_| few.ask("/few"));
    let _ = many.send_if_open("GET /many HTTP/1.1\r\nHost: node\r\n\r\n".repeat(1000));
    many.assert_closed();
    for _ in 0..20 {
        node.assert_alive();
    }
    // A request counts for a moment longer than its answer takes.
    node.wait_for_stats("two in progress", |stats| stats.in_flight == 2);
    node.release();
    assert_eq!(few.answer().body, "\"released\"");
    for _ in 0..60 {
        assert_eq!(few.answer().body, "\"/few\"");
    }
    assert!(!node.begun().contains(&"GET /many".to_string()));
}

/// Goal: what is no request at all is refused or cut off, and the node lives.
#[test]
fn rubbish_ends_its_connection_only() {
    let node = Node::start(SHORT);
    let rubbish: [&[u8]; 8] = [
        b"rubbish\r\n\r\n",
        b"GET /rubbish\r\n\r\n",
        b"GET /rubbish HTTP/9.9\r\n\r\n",
        b"GET /rubbish HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /rubbish HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
        b"GET /rubbish HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /rubbish HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n",
    ];
    for bytes in rubbish {
        let mut client = node.connect();
        client.send(bytes);
        let answer = client.rest();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?} to {bytes:?}");
    }
    node.assert_alive();
    assert_eq!(node.begun(), ["GET /hello"]);
}

/// Goal: connections of HTTP/2 and TLS never reach tiny_http. They are closed soon, cost nothing for
/// good, and others are served meanwhile.
#[test]
fn foreign_protocols_cost_nothing_for_good() {
    const EACH: usize = 100;
    let node = Node::start(WIDE);
    let foreign: [&[u8]; 2] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03and so on, and so on",
    ];
    let mut clients: Vec<Wire> = (0..2 * EACH).map(|_| node.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(foreign[number % 2]);
    }
    node.assert_alive();
    clients.iter_mut().for_each(Wire::assert_closed);
    node.wait_for_stats("all are counted, and none is lost", |stats| {
        (stats.foreign, stats.stuck) == (2 * EACH as u64, 0)
    });
    node.assert_alive();
    assert_eq!(node.begun(), ["GET /hello", "GET /hello"]);
}

/// Goal: a client that keeps a silent connection alive by the system's probes is no foreign one.
#[test]
fn a_kept_silent_connection_is_not_foreign() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    let probes = socket2::TcpKeepalive::new().with_time(Duration::from_secs(1));
    let socket = socket2::SockRef::from(&client.stream);
    socket.set_tcp_keepalive(&probes.with_interval(Duration::from_secs(1))).unwrap();
    // The system sends the first probe after a second, and no earlier.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(node.server.stats().foreign, 0);
    assert_eq!(client.get("/hello").status, 200);
}

/// Goal: a body beside an offer to upgrade, however short, is one that is being received.
#[test]
fn a_short_body_beside_an_upgrade_is_cut_off() {
    let node = Node::start(SHORT);
    let mut client = node.connect();
    let head = "POST /trickled HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n";
    client.send(format!("{head}Content-Length: 1000\r\n\r\n"));
    let start = Instant::now();
    while client.send_if_open(" ") {
        assert!(start.elapsed() < DEADLINE, "it is still received");
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(node.begun().is_empty(), "{:?}", node.begun());
}
