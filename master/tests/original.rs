//! Side by side with the original, with secondaries written from its README, and with its later
//! version: secondaries behind our master, masters in front of our secondary.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use serde_json::{Value, json};
use support::cluster::assert_each_once;
use support::fake::{Fake, healthy, respond};
use support::node::{Node, Port};
use support::originals::{self, Manner, Original};
use support::{SOON, at_once, wait_until};

/// A master that begins when each secondary has answered, or never.
const PATIENT: (&str, &str) = ("RECOVERY_TIMEOUT_MS", "0");

/// What the master says of a secondary.
fn status(master: &Node, url: &str) -> Value {
    master.health()["secondary_statuses"][url].clone()
}

/// Waits until the master says this of a secondary.
fn wait_for_status(master: &Node, url: &str, field: &str, expected: &Value) {
    wait_until(&format!("{field} {expected}"), SOON, || match status(master, url) {
        status if status[field] == *expected => Ok(()),
        status => Err(status),
    });
}

/// Waits until the master has asked an original how it is, after all that has happened so far.
fn wait_for_count(original: &Original) {
    let before = original.count("GET /health");
    wait_until("asked how it is", SOON, || match original.count("GET /health") {
        // The first of these may have been asked before.
        now if now >= before + 3 => Ok(()),
        now => Err(now),
    });
}

