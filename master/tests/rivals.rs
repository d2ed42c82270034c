//! Secondaries that lie about what they hold, and masters that are not alone: nothing that is
//! not so counts as acknowledged, nothing is overwritten, and no call is repeated without end.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::fake::{Fake, ack, healthy, respond};
use support::node::Node;
use support::{SOON, wait_until};

/// A secondary that acknowledges, after `change` has changed something about it.
fn lying(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Fake {
    Fake::start(move |request, stream| {
        if !request.is_replicate() {
            return healthy(request, 0, stream);
        }
        let mut ack = ack(&request.json(), "a");
        change(&mut ack);
        respond(stream, 200, &ack.to_string())
    })
}

/// A secondary that refuses with this code and this position.
fn refusing(code: &'static str, last_seq: u64) -> Fake {
    Fake::start(move |request, stream| {
        if !request.is_replicate() {
            return healthy(request, 0, stream);
        }
        let epoch = request.json()["epoch"].clone();
        let last_epoch = if last_seq == 0 { json!(0) } else { epoch.clone() };
        let refusal = json!({
            "error": "because", "code": code,
            "last_seq": last_seq, "last_epoch": last_epoch, "epoch": epoch, "instance": "a",
        });
        respond(stream, 409, &refusal.to_string())
    })
}

/// Posts and expects a 502 with this reason, and that the entry does not count as acknowledged.
fn expect_502(fake: &Fake, reason: &str) {
    let master = Node::master(&[&fake.url()], &[]);
    let answer = master.post_message("m1");
    assert_eq!(answer.status, 502, "{}", answer.text());
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_string();
    assert!(detail.contains(reason), "expected {reason:?}: {detail:?}");
    assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
    let status = &master.health()["secondary_statuses"][&fake.url()];
    assert_eq!(status["acked_seq"], 0, "{status}");
    let calls = fake.received().iter().filter(|request| request.is_replicate()).count();
    assert!(calls <= 20, "{calls} calls");
}

#[test]
fn an_ack_of_what_is_not_held_fails() {
    // Goal: `last_seq` says what is held. An ack of entry 1 that holds nothing is a contradiction.
    let fake = lying(|ack| ack["last_seq"] = json!(0));
    expect_502(&fake, "acknowledged entry 1 and holds 0");
}

#[test]
fn an_ack_beyond_the_masters_log_fails() {
    // Goal: a secondary ahead of its master holds something else.
    expect_502(&lying(|ack| ack["last_seq"] = json!(99)), "holds 99 entries");
    expect_502(&lying(|ack| ack["last_seq"] = json!(u64::MAX)), "holds");
}

#[test]
fn an_ack_of_another_entry_fails() {
    // Goal: the last entry's epoch must be the one it was appended in.
    expect_502(&lying(|ack| ack["last_epoch"] = json!(7)), "holds another entry at 1");
}

#[test]
fn a_refusal_without_a_reason_fails() {
    // Goal: a secondary that refuses what fits, whatever reason it gives, is not asked for ever.
    expect_502(&refusing("gap", 0), "refused entry 1 and holds 0");
    expect_502(&refusing("gap", 5), "holds 5 entries");
    expect_502(&refusing("diverged", 0), "diverged: because");
}

#[test]
fn an_ack_that_is_taken_back_fails() {
    // Goal: a secondary acknowledges an entry and then says, as the same process, that it lacks it.
    // That is no gap to be filled but a broken promise: a failure, and no storm of calls.
    let first = AtomicBool::new(true);
    let fake = Fake::start(move |request, stream| {
        if !request.is_replicate() {
            return healthy(request, 0, stream);
        }
        let call = request.json();
        if first.swap(false, SeqCst) {
            return respond(stream, 200, &ack(&call, "a").to_string());
        }
        let refusal = json!({
            "error": "because", "code": "gap", "last_seq": 0, "last_epoch": 0,
            "epoch": call["epoch"], "instance": "a",
        });
        respond(stream, 409, &refusal.to_string())
    });
    let master = Node::master(&[&fake.url()], &[("ACK_TIMEOUT_MS", "1000")]);
    assert_eq!(master.post_message("m1").status, 201);
    let answer = master.post_message("m2");
    assert_eq!(answer.status, 502, "{}", answer.text());
    let calls = fake.received().iter().filter(|request| request.is_replicate()).count();
    assert!(calls <= 20, "{calls} calls for two messages");
}

#[test]
fn rubbish_instead_of_health_does_not_harm_writes() {
    // Goal: what counts for a write is the answer to its call.
    let called = AtomicBool::new(false);
    let fake = Fake::start(move |request, stream| match request.is_replicate() {
        true => {
            called.store(true, SeqCst);
            respond(stream, 200, &ack(&request.json(), "a").to_string())
        }
        false if called.load(SeqCst) => respond(stream, 200, r#"{"status":["#),
        false => healthy(request, 0, stream),
    });
    let master = Node::master(&[&fake.url()], &[("HEARTBEAT_MS", "10")]);
    for number in 1..=20 {
        let answer = master.post_message(&format!("m{number}"));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

#[test]
fn a_stray_entry_is_dropped() {
    // Goal: somebody wrote to the secondary past the master. Nobody was told by a majority that the
    // entry is stored: the next one takes its place.
    let cluster = Cluster::start(&[&[], &[("ACCEPT_ORIGINAL", "1")]], &[]);
    cluster.post("m1");
    let astray = &cluster.secondaries[1];
    let stray = astray.send("POST", "/replicate", r#"{"msg":"stray"}"#);
    assert_eq!(stray.seen(), (200, r#"{"status":"ok","idx":1}"#));
    cluster.post("m2");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
    let metrics = astray.get("/metrics");
    assert!(metrics.text().contains("entries_dropped_total 1\n"), "{}", metrics.text());
}

#[test]
fn an_ack_of_a_former_process_is_ignored() {
    // Goal: a secondary was restarted while its answer was on the way. That answer acknowledges
    // what is lost by now; the entry is sent again, and only the second ack counts.
    let state: Arc<Mutex<(usize, usize)>> = Arc::default();
    let acked_by_new = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&acked_by_new);
    let fake = Fake::start(move |request, stream| {
        let calls = {
            let mut state = state.lock().unwrap();
            let (calls, asked) = &mut *state;
            if !request.is_replicate() {
                *asked += usize::from(*calls > 0);
                // The first of these may have been asked before the call.
                let instance = if *asked > 1 { "new" } else { "old" };
                let health = json!({
                    "status": "ok", "count": 0, "delay_ms": 0,
                    "last_seq": 0, "last_epoch": 0, "epoch": 0, "instance": instance,
                });
                return respond(stream, 200, &health.to_string());
            }
            *calls += 1;
            *calls
        };
        if calls > 1 {
            // Time enough for a master that believes the first ack to answer its client.
            let asked = state.lock().unwrap().1;
            wait_until("asked ten times more", SOON, || match state.lock().unwrap().1 {
                now if now >= asked + 10 => Ok(()),
                now => Err(now),
            });
            theirs.store(true, SeqCst);
            return respond(stream, 200, &ack(&request.json(), "new").to_string());
        }
        // At the third question, the answer to the second one is known.
        wait_until("asked three times", SOON, || match state.lock().unwrap().1 {
            3.. => Ok(()),
            asked => Err(asked),
        });
        respond(stream, 200, &ack(&request.json(), "old").to_string())
    });
    let master = Node::master(&[&fake.url()], &[("HEARTBEAT_MS", "10")]);
    let answer = master.post_message("m1");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(acked_by_new.load(SeqCst), "the entry was lost and had to be sent again");
}
