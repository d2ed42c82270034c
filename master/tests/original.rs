//! Side by side with the original: its secondary behind our master, its master in front of our
//! secondary.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use serde_json::json;
use support::cluster::assert_each_once;
use support::fake::{Fake, healthy, original, respond};
use support::node::Node;
use support::{SOON, at_once, wait_until};

#[test]
fn an_original_secondary_behind_our_master_is_served() {
    // Goal: it knows no places and no batches. It gets one entry per call, in the master's order,
    // also when eight clients write at once, a later call would overtake an earlier one, and
    // beside a secondary of ours.
    let (fake, log) = original(&[25, 0, 0]);
    let ours = Node::secondary(&[]);
    let master = Node::master(&[&fake.url(), &ours.url()], &[("HEARTBEAT_MS", "20")]);
    for message in ["first", "", "third"] {
        let answer = master.post_message(message);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.json()["acks"][0], json!({ "secondary": fake.url(), "ack": "ok" }));
    }
    assert_eq!(*log.lock().unwrap(), ["first", "", "third"]);
    at_once(8, |client| {
        let mut connection = master.connect();
        for number in 0..20 {
            let answer = connection.post_message(&format!("{client}:{number}"));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    assert_eq!(*log.lock().unwrap(), master.log());
    assert_eq!(ours.log(), master.log());
    let calls: Vec<_> = fake.received().into_iter().filter(|r| r.is_replicate()).collect();
    assert_eq!(calls.len(), 163);
    assert!(calls.iter().all(|call| call.json()["msg"].is_string()), "a call without msg");
}

#[test]
fn a_healthy_original_stays_healthy() {
    // Goal: an original that is well answers 404 to a heartbeat of ours, which it has never heard
    // of. That is no sign of trouble.
    let (fake, _) = original(&[0]);
    let settings = [("HEARTBEAT_MS", "10"), ("SUSPECTED_AFTER", "1"), ("UNHEALTHY_AFTER", "2")];
    let master = Node::master(&[&fake.url()], &settings);
    wait_until("asked how it is", SOON, || {
        let asked = fake.received().iter().filter(|r| r.what == "GET /health").count();
        if asked >= 5 { Ok(()) } else { Err(asked) }
    });
    let status = &master.health()["secondary_statuses"][fake.url()];
    assert_eq!((&status["status"], &status["last_error"]), (&json!("Healthy"), &json!(null)));
}

#[test]
fn the_shortest_ack_of_an_original_is_enough() {
    // Goal: the README of the original promises `{"status":"ok"}` and no more.
    let fake = Fake::answering(200, r#"{"status":"ok"}"#);
    let master = Node::master(&[&fake.url()], &[]);
    for _ in 0..3 {
        let answer = master.post_message("m");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

#[test]
fn an_original_that_fails_once_is_served_again() {
    // Goal: the message that it did not take costs a 502, and the next one is acknowledged.
    let failing = AtomicBool::new(true);
    let fake = Fake::start(move |request, stream| {
        if !request.is_replicate() {
            return healthy(request, 0, stream);
        }
        match failing.swap(false, SeqCst) {
            true => respond(stream, 500, "Internal Server Error"),
            false => respond(stream, 200, r#"{"status":"ok","idx":0}"#),
        }
    });
    let master = Node::master(&[&fake.url()], &[]);
    assert_eq!(master.post_message("m1").status, 502);
    let answer = master.post_message("m2");
    assert_eq!(answer.seen().0, 201, "{}", answer.text());
    assert_eq!(master.log(), ["m1", "m2"]);
}

#[test]
fn an_original_master_of_our_secondary_is_served() {
    // Goal: eight threads of an original master post `{"msg":…}` at once; each gets a place of its
    // own, the message is there, and the delay is kept.
    let delay = Duration::from_millis(20);
    let secondary = Node::secondary(&[("DELAY_MS", "20")]);
    let sent = at_once(8, |client| {
        let mut connection = secondary.connect();
        let headers = ["Content-Type: application/json", "Accept: */*", "Connection: keep-alive"];
        let mut sent = Vec::new();
        for number in 0..20 {
            let message = format!("{client}:{number}");
            let body = json!({ "msg": message }).to_string();
            let answer = connection.try_send("POST", "/replicate", &headers, &body).unwrap();
            assert!(answer.took >= delay, "{:?}", answer.took);
            let idx = answer.json()["idx"].as_u64().unwrap();
            let expected = format!(r#"{{"status":"ok","idx":{idx}}}"#);
            assert_eq!(answer.seen(), (200, expected.as_str()));
            sent.push((usize::try_from(idx).unwrap(), message));
        }
        sent
    });
    let (log, sent) = (secondary.log(), sent.concat());
    assert_each_once(&log, &sent.iter().map(|(_, m)| m.clone()).collect::<Vec<_>>());
    for (idx, message) in sent {
        assert_eq!(log[idx], message);
    }
}
