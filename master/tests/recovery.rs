//! Promise: nothing accepted disappears while one node that acknowledged it lives.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::cluster::Cluster;
use support::node::Node;
use support::{SOON, unique, wait_until};

const PATIENT: &[(&str, &str)] = &[("RECOVERY_TIMEOUT_MS", "10000"), ("HEARTBEAT_MS", "50")];

#[test]
fn a_master_restarted_under_load_loses_nothing() {
    // Goal: in ten restarts it adopts what its secondaries hold and goes on numbering, and no place
    // is used twice; w=all, all in memory.
    let mut cluster = Cluster::start(&[&[], &[]], PATIENT);
    let (addr, stop) = (cluster.master.addr(), AtomicBool::new(false));
    let acknowledged: Vec<(u64, String)> = thread::scope(|scope| {
        let writer = || {
            let mut acknowledged = Vec::new();
            while !stop.load(SeqCst) {
                let Ok(mut connection) = support::http::Connection::open(addr) else { continue };
                let message = unique("m");
                let body = json!({ "msg": message }).to_string();
                let headers = ["Prefer: return=minimal"];
                while !stop.load(SeqCst) {
                    let answer = connection.try_send("POST", "/messages", &headers, &body);
                    let Ok(answer) = answer else { break };
                    if answer.status == 201 {
                        let seq = answer.json()["seq"].as_u64().expect("201 names the place");
                        acknowledged.push((seq, message.clone()));
                        break;
                    }
                }
            }
            acknowledged
        };
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(writer)).collect();
        for _ in 0..10 {
            cluster.wait_until_ready();
            let before = cluster.master.health()["last_seq"].as_u64().unwrap_or_default();
            wait_until("some more entries", SOON, || {
                let now = cluster.master.health()["last_seq"].as_u64().unwrap_or_default();
                if now > before + 25 { Ok(()) } else { Err(now) }
            });
            cluster.master.kill();
            cluster.master.restart();
        }
        stop.store(true, SeqCst);
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer failed")).collect()
    });
    let (log, _) = cluster.wait_until_equal(SOON);
    assert!(acknowledged.len() > 100, "only {} were acknowledged", acknowledged.len());
    for (seq, message) in acknowledged {
        let index = usize::try_from(seq).unwrap() - 1;
        assert_eq!(log.get(index), Some(&message), "entry {seq}");
    }
}

