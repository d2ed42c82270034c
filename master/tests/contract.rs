//! The contract of the original, to the letter: statuses, bodies and headers that its clients
//! know. A client of the original must not notice that another program answers.

mod support;

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::http::Answer;
use support::node::Node;

/// Passes if this is the original's refusal, with what is wrong.
fn assert_expects_msg(answer: &Answer, what: &str) {
    let body = answer.json();
    assert_eq!((answer.status, &body["stored"]), (400, &json!(false)), "{what}: {body}");
    assert_eq!(body["error"], "Expected JSON with string field 'msg'", "{what}");
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {body}");
}

#[test]
fn a_201_shows_the_acks_and_the_log() {
    // Goal: the 201 is the original's, field by field and in its order, with ours behind them.
    let cluster = Cluster::start(&[&[], &[]], &[]);
    let ack = |node: &Node| format!(r#"{{"secondary":"{}","ack":"ok"}}"#, node.url());
    let acks = cluster.secondaries.iter().map(ack).collect::<Vec<_>>().join(",");
    let mut connection = cluster.master.connect();
    for (seq, messages) in [(1, r#""first""#), (2, r#""first","second""#)] {
        let body = format!(r#"{{"msg":"{}"}}"#, ["first", "second"][seq - 1]);
        let answer = connection.send("POST", "/messages", &body);
        let duration_ms = answer.json()["duration_ms"].as_u64().expect("a number");
        let log_and_acks = format!(r#""messages":[{messages}],"acks":[{acks}]"#);
        let expected =
            format!(r#"{{{log_and_acks},"duration_ms":{duration_ms},"w":3,"seq":{seq}}}"#);
        assert_eq!(answer.seen(), (201, expected.as_str()));
        assert_eq!(answer.header("Location"), Some(format!("/messages/{seq}").as_str()));
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert!(u128::from(duration_ms) <= answer.took.as_millis(), "{answer:?}");
    }
    for node in cluster.nodes() {
        let answer = node.get("/messages");
        assert_eq!(answer.seen(), (200, r#"{"messages":["first","second"]}"#));
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert_eq!(node.get("/messages/2").seen(), (200, r#"{"seq":2,"msg":"second"}"#));
    }
}

#[test]
fn a_master_without_secondaries_acknowledges_by_itself() {
    // Goal: SECONDARIES is empty by default, and then a POST waits for nobody.
    let master = Node::master(&[], &[]);
    assert_eq!(master.log(), [""; 0]);
    let answer = master.post_message("alone");
    let duration_ms = &answer.json()["duration_ms"];
    let expected =
        format!(r#"{{"messages":["alone"],"acks":[],"duration_ms":{duration_ms},"w":1,"seq":1}}"#);
    assert_eq!(answer.seen(), (201, expected.as_str()));
    assert_eq!(master.health()["secondaries"], json!([]));
}

#[test]
fn a_secondary_takes_what_an_original_master_sends() {
    // Goal: `POST /replicate` without a place appends and answers exactly what the original did.
    let secondary = Node::secondary(&[]);
    for (idx, message) in ["a", "", "a"].iter().enumerate() {
        let answer = secondary.send("POST", "/replicate", &json!({ "msg": message }).to_string());
        assert_eq!(answer.seen(), (200, format!(r#"{{"status":"ok","idx":{idx}}}"#).as_str()));
    }
    assert_eq!(secondary.get("/messages").seen(), (200, r#"{"messages":["a","","a"]}"#));
}

#[test]
fn health_has_the_fields_of_the_original() {
    // Goal: its fields are there, with its names and values; more are welcome.
    let cluster = Cluster::start(&[&[("DELAY_MS", "30")], &[]], &[]);
    cluster.post("one");
    let health = cluster.master.health();
    let urls: Vec<_> = cluster.secondaries.iter().map(Node::url).collect();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["secondaries"], json!(urls));
    assert_eq!(health["count"], 1);
    for (secondary, delay_ms) in cluster.secondaries.iter().zip([30, 0]) {
        let health = secondary.health();
        assert_eq!(health["status"], "ok");
        assert_eq!(health["count"], 1);
        assert_eq!(health["delay_ms"], delay_ms);
    }
}

#[test]
fn a_body_without_a_string_msg_changes_nothing() {
    // Goal: everything that is no JSON object with a string `msg` gets the original's 400, from
    // both roles, on a connection that goes on working, and is in no log.
    let cluster = Cluster::start(&[&[]], &[]);
    let bad = [
        "",
        " ",
        "x",
        "{",
        "null",
        "1",
        r#""msg""#,
        "[]",
        r#"["x"]"#,
        r#"[{"msg":"x"}]"#,
        "{}",
        r#"{"message":"x"}"#,
        r#"{"MSG":"x"}"#,
        r#"{"msg":null}"#,
        r#"{"msg":1}"#,
        r#"{"msg":true}"#,
        r#"{"msg":["x"]}"#,
        r#"{"msg":{"msg":"x"}}"#,
        r#"{"msg":"x"} y"#,
        r#"{"msg":"x"}{"msg":"y"}"#,
        r#"{"msg":"x",}"#,
        r#"{'msg':'x'}"#,
        r#"{"msg":"x"#,
        "{\"msg\":\"a\nb\"}",
        r#"{"msg":"\ud800"}"#,
        r#"{"msg":"\x41"}"#,
        "msg=x",
    ];
    let places = [(&cluster.master, "/messages"), (&cluster.secondaries[0], "/replicate")];
    for (node, path) in places {
        let mut connection = node.connect();
        for body in bad {
            let answer = connection.send("POST", path, body);
            let beginning: String = body.chars().take(40).collect();
            assert_expects_msg(&answer, &format!("for {beginning} to {path}"));
        }
        let not_utf8 =
            b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n{\"msg\":\"\xff\"}";
        let not_utf8: Vec<u8> = match path {
            "/messages" => not_utf8.to_vec(),
            _ => [b"POST /replicate", &not_utf8[b"POST /messages".len()..]].concat(),
        };
        connection.write(&not_utf8).unwrap();
        let answer = connection.read(false).unwrap();
        assert_expects_msg(&answer, path);
        assert_eq!(answer.json()["detail"], "the body is no UTF-8 at byte 9");
        assert_eq!(node.health()["count"], 0);
    }
    cluster.post("good");
    assert_eq!(cluster.logs(), [["good"], ["good"]]);
}

#[test]
fn any_content_type_and_further_fields_are_accepted() {
    // Goal: what counts is the body. The original parses it whatever it is called.
    let master = Node::master(&[], &[]);
    let types = ["application/json", "text/plain", "application/x-www-form-urlencoded", "?", ""];
    let mut connection = master.connect();
    for (number, content_type) in types.iter().enumerate() {
        let body = format!(r#" {{ "further" : {{"msg":[1]}}, "msg" : "m{number}" }} "#);
        let header = format!("Content-Type: {content_type}");
        let answer = connection.try_send("POST", "/messages", &[&header], &body).unwrap();
        assert_eq!(answer.status, 201, "{content_type}: {}", answer.text());
    }
    let none = connection.send("POST", "/messages", r#"{"msg":"m5"}"#);
    assert_eq!(none.messages(), ["m0", "m1", "m2", "m3", "m4", "m5"]);
    // Nothing that is not looked at can do harm, however deep it is.
    let deep = format!(r#"{{"x":{}1{},"msg":"m6"}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(connection.send("POST", "/messages", &deep).seq(), 7);
}

#[test]
fn every_text_arrives_as_it_was_sent() {
    // Goal: unicode, escapes, control characters and the empty string are the same on all nodes.
    let cluster = Cluster::start(&[&[], &[]], &[]);
    let every_control: String = (0..=0x9f).filter_map(char::from_u32).collect();
    let texts = [
        "",
        " ",
        "\0",
        "naïve – 日本語 – 🦀",
        "e\u{301}",
        "\u{feff}\u{202e}",
        "\u{10ffff}",
        "\\u0041",
        "\"\\/\u{8}\u{c}\n\r\t",
        "{\"msg\":\"x\"}",
        "]},",
        "\u{2028}",
        &every_control,
    ];
    let mut connection = cluster.master.connect();
    for text in texts {
        assert_eq!(connection.post_message(text).status, 201, "{text:?}");
    }
    // Escaped as another client might do it: the same text counts, not its spelling.
    let escaped = connection.send("POST", "/messages", r#"{"msg":"\u0041\/\ud83e\udd80\u0000"}"#);
    assert_eq!(escaped.status, 201, "{}", escaped.text());
    let expected: Vec<&str> = texts.into_iter().chain(["A/🦀\0"]).collect();
    for log in cluster.logs() {
        assert_eq!(log, expected);
    }
    for (number, text) in expected.iter().enumerate() {
        let one = cluster.master.get(&format!("/messages/{}", number + 1));
        assert_eq!(one.json(), json!({ "seq": number + 1, "msg": text }));
    }
}

#[test]
fn unknown_paths_and_wrong_methods_get_json() {
    // Goal: 404 and 405 with `Allow`, and the connection goes on working.
    let cluster = Cluster::start(&[&[]], &[]);
    let (master, secondary) = (&cluster.master, &cluster.secondaries[0]);
    cluster.wait_until_ready();
    let read = "GET, HEAD";
    let wrong = [
        (master, "PUT", "/messages", "GET, HEAD, POST"),
        (master, "DELETE", "/messages", "GET, HEAD, POST"),
        (master, "PATCH", "/messages", "GET, HEAD, POST"),
        (master, "BREW", "/messages", "GET, HEAD, POST"),
        (master, "POST", "/health", read),
        (master, "DELETE", "/messages/1", read),
        (secondary, "PUT", "/messages", "GET, HEAD, POST"),
        (secondary, "POST", "/health", read),
        (secondary, "GET", "/replicate", "POST"),
        (secondary, "PUT", "/replicate", "POST"),
    ];
    for (node, method, path, allow) in wrong {
        let answer = node.send(method, path, "");
        assert_eq!(answer.seen(), (405, r#"{"error":"Method not allowed"}"#), "{method} {path}");
        assert_eq!(answer.header("Allow"), Some(&*format!("{allow}, OPTIONS")), "{method} {path}");
        let asked = node.send("OPTIONS", path, "");
        assert_eq!((asked.seen(), asked.header("Allow")), ((204, ""), answer.header("Allow")));
    }
    assert_eq!(master.send("OPTIONS", "/nowhere", "").seen(), (404, NOT_FOUND));
    for node in cluster.nodes() {
        let mut connection = node.connect();
        let unknown =
            ["/x", "/message", "/messages/", "/messages/0", "/messages/x", "/messages/1/2"];
        for path in unknown {
            let answer = connection.send("GET", path, "");
            assert_eq!(answer.status, 404, "{path}: {}", answer.text());
            assert!(answer.json()["error"].is_string(), "{path}: {}", answer.text());
        }
        assert_eq!(connection.send("POST", "/nowhere", "{}").seen(), (404, NOT_FOUND));
        assert_eq!(connection.send("GET", "/messages?x=1", "").status, 200);
    }
    assert_eq!(master.send("POST", "/replicate", r#"{"msg":"x"}"#).seen(), (404, NOT_FOUND));
}

const NOT_FOUND: &str = r#"{"error":"Not found"}"#;

#[test]
fn head_is_a_get_without_its_body() {
    // Goal: same status and headers as GET, no body, and the connection goes on working.
    let cluster = Cluster::start(&[&[]], &[]);
    cluster.post("one");
    for node in cluster.nodes() {
        let mut connection = node.connect();
        for path in ["/messages", "/messages/1", "/nowhere"] {
            let get = connection.send("GET", path, "");
            let head = connection.send("HEAD", path, "");
            assert_eq!(head.status, get.status, "{path}");
            for name in ["Content-Length", "Content-Type"] {
                assert_eq!(head.header(name), get.header(name), "{path}");
            }
        }
        assert_eq!(connection.send("HEAD", "/health", "").status, 200);
    }
}

#[test]
fn a_place_can_be_read_on_every_node() {
    // Goal: the `Location` of a 201 leads to the entry, on the master and on every copy.
    let cluster = Cluster::start(&[&[], &[]], &[]);
    for number in 1..=5 {
        let message = format!("m{number}");
        let answer = cluster.master.post_message(&message);
        let location = answer.header("Location").expect("a 201 says where the entry is");
        let expected: Value = json!({ "seq": number, "msg": message });
        for node in cluster.nodes() {
            assert_eq!(node.get(location).json(), expected, "{location} on {}", node.url());
        }
    }
}