#[test]
fn an_original_secondary_behind_our_master_is_served() {
    // Goal: it knows no places and no batches. It gets one entry per call, in the master's order,
    // also when eight clients write at once, a later call would overtake an earlier one, and
    // beside a secondary of ours.
    let original = Original::start(&[25, 0, 0]);
    let ours = Node::secondary(&[]);
    let master = Node::master(&[&original.url(), &ours.url()], &[("HEARTBEAT_MS", "20")]);
    for message in ["first", "", "third"] {
        let answer = master.post_message(message);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.json()["acks"][0], json!({ "secondary": original.url(), "ack": "ok" }));
    }
    assert_eq!(original.log(), ["first", "", "third"]);
    at_once(8, |client| {
        let mut connection = master.connect();
        for number in 0..20 {
            let answer = connection.post_message(&format!("{client}:{number}"));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    assert_eq!(original.log(), master.log());
    assert_eq!(ours.log(), master.log());
    assert_eq!(status(&master, &original.url())["diverged"], false);
    let calls: Vec<_> = original.fake.received().into_iter().filter(|r| r.is_replicate()).collect();
    assert_eq!(calls.len(), 163);
    assert!(calls.iter().all(|call| call.json()["msg"].is_string()), "a call without msg");
}

#[test]
fn a_healthy_original_stays_healthy() {
    // Goal: an original that is well answers 404 to a heartbeat of ours, which it has never heard
    // of. That is no sign of trouble.
    let original = Original::start(&[0]);
    let settings = [("HEARTBEAT_MS", "10"), ("SUSPECTED_AFTER", "1"), ("UNHEALTHY_AFTER", "2")];
    let master = Node::master(&[&original.url()], &settings);
    wait_for_count(&original);
    wait_for_count(&original);
    let status = status(&master, &original.url());
    assert_eq!((&status["status"], &status["last_error"]), (&json!("Healthy"), &json!(null)));
}

#[test]
fn whoever_answers_http_is_there() {
    // Goal: the README of the original promises `POST /replicate` with the ack `{"status":"ok"}` and
    // `GET /messages`, and no more. Such a secondary counts for a quorum, whatever else it answers,
    // and the first reign begins as soon as it has answered.
    fn health(what: &str, health: Value) -> Option<Value> {
        (what == "GET /health").then_some(health)
    }
    let manners: [(&str, Manner); 5] = [
        ("nothing else", originals::readme),
        ("no log", |what, log| originals::readme(what, log).filter(|_| what != "GET /messages")),
        ("no delay_ms", |what, log| {
            let told = json!({ "status": "ok", "count": log.len() });
            health(what, told).or_else(|| originals::readme(what, log))
        }),
        ("other JSON", |what, log| {
            health(what, json!(["up"])).or_else(|| originals::readme(what, log))
        }),
        ("the same to all", |_, _| Some(json!({ "status": "ok" }))),
    ];
    for (name, manner) in manners {
        let secondary = Original::with(&[0], manner);
        let settings = [PATIENT, ("QUORUM", "2"), ("HEARTBEAT_MS", "20")];
        let master = Node::master(&[&secondary.url()], &settings);
        wait_for_status(&master, &secondary.url(), "status", &json!("Healthy"));
        for message in ["m1", "m2"] {
            let answer = master.post_message(message);
            assert_eq!(answer.status, 201, "{name}: {}", answer.text());
        }
        assert_eq!(secondary.log(), ["m1", "m2"], "{name}");
        let status = status(&master, &secondary.url());
        assert_eq!((&status["status"], &status["diverged"]), (&json!("Healthy"), &json!(false)));
    }
}

#[test]
fn refusals_and_dead_proxies_are_nobody() {
    // Goal: 401 is from a node that does not know this master, and 502 from a proxy with nobody
    // behind it. Neither counts for a quorum, and the error says what came.
    let (ours, good) = (Node::secondary(&[("CLUSTER_TOKEN", "of-nodes")]), Node::secondary(&[]));
    let proxy = Fake::start(|_, stream| respond(stream, 502, "<h1>Bad Gateway</h1>"));
    let urls = [ours.url(), proxy.url(), good.url()];
    let urls = urls.each_ref().map(String::as_str);
    let master = Node::master(&urls, &[("QUORUM", "3"), ("HEARTBEAT_MS", "20")]);
    for (url, error) in urls.iter().zip([401, 502]) {
        let error = json!(format!("answered {error} to a heartbeat"));
        wait_for_status(&master, url, "last_error", &error);
        assert_eq!(status(&master, url)["status"], "Unhealthy");
    }
    let answer = master.post_message("m");
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[test]
fn the_first_post_waits_for_nobody_who_refuses() {
    // Goal: a secondary whose port is closed, or whose name nobody has, has answered: the first reign
    // of a cluster begins at once, whoever the others are.
    let refuses = Port::reserve(0).url();
    let (ours, original) = (Node::secondary(&[]), Original::start(&[0]));
    let readme = Original::with(&[0], originals::readme);
    let (ours, original, readme) = (ours.url(), original.url(), readme.url());
    let nobody = "http://nobody.invalid:8001";
    let clusters: [&[&str]; 5] = [
        &[&refuses],
        &[&refuses, &ours],
        &[&original, &refuses],
        &[&readme, &refuses],
        &[nobody, &refuses],
    ];
    for urls in clusters {
        for (body, status) in [(r#"{"msg":"m","w":1}"#, 201), (r#"{"msg":"m"}"#, 502)] {
            // A secondary that has followed a master waits for its successor's promises.
            if status == 201 && urls.contains(&ours.as_str()) {
                continue;
            }
            let master = Node::master(urls, &[PATIENT]);
            let answer = master.send("POST", "/messages", body);
            assert_eq!(answer.status, status, "{urls:?}: {}", answer.text());
            println!("{urls:?} {body} {status} in {:?}", answer.took);
            assert!(answer.took < Duration::from_secs(4), "{urls:?}: {:?}", answer.took);
        }
    }
}

#[test]
fn an_original_that_was_restarted_is_levelled() {
    // Goal: it holds nothing any more, says so, and is sent the log again without a POST, one entry
    // a call. Until then the master shows what it lacks.
    let original = Original::start(&[0]);
    let url = original.url();
    let master = Node::master(&[&url], &[("HEARTBEAT_MS", "20")]);
    for message in ["m1", "m2", "m3"] {
        assert_eq!(master.post_message(message).status, 201);
    }
    wait_for_count(&original);
    original.refuse(true);
    original.forget();
    wait_for_status(&master, &url, "lag_entries", &json!(3));
    original.refuse(false);
    wait_for_status(&master, &url, "lag_entries", &json!(0));
    assert_eq!(original.log(), ["m1", "m2", "m3"]);
    assert_eq!(master.post_message("m4").status, 201);
    assert_eq!(original.log(), master.log());
}

#[test]
fn a_readme_secondary_is_counted_after_a_failure() {
    // Goal: it tells no count. Its log is read when a call has failed, and only then.
    let secondary = Original::with(&[0], originals::readme);
    let master = Node::master(&[&secondary.url()], &[("HEARTBEAT_MS", "20")]);
    for message in ["m1", "m2"] {
        assert_eq!(master.post_message(message).status, 201);
    }
    wait_for_count(&secondary);
    let read = secondary.count("GET /messages");
    wait_for_count(&secondary);
    assert_eq!(secondary.count("GET /messages"), read, "its log is read all the time");
    secondary.refuse(true);
    assert_eq!(master.post_message("m3").status, 502);
    secondary.forget();
    wait_for_status(&master, &secondary.url(), "lag_entries", &json!(3));
    secondary.refuse(false);
    let answer = master.post_message("m4");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(secondary.log(), ["m1", "m2", "m3", "m4"]);
}

#[test]
fn an_original_that_failed_is_counted_first() {
    // Goal: it was restarted after a call to it had failed, and no heartbeat has told so. The next
    // entry would take the place of the first one there.
    let original = Original::start(&[0]);
    let master = Node::master(&[&original.url()], &[("HEARTBEAT_MS", "60000")]);
    for message in ["m1", "m2"] {
        assert_eq!(master.post_message(message).status, 201);
    }
    original.refuse(true);
    assert_eq!(master.post_message("m3").status, 502);
    original.forget();
    wait_for_status(&master, &original.url(), "lag_entries", &json!(3));
    original.refuse(false);
    let answer = master.post_message("m4");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(original.log(), ["m1", "m2", "m3", "m4"]);
}

#[test]
fn a_slow_original_gets_each_entry_once() {
    // Goal: it takes longer than ACK_TIMEOUT_MS, so no call is acknowledged. Its count says that the
    // entry has come.
    let original = Original::start(&[700]);
    let settings = [("HEARTBEAT_MS", "20"), ("ACK_TIMEOUT_MS", "500")];
    let master = Node::master(&[&original.url()], &settings);
    for message in ["m1", "m2", "m3"] {
        assert_eq!(master.post_message(message).status, 502);
    }
    wait_for_status(&master, &original.url(), "acked_seq", &json!(3));
    assert_eq!(status(&master, &original.url())["last_error"], json!(null));
    assert_eq!(original.log(), ["m1", "m2", "m3"]);
    assert_eq!(original.count("POST /replicate"), 3);
}

#[test]
fn an_original_that_holds_something_else_says_so() {
    // Goal: somebody else has written to it. It is shown as diverged, takes new entries still, and is
    // levelled when it has been restarted.
    let original = Original::start(&[0]);
    original.append("alien");
    let url = original.url();
    let master = Node::master(&[&url], &[("HEARTBEAT_MS", "20")]);
    let answer = master.post_message("m1");
    assert_eq!(answer.status, 201, "{}", answer.text());
    wait_for_status(&master, &url, "diverged", &json!(true));
    wait_for_count(&original);
    assert_eq!(original.log(), ["alien", "m1"]);
    original.forget();
    wait_for_status(&master, &url, "diverged", &json!(false));
    wait_for_status(&master, &url, "lag_entries", &json!(0));
    assert_eq!(original.log(), ["m1"]);
}

#[test]
fn the_later_version_behind_our_master_is_served() {
    // Goal: it acknowledges with the place of the entry, and nothing else.
    let (later, log) = originals::later();
    let master = Node::master(&[&later.url()], &[("HEARTBEAT_MS", "20")]);
    at_once(8, |client| {
        let mut connection = master.connect();
        for number in 0..5 {
            let answer = connection.post_message(&format!("{client}:{number}"));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    let held: Vec<String> = log.lock().unwrap().values().cloned().collect();
    assert_eq!(held, master.log());
    assert_eq!(status(&master, &later.url())["diverged"], false);
}

#[test]
fn a_later_master_of_our_secondary_is_refused() {
    // Goal: it numbers entries and sends them in any order, and knows no reigns. Each call is refused
    // at once, with a reason, and nothing of it is stored.
    let secondary = Node::secondary(&[]);
    at_once(8, |client| {
        let body = json!({ "msg": "m", "seq": client }).to_string();
        let answer = secondary.send("POST", "/replicate", &body);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("needs the epoch of its master"), "{}", answer.text());
    });
    assert_eq!(secondary.log(), [""; 0]);
    assert_eq!(secondary.send("POST", "/replicate", r#"{"msg":"m"}"#).status, 200);
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