#[test]
fn a_starting_master_holds_writes_back() {
    // Goal: a master without a disk needs what both secondaries hold. While one of them is silent,
    // POSTs and reads are refused, for the log may be old or empty, and /ready says whom it waits
    // for.
    let mut cluster = Cluster::start(&[&[], &[]], &[("RECOVERY_TIMEOUT_MS", "1500")]);
    cluster.post("m1");
    cluster.master.kill();
    cluster.secondaries[1].freeze();
    cluster.master.restart();
    let reason = format!("no answer from {}", cluster.secondaries[1].url());
    wait_until("waiting", SOON, || match cluster.master.get("/ready").json() {
        ready if ready["reason"] == reason => Ok(()),
        ready => Err(ready.to_string()),
    });
    let hidden = format!("The log cannot be read now: {reason}");
    let queries =
        ["", "?confirmed=true", "?from=1&wait=60000", "?committed=false", "/1", "/stream"];
    for query in queries {
        let answer = cluster.master.get(&format!("/messages{query}"));
        assert_eq!((answer.status, &answer.json()["error"]), (503, &json!(hidden)), "{query}");
        assert_eq!(answer.header("Retry-After"), Some("1"), "{query}");
    }
    for path in ["/", "/health", "/metrics", "/openapi.json"] {
        assert_eq!(cluster.master.get(path).status, 200, "{path}");
    }
    assert_eq!(cluster.master.health()["reason"], reason);
    let refused = cluster.master.send("POST", "/messages", r#"{"msg":"m","w":2}"#);
    assert_eq!((refused.status, &refused.json()["stored"]), (503, &json!(false)));
    assert_eq!(refused.header("Retry-After"), Some("1"));
    cluster.secondaries[1].thaw();
    cluster.wait_until_ready();
    cluster.post("m2");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
    assert_eq!(cluster.master.get("/messages?confirmed=true").messages(), ["m1", "m2"]);
}

#[test]
fn recovery_of_any_begins_without_the_rest() {
    // Goal: an operator's way out; what the lost secondary alone holds is given up.
    let any = [("RECOVERY", "any"), ("RECOVERY_TIMEOUT_MS", "500"), ("HEARTBEAT_MS", "50")];
    let mut cluster = Cluster::start(&[&[], &[]], &any);
    cluster.post("m1");
    cluster.master.kill();
    cluster.secondaries[1].freeze();
    cluster.master.restart();
    cluster.wait_until_ready();
    let answer = cluster.master.send("POST", "/messages", r#"{"msg":"m2","w":2}"#);
    assert_eq!((answer.status, &answer.json()["seq"]), (201, &json!(2)), "{}", answer.text());
    cluster.secondaries[1].thaw();
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
}

#[test]
fn a_master_that_takes_over_fences_the_first() {
    // Goal: the second adopts the log and begins a greater epoch; the first ends its streams, stands
    // by, and sends everybody to the second.
    let cluster = Cluster::start(&[&[], &[]], PATIENT);
    cluster.post("m1");
    let mut followed = cluster.master.connect().follow("/messages/stream", &[]).unwrap();
    assert_eq!(followed.next().unwrap().0, Some(1));
    let urls: Vec<String> = cluster.secondaries.iter().map(Node::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let second = Node::usurper(&urls, PATIENT);
    let answer = second.post_message("m2");
    assert_eq!((answer.status, &answer.json()["seq"]), (201, &json!(2)), "{}", answer.text());
    wait_until("standing by", SOON, || {
        let ready = cluster.master.get("/ready");
        let expected = json!({ "status": "standby", "master": second.url() });
        if (ready.status, ready.json()) == (503, expected) {
            Ok(())
        } else {
            Err(ready.text().to_string())
        }
    });
    let sent_on = cluster.master.post_message("m3");
    assert_eq!((sent_on.status, &sent_on.json()["stored"]), (307, &json!(false)));
    let there = format!("{}/messages", second.url());
    assert_eq!(sent_on.header("Location"), Some(there.as_str()));
    assert!(followed.next().is_err(), "the stream goes on");
    for path in ["/messages", "/messages/1", "/messages/stream", "/messages?from=1&wait=60000"] {
        let answer = cluster.master.get(path);
        let there = format!("{}{path}", second.url());
        assert_eq!((answer.status, answer.header("Location")), (307, Some(there.as_str())));
    }
    assert_eq!(second.log(), ["m1", "m2"]);
}

#[test]
fn without_a_quorum_nothing_is_stored() {
    // Goal: QUORUM=majority of three; one secondary down is fine, two are not; it comes back.
    let settings = [PATIENT, &[("QUORUM", "majority")]].concat();
    let mut cluster = Cluster::start(&[&[], &[]], &settings);
    let post = |cluster: &Cluster| {
        let body = r#"{"msg":"m","w":1}"#;
        cluster.master.send("POST", "/messages", body)
    };
    cluster.secondaries[0].kill();
    assert_eq!(post(&cluster).status, 201);
    cluster.secondaries[1].kill();
    let refused = wait_until("refused", SOON, || {
        let answer = post(&cluster);
        if answer.status == 503 { Ok(answer) } else { Err(answer.text().to_string()) }
    });
    let body = refused.json();
    assert_eq!(body["error"], "no quorum, master is read-only");
    assert_eq!(body["stored"], false);
    let before = cluster.master.log().len();
    assert_eq!(post(&cluster).status, 503);
    assert_eq!(cluster.master.log().len(), before, "a refused message was appended");
    assert_eq!(cluster.master.get("/ready").status, 503);
    cluster.secondaries[1].restart();
    wait_until("accepted again", SOON, || {
        let answer = post(&cluster);
        if answer.status == 201 { Ok(()) } else { Err(answer.text().to_string()) }
    });
}

#[test]
fn ten_thousand_missed_messages_arrive_in_time() {
    // Goal: two seconds suffice, in bounded batches that are started by the heartbeat that hears of
    // the secondary again.
    let mut cluster = Cluster::start(&[&[], &[]], PATIENT);
    cluster.secondaries[1].kill();
    support::at_once(8, |_| {
        let mut connection = cluster.master.connect();
        let headers = ["Prefer: return=minimal"];
        for _ in 0..1250 {
            let body = r#"{"msg":"0123456789","w":2}"#;
            let answer = connection.try_send("POST", "/messages", &headers, body);
            assert_eq!(answer.expect("an answer").status, 201);
        }
    });
    cluster.secondaries[1].restart();
    let copy = cluster.secondaries[1].url();
    wait_until("caught up", Duration::from_secs(2), || {
        let health = cluster.master.health();
        let acked = health["secondary_statuses"][&copy]["acked_seq"].as_u64();
        if acked == Some(10_000) { Ok(()) } else { Err(format!("{acked:?}")) }
    });
    assert_eq!(cluster.wait_until_equal(SOON).0.len(), 10_000);
}

#[test]
fn every_node_reads_ranges_and_what_is_committed() {
    // Goal: ranges by place, and only what a quorum holds; a secondary knows by heartbeats.
    let cluster = Cluster::start(&[&[], &[]], PATIENT);
    (1..=5).for_each(|n| cluster.post(&format!("m{n}")));
    for node in cluster.nodes() {
        wait_until("committed", SOON, || {
            let answer = node.get("/messages?committed=true&from=2&limit=3");
            let expected = json!({ "messages": ["m2", "m3", "m4"], "from": 2, "last_seq": 5 });
            if answer.json() == expected { Ok(()) } else { Err(answer.text().to_string()) }
        });
        assert_eq!(node.get("/messages/5").json(), json!({ "seq": 5, "msg": "m5" }));
        assert_eq!(node.get("/messages?from=0").status, 400);
        assert_eq!(node.get("/ready").status, 200);
    }
}

#[test]
fn a_second_master_under_load_misses_nothing() {
    // Goal: the second has its promises before it looks at the logs, so no later 201 is left out.
    let cluster = Cluster::start(&[&[], &[]], PATIENT);
    let urls: Vec<String> = cluster.secondaries.iter().map(Node::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let (acknowledged, second) = thread::scope(|scope| {
        let writer = || {
            let (mut connection, mut acknowledged) = (cluster.master.connect(), Vec::new());
            loop {
                let message = unique("m");
                let answer = connection.post_message_briefly(&message);
                match answer.status {
                    201 => acknowledged.push((answer.seq(), message)),
                    307 | 502 | 503 => return acknowledged,
                    status => panic!("{status}: {}", answer.text()),
                }
            }
        };
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(writer)).collect();
        wait_until("some entries", SOON, || {
            let count = cluster.master.health()["count"].as_u64().unwrap_or_default();
            if count > 100 { Ok(()) } else { Err(count) }
        });
        let second = Node::usurper(&urls, PATIENT);
        let joined = writers.into_iter().flat_map(|w| w.join().expect("a writer failed"));
        (joined.collect::<Vec<_>>(), second)
    });
    let answer = second.post_message("after");
    assert_eq!(answer.status, 201, "{}", answer.text());
    let log = second.log();
    for (seq, message) in acknowledged {
        assert_eq!(log.get(seq - 1), Some(&message), "entry {seq}");
    }
}

#[test]
fn keyed_messages_are_caught_up_too() {
    // Goal: keys are part of a call's size; many short messages with long keys still fit.
    let mut cluster = Cluster::start(&[&[], &[]], PATIENT);
    cluster.secondaries[1].kill();
    support::at_once(8, |client| {
        let mut connection = cluster.master.connect();
        for number in 0..1500 {
            let key = format!("Idempotency-Key: {client}-{number}-{}", "k".repeat(200));
            let headers = [key.as_str(), "Prefer: return=minimal"];
            let answer = connection.try_send("POST", "/messages", &headers, r#"{"msg":"","w":2}"#);
            assert_eq!(answer.expect("an answer").status, 201);
        }
    });
    cluster.secondaries[1].restart();
    assert_eq!(cluster.wait_until_equal(SOON).0.len(), 12_000);
}
