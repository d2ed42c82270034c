//! Following the log: streams, long polls, the state for the live page, and what they cost others.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::binary::Role;
use support::cluster::Cluster;
use support::history::Dice;
use support::node::Node;
use support::{SOON, unique, wait_until};

/// Puts committed entries of 100 bytes into a secondary: after the first `held` up to `last`.
fn fill(secondary: &Node, held: usize, last: usize) {
    for first in (held..last).step_by(5_000) {
        let until = last.min(first + 5_000);
        let entries: Vec<String> = (first..until).map(|n| format!("{n:0100}")).collect();
        let body = json!({ "epoch": 1, "prev_epoch": u8::from(first > 0), "entry_epoch": 1,
            "seq": first + 1, "committed_seq": until, "entries": entries });
        let answer = secondary.send("POST", "/replicate", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn metric(node: &Node, name: &str) -> f64 {
    let answer = node.get("/metrics");
    assert_eq!(answer.status, 200);
    let line = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("{name} is not in:\n{}", answer.text()));
    value.parse().expect("it is a number")
}

#[test]
fn a_follower_sees_each_entry_once_across_reconnects() {
    // Goal: of 100 000 entries the ids ascend without a gap, wherever the connection is broken, 20
    // times, while the log grows.
    let secondary = Node::secondary(&[]);
    fill(&secondary, 0, 60_000);
    let mut dice = Dice::new(7);
    let breaks: Vec<u64> = (0..20).map(|_| 1 + dice.below(99_998)).collect();
    let (mut seen, mut connections) = (0, 0);
    thread::scope(|scope| {
        let secondary = &secondary;
        while seen < 100_000 {
            let last = format!("Last-Event-ID: {seen}");
            let headers: &[&str] = if seen == 0 { &[] } else { &[&last] };
            let mut events = secondary.connect().follow("/messages/stream", headers).unwrap();
            connections += 1;
            if connections == 3 {
                scope.spawn(|| fill(secondary, 60_000, 100_000));
            }
            while seen < 100_000 {
                let (id, data) = events.next().unwrap();
                assert_eq!((id, data["seq"].as_u64()), (Some(seen + 1), Some(seen + 1)));
                assert_eq!(data["msg"], format!("{seen:0100}"));
                seen += 1;
                if breaks.contains(&seen) {
                    break;
                }
            }
        }
    });
    let distinct: std::collections::HashSet<_> = breaks.iter().collect();
    assert_eq!(connections, distinct.len() + 1);
}

#[test]
fn a_stream_begins_where_it_is_told_to() {
    // Goal: `from` says where, `Last-Event-ID` wins over it, and nonsense in either is refused.
    let cluster = Cluster::start(&[&[], &[]], &[]);
    ["a", "b", "c"].into_iter().for_each(|message| cluster.post(message));
    for (node, path, headers, first) in [
        (&cluster.master, "/messages/stream", &[][..], 1),
        (&cluster.secondaries[0], "/messages/stream?from=2", &[], 2),
        (&cluster.secondaries[1], "/messages/stream?from=2", &["Last-Event-ID: 2"], 3),
    ] {
        let mut events = node.connect().follow(path, headers).unwrap();
        for seq in first..=3 {
            assert_eq!(events.next().unwrap().0, Some(seq), "{path} {headers:?}");
        }
    }
    for path in ["?from=0", "?from=x", "?limit=3", "?confirmed=true", "?from=1&wait=1"] {
        assert_eq!(cluster.master.get(&format!("/messages/stream{path}")).status, 400, "{path}");
    }
    let id =
        cluster.master.connect().try_send("GET", "/messages/stream", &["Last-Event-ID: x"], "");
    assert_eq!(id.unwrap().status, 400);
    let mut head = cluster.master.connect();
    head.write(b"HEAD /messages/stream HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    assert!(head.read(true).unwrap_err().to_string().contains("no Content-Length"));
    assert_eq!(cluster.master.send("POST", "/messages/stream", "").status, 405);
}

#[test]
fn a_long_poll_ends_with_entry_or_timeout() {
    // Goal: the answer comes at once if the entry is there, when it comes, or empty when the
    // milliseconds are over.
    let cluster = Cluster::start(&[&[]], &[]);
    cluster.post("a");
    let there = cluster.master.get("/messages?from=1&wait=60000");
    assert_eq!(there.seen(), (200, r#"{"messages":["a"],"from":1,"last_seq":1}"#));
    let told = cluster.secondaries[0].get("/messages?from=1&wait=60000");
    assert_eq!(told.seen(), there.seen());
    let over = cluster.secondaries[0].get("/messages?from=2&wait=100");
    assert_eq!(over.seen(), (200, r#"{"messages":[],"from":2,"last_seq":1}"#));
    assert!(over.took >= Duration::from_millis(100), "{:?}", over.took);
    thread::scope(|scope| {
        let waiting: Vec<_> = cluster
            .nodes()
            .map(|node| scope.spawn(|| node.get("/messages?from=2&wait=60000&limit=1")))
            .collect();
        wait_until("waiting", SOON, || {
            let waiting: f64 = cluster.nodes().map(|node| metric(node, "replog_followers")).sum();
            if waiting == 2.0 { Ok(()) } else { Err(waiting) }
        });
        cluster.post("b");
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert_eq!(answer.messages(), ["b"]);
            assert!(answer.took < SOON, "{:?}", answer.took);
        }
    });
    assert_eq!(cluster.master.get("/messages?wait=1").status, 400);
}

#[test]
fn a_stream_shows_only_what_is_committed() {
    // Goal: an entry that the master alone holds is shown to those who ask for all, and to the
    // others when a quorum holds it.
    let cluster = Cluster::start(&[&[], &[]], &[("HEARTBEAT_MS", "50")]);
    let master = &cluster.master;
    cluster.post("a");
    cluster.secondaries.iter().for_each(Node::freeze);
    assert_eq!(master.send("POST", "/messages", r#"{"msg":"b","w":1}"#).status, 201);
    let mut all = master.connect().follow("/messages/stream?from=2&committed=false", &[]).unwrap();
    assert_eq!(all.next().unwrap().0, Some(2));
    let all = master.get("/messages?from=2&wait=60000&committed=false");
    assert_eq!(all.seen(), (200, r#"{"messages":["b"],"from":2,"last_seq":2}"#));
    let thawed = AtomicBool::new(false);
    thread::scope(|scope| {
        let followers = ["?from=2", "?from=2&committed=true"].map(|query| {
            let path = format!("/messages/stream{query}");
            let mut events = master.connect().follow(&path, &[]).unwrap();
            let thawed = &thawed;
            scope.spawn(move || (events.next().unwrap().0, thawed.load(SeqCst)))
        });
        let none = master.get("/messages?from=2&wait=300");
        assert_eq!(none.seen(), (200, r#"{"messages":[],"from":2,"last_seq":1}"#));
        thawed.store(true, SeqCst);
        cluster.secondaries.iter().for_each(Node::thaw);
        for follower in followers {
            assert_eq!(follower.join().unwrap(), (Some(2), true), "shown before it was committed");
        }
    });
}

#[test]
fn followers_hear_of_commits_by_every_way() {
    // Goal: without a heartbeat an acknowledged call tells the master, and the next call a
    // secondary; where a call's answer is lost, a heartbeat tells the master.
    let seldom = [("HEARTBEAT_MS", "60000")];
    let cluster = Cluster::start(&[&[]], &seldom);
    let shown = |node: &Node| {
        let answer = node.get("/messages?from=1&wait=30000");
        assert_eq!(answer.messages().first().map(String::as_str), Some("a"));
        assert!(answer.took < SOON, "{:?}", answer.took);
    };
    cluster.post("a");
    shown(&cluster.master);
    cluster.post("b");
    shown(&cluster.secondaries[0]);
    let often = [("HEARTBEAT_MS", "50")];
    let cluster = Cluster::start(&[&[("CHAOS", "1")]], &often);
    let lost = cluster.secondaries[0].send("PUT", "/chaos", r#"{"error_after_store":1.0}"#);
    assert_eq!(lost.status, 200);
    // The heartbeat may come before the failure is told: then all hold the entry.
    let answer = cluster.master.post_message("a");
    assert!(matches!(answer.status, 502 | 201), "{}", answer.text());
    cluster.master.wait_for_line("CHAOS: an error after storing");
    shown(&cluster.master);
}

#[test]
fn a_followed_secondary_is_told_at_once() {
    // Goal: once the master knows that somebody follows a secondary, no commit waits for the next
    // heartbeat or call.
    let interval = Duration::from_secs(2);
    let cluster = Cluster::start(&[&[]], &[("HEARTBEAT_MS", "2000")]);
    let mut events = cluster.secondaries[0].connect().follow("/messages/stream", &[]).unwrap();
    cluster.post("a");
    assert_eq!(events.next().unwrap().0, Some(1));
    for seq in 2..=4 {
        let start = Instant::now();
        cluster.post("b");
        assert_eq!(events.next().unwrap().0, Some(seq));
        assert!(start.elapsed() < interval / 2, "{:?}", start.elapsed());
    }
}

#[test]
fn one_follower_too_many_is_refused() {
    // Goal: a stream and a long poll beyond MAX_FOLLOWERS get 503; a stop of the node ends every
    // follower.
    let mut node = Node::start(Role::Secondary, &[("MAX_FOLLOWERS", "1")]);
    let events = node.connect().follow("/messages/stream", &[]).unwrap();
    let refused = node.get("/messages/stream");
    assert_eq!(refused.seen(), (503, r#"{"error":"Too many followers","stored":false}"#));
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(node.get("/messages?from=9&wait=10").status, 503);
    assert_eq!(node.get("/messages?from=9").status, 200);
    node.signal("TERM");
    assert_eq!(node.exit_code(SOON), Some(0));
    node.wait_for_line("stopped unfinished=0");
    drop(events);
}

#[test]
fn a_follower_that_does_not_read_is_dropped() {
    // Goal: 40 MB are written past a follower that reads nothing, and no POST waits for it.
    let timeout = Duration::from_secs(10);
    let cluster = Cluster::start(&[&[]], &[("READ_TIMEOUT_MS", "10000")]);
    cluster.wait_until_ready();
    let deaf = cluster.master.connect().follow("/messages/stream", &[]).unwrap();
    let message = "x".repeat(500_000);
    let mut connection = cluster.master.connect();
    for _ in 0..80 {
        let answer = connection.post_message_briefly(&message);
        assert_eq!(answer.status, 201);
        // Who waited for the follower would wait for as long as it is given.
        assert!(answer.took < timeout, "{:?}", answer.took);
    }
    wait_until("dropped", timeout + SOON, || {
        let followers = metric(&cluster.master, "replog_followers");
        if followers == 0.0 { Ok(()) } else { Err(followers) }
    });
    drop(deaf);
}

#[test]
fn a_follower_that_has_gone_is_noticed() {
    // Goal: a follower that closed its connection counts no more, without any entry to send it.
    let node = Node::secondary(&[]);
    drop(node.connect().follow("/messages/stream", &[]).unwrap());
    wait_until("dropped", SOON, || {
        let followers = metric(&node, "replog_followers");
        if followers == 0.0 { Ok(()) } else { Err(followers) }
    });
}

#[test]
fn a_poll_that_was_given_up_leaves_its_place() {
    // Goal: a client that ends a long poll takes nobody the only place for a minute.
    let node = Node::start(Role::Secondary, &[("MAX_FOLLOWERS", "1")]);
    let mut connection = node.connect();
    let poll = "GET /messages?from=9&wait=60000 HTTP/1.1\r\nHost: x\r\n\r\n";
    connection.write(poll.as_bytes()).unwrap();
    wait_until("it waits", SOON, || match metric(&node, "replog_followers") {
        1.0 => Ok(()),
        followers => Err(followers),
    });
    drop(connection);
    wait_until("its place is free", SOON, || match node.get("/messages?from=9&wait=1").status {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn the_state_is_told_as_it_changes() {
    // Goal: the page sees an append, when each secondary acknowledged it, and a frozen secondary.
    let slow = [("DELAY_MS", "200")];
    let cluster = Cluster::start(&[&[], &slow], &[("HEARTBEAT_MS", "50")]);
    let mut events = cluster.master.connect().follow("/events", &[]).unwrap();
    let mut until = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let start = Instant::now();
        loop {
            let (_, picture) = events.next().unwrap();
            if is_so(&picture) {
                return picture;
            }
            assert!(start.elapsed() < SOON, "not {what}: {picture}");
        }
    };
    until("empty", &|picture| picture["last_seq"] == 0 && picture["nodes"] == 3);
    cluster.post(&unique("m"));
    let picture = until("appended", &|picture| !picture["timelines"][0]["answered_ms"].is_null());
    let timed = &picture["timelines"][0];
    assert_eq!((&timed["seq"], &timed["w"], &timed["ok"]), (&json!(1), &json!(3), &json!(true)));
    let ms = |value: &Value| value.as_f64().expect("it has been acknowledged");
    let (fast, slow) = (ms(&timed["acks"][0]), ms(&timed["acks"][1]));
    assert!(fast < 150.0 && slow >= 200.0 && ms(&timed["answered_ms"]) >= slow, "{timed}");
    assert_eq!(picture["tail"].as_array().map(Vec::len), Some(1));
    assert_eq!(picture["latency"]["counts"].as_array().and_then(|c| c.last()), Some(&json!(1)));
    cluster.secondaries[0].freeze();
    until("unhealthy", &|picture| picture["secondaries"][0]["status"] == "Unhealthy");
    cluster.secondaries[0].thaw();
    until("healthy", &|picture| picture["secondaries"][0]["status"] == "Healthy");
}

#[test]
fn page_description_and_faults_are_at_the_master() {
    // Goal: the master serves its page, every node the API's description; faults of a secondary are
    // set by way of the master, where that secondary allows it.
    let cluster = Cluster::start(&[&[("CHAOS", "1")], &[]], &[]);
    let page = cluster.master.get("/");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>"));
    for node in cluster.nodes() {
        let described = node.get("/openapi.json").json();
        assert_eq!(described["openapi"], "3.1.0");
        assert!(described["paths"]["/messages"]["get"].is_object());
    }
    let set = cluster.master.send("PUT", "/secondaries/0/chaos", r#"{"delay_ms":7}"#);
    assert_eq!((set.status, &set.json()["delay_ms"]), (200, &json!(7)));
    assert_eq!(cluster.secondaries[0].health()["delay_ms"], 7);
    assert_eq!(cluster.master.get("/secondaries/0/chaos").json()["delay_ms"], 7);
    assert_eq!(cluster.master.send("PUT", "/secondaries/0/chaos", r#"{"delay":7}"#).status, 400);
    for path in ["/secondaries/1/chaos", "/secondaries/2/chaos", "/secondaries/x/chaos"] {
        assert_eq!(cluster.master.get(path).status, 404, "{path}");
    }
    assert_eq!(cluster.master.send("POST", "/secondaries/0/chaos", "").status, 405);
    assert_eq!(cluster.master.send("POST", "/", "").status, 405);
}

#[test]
fn metrics_count_what_has_happened() {
    // Goal: each metric is there under its name, with the value that fits what was done.
    let cluster = Cluster::start(&[&[], &[]], &[("MAX_LOG_BYTES", "100")]);
    (0..3).for_each(|_| cluster.post("abc"));
    cluster.wait_until_level();
    for _ in 0..2 {
        let answer = cluster.master.connect().try_send(
            "POST",
            "/messages",
            &["Idempotency-Key: k"],
            r#"{"msg":"d"}"#,
        );
        assert_eq!(answer.unwrap().status, 201);
    }
    let reused = r#"{"msg":"e"}"#;
    let reused =
        cluster.master.connect().try_send("POST", "/messages", &["Idempotency-Key: k"], reused);
    assert_eq!(reused.unwrap().status, 422);
    assert_eq!(cluster.master.post_message(&"x".repeat(100)).status, 507);
    let url = cluster.secondaries[0].url();
    let expected = [
        ("replog_appends_total".to_string(), 4.0),
        ("replog_duplicates_total".into(), 1.0),
        ("replog_append_duration_seconds_count{result=\"created\"}".into(), 5.0),
        ("replog_refused_total{reason=\"key_reused\"}".into(), 1.0),
        ("replog_refused_total{reason=\"log_full\"}".into(), 1.0),
        ("replog_last_seq".into(), 4.0),
        ("replog_log_bytes".into(), 38.0),
        ("replog_log_bytes_limit".into(), 100.0),
        ("replog_followers_limit".into(), 100.0),
        ("replog_requests_in_flight_limit".into(), 1024.0),
        ("replog_refused_total{reason=\"read_only\"}".into(), 0.0),
        ("replog_committed_seq".into(), 4.0),
        ("replog_read_only".into(), 0.0),
        (format!("replog_acks_total{{secondary=\"{url}\"}}"), 4.0),
        (format!("replog_secondary_acked_seq{{secondary=\"{url}\"}}"), 4.0),
        (format!("replog_secondary_lag_entries{{secondary=\"{url}\"}}"), 0.0),
        (format!("replog_secondary_state{{secondary=\"{url}\",state=\"healthy\"}}"), 1.0),
        (format!("replog_secondary_state{{secondary=\"{url}\",state=\"unhealthy\"}}"), 0.0),
        (format!("replog_calls_total{{secondary=\"{url}\",result=\"failed\"}}"), 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(metric(&cluster.master, &name), value, "{name}");
    }
    // A request is in flight until its thread is done with it, a moment after it is answered.
    wait_until("one request in flight, which asks", SOON, || {
        let in_flight = metric(&cluster.master, "replog_requests_in_flight");
        if in_flight == 1.0 { Ok(()) } else { Err(in_flight.to_string()) }
    });
    let secondary = &cluster.secondaries[0];
    assert_eq!(metric(secondary, "replog_entries_accepted_total"), 4.0);
    assert_eq!(metric(secondary, "replog_last_seq"), 4.0);
    let build = "replog_build_info{version=\"0.1.0\",role=\"secondary\"}";
    assert_eq!(metric(secondary, build), 1.0);
}
