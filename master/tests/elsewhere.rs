//! A secondary takes no messages: it leads a client to the master that it hears.

mod support;

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::http::Answer;
use support::node::Node;
use support::{SOON, wait_until};

const MESSAGE: &str = r#"{"msg":"m1"}"#;

fn expect_not_now(answer: &Answer, detail: &str) {
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    assert_eq!(answer.header("Location"), None);
    let expected = json!({
        "error": "a secondary takes no messages", "detail": detail,
        "stored": false, "master": null,
    });
    assert_eq!(answer.json(), expected);
}

#[test]
fn a_secondary_leads_to_its_master() {
    let cluster = Cluster::start(&[&[]], &[]);
    let secondary = &cluster.secondaries[0];
    let answer = wait_until("led to the master", SOON, || {
        let answer = secondary.send("POST", "/messages", MESSAGE);
        if answer.status == 307 { Ok(answer) } else { Err(answer.text().to_string()) }
    });
    let place = format!("{}/messages", cluster.master.url());
    assert_eq!(answer.header("Location"), Some(place.as_str()));
    let body = answer.json();
    assert_eq!((&body["stored"], &body["master"]), (&json!(false), &json!(cluster.master.url())));
    cluster.wait_until_ready();
    assert!(cluster.master.log().is_empty(), "it was not passed on");
    assert_eq!(cluster.master.send("POST", "/messages", MESSAGE).status, 201);
}

#[test]
fn without_a_master_a_secondary_says_when() {
    // Goal: no Location that leads nowhere, whatever a heartbeat says.
    let secondary = Node::secondary(&[]);
    let post = || secondary.send("POST", "/messages", MESSAGE);
    expect_not_now(&post(), "no master is heard");
    let hear = |more: Value| {
        let mut heartbeat = json!({ "epoch": 5, "last_seq": 0, "committed_seq": 0 });
        heartbeat.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(secondary.send("POST", "/heartbeat", &heartbeat.to_string()).status, 200);
    };
    hear(json!({}));
    expect_not_now(&post(), "the master gives no URL");
    hear(json!({ "url": "http://m:1\r\nSet-Cookie: a=b" }));
    expect_not_now(&post(), "the master gives no URL");
    hear(json!({ "url": "http://m:1/" }));
    assert_eq!(post().header("Location"), Some("http://m:1/messages"));
    hear(json!({ "url": "http://m:1", "abdicates": true }));
    expect_not_now(&post(), "no master is heard");
}

#[test]
fn a_promise_leads_no_client_away() {
    // Goal: a master that was promised a reign, and has not begun it, may never do so.
    let secondary = Node::secondary(&[]);
    let master = format!("{:032x}", 7);
    let promise =
        json!({ "epoch": 1_u64 << 50, "master": master, "url": "http://m:1", "takeover": true });
    let promised = secondary.send("POST", "/promise", &promise.to_string());
    expect_not_now(&secondary.send("POST", "/messages", MESSAGE), "no master is heard");
    let hears = json!({ "master": master, "url": "http://m:1", "is_candidate": true });
    assert_eq!(promised.json()["hears"], hears);
}
