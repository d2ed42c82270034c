//! Promise: 201 means that as many nodes hold the entry as the client asked for.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::http::Answer;
use support::node::Node;
use support::{SOON, at_once, wait_until};

const FAST: &[(&str, &str)] = &[("HEARTBEAT_MS", "50")];

fn post(master: &Node, msg: &str, w: Value) -> Answer {
    master.send("POST", "/messages", &json!({ "msg": msg, "w": w }).to_string())
}

/// A cluster whose second secondary is down.
fn two_of_three() -> Cluster {
    let mut cluster = Cluster::start(&[&[], &[]], FAST);
    cluster.secondaries[1].kill();
    wait_until("Unhealthy", SOON, || {
        let health = cluster.master.health();
        let status = &health["secondary_statuses"][cluster.secondaries[1].url()]["status"];
        if status == "Unhealthy" { Ok(()) } else { Err(health.to_string()) }
    });
    cluster
}

#[test]
fn the_self_check_of_the_assignment() {
    // Goal: with one secondary down, w=1 and w=2 are answered, w=3 waits and blocks nobody; when
    // the secondary starts, w=3 is answered and all four messages are there in order.
    let mut cluster = two_of_three();
    assert_eq!(post(&cluster.master, "Msg1", json!(1)).status, 201);
    assert_eq!(post(&cluster.master, "Msg2", json!(2)).status, 201);
    thread::scope(|scope| {
        let master = &cluster.master;
        let third = scope.spawn(|| post(master, "Msg3", json!(3)));
        wait_until("appended", SOON, || {
            let count = master.health()["count"].as_u64();
            if count == Some(3) { Ok(()) } else { Err(format!("{count:?}")) }
        });
        assert_eq!(post(master, "Msg4", json!(1)).status, 201);
        assert!(!third.is_finished(), "w=3 was answered with one secondary down");
        cluster.secondaries[1].restart();
        let start = Instant::now();
        let third = third.join().expect("a client thread failed");
        assert_eq!(third.status, 201, "{}", third.text());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!((&third.json()["seq"], &third.json()["w"]), (&json!(3), &json!(3)));
    });
    let (log, _) = cluster.wait_until_equal(SOON);
    assert_eq!(log, ["Msg1", "Msg2", "Msg3", "Msg4"]);
}

#[test]
fn an_invalid_write_concern_appends_nothing() {
    // Goal: only whole numbers in range and two words are taken; the error says that nothing was
    // stored.
    let cluster = Cluster::start(&[&[], &[]], FAST);
    let bad = [json!(0), json!(4), json!(-1), json!(1.5), json!(true), json!("2"), json!([])];
    for w in bad {
        let answer = post(&cluster.master, "x", w.clone());
        let body = answer.json();
        assert_eq!((answer.status, &body["stored"]), (400, &json!(false)), "{w}: {body}");
        let error = body["error"].as_str().unwrap_or_default();
        assert!(error.starts_with("Write concern w must be between 1 and 3"), "{w}: {body}");
    }
    let body = json!({ "msg": "x", "w": 2, "wtimeout": "soon" }).to_string();
    assert_eq!(cluster.master.send("POST", "/messages", &body).status, 400);
    assert_eq!(cluster.master.log(), [""; 0]);
    for (w, counted) in [(json!("majority"), 2), (json!("all"), 3), (json!(1), 1), (Value::Null, 3)]
    {
        let answer = post(&cluster.master, "y", w);
        assert_eq!((answer.status, &answer.json()["w"]), (201, &json!(counted)));
    }
}

#[test]
fn an_unsatisfied_concern_says_who_holds_the_entry() {
    // Goal: 502 after wtimeout, with the place and the acks; the entry stays and arrives later.
    let mut cluster = two_of_three();
    let body = json!({ "msg": "late", "w": 3, "wtimeout": 2000 }).to_string();
    let answer = cluster.master.send("POST", "/messages", &body);
    let body = answer.json();
    assert_eq!((answer.status, &body["stored"], &body["seq"]), (502, &json!(true), &json!(1)));
    assert_eq!(body["error"], "Write concern w=3 not satisfied");
    assert_eq!(body["acked_by"], json!([cluster.secondaries[0].url()]));
    assert!(answer.took >= Duration::from_secs(2), "{:?}", answer.took);
    // Before that it may have waited for its master's recovery, on a busy machine; not for 60 s.
    assert!(answer.took < SOON, "{:?}", answer.took);
    cluster.secondaries[1].restart();
    assert_eq!(cluster.wait_until_equal(SOON).0, ["late"]);
}

#[test]
fn a_majority_does_not_wait_for_the_slowest() {
    // Goal: the answer comes with the w-th ack, and the slow secondary gets the entry all the same.
    let cluster = Cluster::start(&[&[], &[("DELAY_MS", "1000")]], FAST);
    let answer = post(&cluster.master, "m", json!("majority"));
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(answer.took < Duration::from_millis(900), "{:?}", answer.took);
    let acks = answer.json()["acks"].clone();
    assert_eq!(acks, json!([{ "secondary": cluster.secondaries[0].url(), "ack": "ok" }]));
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m"]);
}

#[test]
fn entries_that_nobody_waits_for_arrive_soon() {
    // Goal: w=1 leaves the calls to others; nothing waits for the next POST or heartbeat.
    let cluster = Cluster::start(&[&[], &[]], &[("HEARTBEAT_MS", "60000")]);
    at_once(8, |_| {
        let mut connection = cluster.master.connect();
        for _ in 0..50 {
            let answer = connection.send("POST", "/messages", r#"{"msg":"m","w":1}"#);
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    });
    assert_eq!(cluster.wait_until_equal(Duration::from_secs(2)).0.len(), 400);
}

#[test]
fn blocked_clients_make_few_calls_and_threads() {
    // Goal: a hundred clients that wait for a secondary which is down cost one retry now and then.
    let cluster = two_of_three();
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", cluster.master.id()));
        tasks.expect("a running process has threads").count()
    };
    thread::scope(|scope| {
        let master = &cluster.master;
        for _ in 0..100 {
            let body = json!({ "msg": "m", "w": 3, "wtimeout": 3000 }).to_string();
            scope.spawn(move || assert_eq!(master.send("POST", "/messages", &body).status, 502));
        }
        wait_until("appended", SOON, || {
            let count = master.health()["count"].as_u64();
            if count == Some(100) { Ok(()) } else { Err(format!("{count:?}")) }
        });
        // A connection's thread and a handler each, and those of an idle node; one per secondary
        // as well would make 400.
        let now = threads();
        assert!(now < 100 * 3, "{now} threads for 100 blocked clients");
        assert_eq!(post(master, "free", json!(1)).status, 201);
    });
}
