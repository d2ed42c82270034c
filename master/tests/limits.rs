//! How long a message may be, and what is said beyond that.

mod support;

use serde_json::json;
use support::at_once;
use support::cluster::Cluster;
use support::node::Node;

#[test]
fn only_messages_up_to_the_limit_are_accepted() {
    // Goal: a body of MAX_MESSAGE_BYTES is accepted and replicated, one byte more gets 413 and is
    // in no log, whatever the limit and however the length is told.
    let around = |limit: usize| {
        let limit_text = limit.to_string();
        let settings = [("MAX_MESSAGE_BYTES", limit_text.as_str())];
        let cluster = Cluster::start(&[&settings], &settings);
        let room = limit - r#"{"msg":""}"#.len();
        let sizes = [room, 1024.min(room), 1, 32 * 1024, 64 * 1024, room - 1, room];
        let sizes: Vec<_> = sizes.into_iter().filter(|size| *size <= room).collect();
        for size in &sizes {
            let body = json!({ "msg": "x".repeat(*size) }).to_string();
            let headers = ["Prefer: return=minimal"];
            let answer = cluster.master.connect().try_send("POST", "/messages", &headers, &body);
            assert_eq!(answer.unwrap().status, 201, "{size} of {limit}");
        }
        let too_large = json!({ "msg": "x".repeat(room + 1) }).to_string();
        let answer = cluster.master.send("POST", "/messages", &too_large);
        let expected =
            format!(r#"{{"error":"The body is larger than {limit} bytes","stored":false}}"#);
        assert_eq!(answer.seen(), (413, expected.as_str()));
        let logs = cluster.logs();
        assert_eq!(logs[0].iter().map(String::len).collect::<Vec<_>>(), sizes);
        assert!(logs[1] == logs[0], "the copies differ at the limit {limit}");
    };
    around(1 << 20);
    around(2000);
    around(3 << 20);
}

#[test]
fn a_body_announced_too_large_is_refused_unread() {
    // Goal: 413 without reading the rest, and without waiting for it.
    let master = Node::master(&[], &[]);
    let mut connection = master.connect();
    let head =
        "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{\"msg\":\"";
    connection.write(head.as_bytes()).unwrap();
    let answer = connection.read(false).unwrap();
    let expected = r#"{"error":"The body is larger than 1048576 bytes","stored":false}"#;
    assert_eq!(answer.seen(), (413, expected));
    assert_eq!(master.log(), [""; 0]);
    assert_eq!(master.post_message("next").status, 201);
}

#[test]
fn a_burst_of_large_messages_is_served() {
    // Goal: their bytes wait in the sockets of a busy node for a while. That is no flood, and no
    // reason to close a connection.
    let master = Node::master(&[], &[]);
    let large = "x".repeat(300_000);
    at_once(48, |client| {
        let mut connection = master.connect();
        for number in 0..2 {
            let answer = connection.post_message_briefly(&format!("{client}:{number}:{large}"));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    assert_eq!(master.health()["count"], 96);
}
