//! How long a message may be, how many clients may wait, and what is said beyond that.

mod support;

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::http::Connection;
use support::node::Node;
use support::{SOON, at_once, wait_until};

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

#[test]
fn waiting_clients_leave_room_for_others() {
    // Goal: both secondaries are frozen, and clients that wait have taken every place. A message that
    // nobody else is to hold is stored, the node says how it is, a master is heard; others get 503.
    // Clients that have gone leave their places, and their entries stay.
    let cluster = Cluster::start(&[&[], &[]], &[("MAX_IN_FLIGHT", "8")]);
    cluster.wait_until_ready();
    cluster.secondaries.iter().for_each(Node::freeze);
    let post = |body: &Value| {
        let mut connection = cluster.master.connect();
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "POST /messages HTTP/1.1\r\nHost: x\r\nPrefer: return=minimal\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        connection.write(request.as_bytes()).expect("it is open");
        connection
    };
    let endless = json!({ "msg": "endless", "w": 2, "wtimeout": 0 });
    let long = json!({ "msg": "long", "w": 2, "wtimeout": 60_000 });
    // A request that was answered may count for a moment more: who is refused for it comes again.
    let take_places = |places: usize, body: &Value| {
        let stored = || cluster.master.get("/health").json()["count"].as_u64().unwrap_or_default();
        let (mut waiting, before) = (Vec::new(), stored());
        wait_until("so many wait", SOON, || {
            waiting.retain(|connection: &Connection| !connection.is_answered());
            waiting.extend((waiting.len()..places).map(|_| post(body)));
            let stored = stored();
            if stored == before + places as u64 { Ok(()) } else { Err(stored) }
        });
        waiting
    };
    let endless_ones = take_places(4, &endless);
    assert_eq!(post(&endless).read(false).unwrap().status, 503, "half of the places are for them");
    let long_ones = take_places(4, &long);
    let refused = post(&long).read(false).unwrap();
    let expected = r#"{"error":"Too many requests in progress","stored":false}"#;
    assert_eq!(refused.seen(), (503, expected));
    assert_eq!(post(&json!({ "msg": "alone", "w": 1 })).read(false).unwrap().status, 201);
    assert_eq!(cluster.master.get("/health").json()["count"], 9);
    assert_eq!(cluster.master.get("/messages").status, 503, "it may take long to read");
    drop((endless_ones, long_ones));
    // Those whose calls are still out hold their places until these end.
    wait_until("all are given up", SOON, || {
        let lines = cluster.master.printed();
        let count = lines.iter().filter(|line| line.contains("the client has ended")).count();
        if count == 8 { Ok(()) } else { Err(count) }
    });
    let messages = cluster.master.get("/messages?committed=false").json()["messages"].clone();
    assert_eq!(messages.as_array().map(Vec::len), Some(9), "{messages}");
}
