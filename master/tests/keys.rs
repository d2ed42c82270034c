//! Promise: a message posted again with its idempotency key is not stored again.

mod support;

use serde_json::{Value, json};
use support::SOON;
use support::cluster::Cluster;
use support::http::Answer;
use support::node::Node;

fn post(master: &Node, msg: &str, key: &str) -> Answer {
    let header = format!("Idempotency-Key: {key}");
    let body = json!({ "msg": msg }).to_string();
    master.connect().try_send("POST", "/messages", &[&header], &body).expect("an answer")
}

fn seen(answer: &Answer) -> (u16, Value, Value) {
    let body = answer.json();
    (answer.status, body["seq"].clone(), body["duplicate"].clone())
}

#[test]
fn a_known_key_is_answered_with_its_entry() {
    // Goal: the message is in the log once, however often it is sent; another message under the key
    // is 422.
    let cluster = Cluster::start(&[&[]], &[]);
    assert_eq!(seen(&post(&cluster.master, "a", "k")), (201, json!(1), Value::Null));
    assert_eq!(seen(&post(&cluster.master, "a", "k")), (201, json!(1), json!(true)));
    assert_eq!(seen(&post(&cluster.master, "b", "k")), (422, json!(1), Value::Null));
    assert_eq!(seen(&post(&cluster.master, "b", "l")), (201, json!(2), Value::Null));
    assert_eq!(cluster.wait_until_equal(SOON).0, ["a", "b"]);
}

#[test]
fn a_key_is_1_to_255_visible_characters() {
    // Goal: anything else is refused, and nothing is stored.
    let master = Node::master(&[], &[]);
    assert_eq!(post(&master, "a", &"k".repeat(255)).status, 201);
    for bad in [String::new(), "k".repeat(256), "a b".into(), "a\tb".into()] {
        let answer = post(&master, "a", &bad);
        let body = answer.json();
        assert_eq!((answer.status, &body["stored"]), (400, &json!(false)), "{bad:?}: {body}");
    }
    assert_eq!(master.log(), ["a"]);
}

#[test]
fn keys_survive_a_restart_of_the_master() {
    // Goal: keys travel with their entries and come back with them, in one entry and in batches.
    let mut cluster = Cluster::start(&[&[], &[]], &[("RECOVERY_TIMEOUT_MS", "5000")]);
    for number in 0..20 {
        post(&cluster.master, &format!("m{number}"), &format!("k{number}"));
    }
    cluster.master.kill();
    cluster.master.restart();
    for number in 0..20 {
        let again = post(&cluster.master, &format!("m{number}"), &format!("k{number}"));
        assert_eq!(seen(&again), (201, json!(number + 1), json!(true)));
    }
    assert_eq!(cluster.wait_until_equal(SOON).0.len(), 20);
}

#[test]
fn only_the_last_keys_are_kept() {
    // Goal: the limit is what the settings say; beyond it a retry is a new message.
    let master = Node::master(&[], &[("IDEMPOTENCY_KEYS", "2")]);
    for key in ["a", "b", "c"] {
        post(&master, "m", key);
    }
    assert_eq!(seen(&post(&master, "m", "b")), (201, json!(2), json!(true)));
    assert_eq!(seen(&post(&master, "m", "a")), (201, json!(4), Value::Null));
}
