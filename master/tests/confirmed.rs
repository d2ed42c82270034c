//! `GET /messages?confirmed=true`: never stale, or refused.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::at_once;
use support::cluster::Cluster;
use support::fake::{Fake, healthy, respond};
use support::node::Node;

const CONFIRMED: &str = "/messages?confirmed=true";

#[test]
fn a_confirmed_read_needs_a_quorum() {
    // Goal: a confirmed read has everything that is committed and nothing else, waits for no node
    // that is not needed, and is refused when too few answer.
    let cluster = Cluster::start(&[&[], &[]], &[]);
    let (master, secondary) = (&cluster.master, &cluster.secondaries[0]);
    (1..=3).for_each(|n| cluster.post(&format!("m{n}")));
    let part = master.get(&format!("{CONFIRMED}&from=2&limit=1"));
    assert_eq!(part.seen(), (200, r#"{"messages":["m2"],"from":2,"last_seq":3}"#));
    for query in ["&wait=1&from=1", "&committed=false", "&from=0", "&confirmed=yes"] {
        assert_eq!(master.get(&format!("{CONFIRMED}{query}")).status, 400, "{query}");
    }
    let elsewhere = (400, r#"{"error":"Only the master can confirm a read"}"#);
    assert_eq!(secondary.get(CONFIRMED).seen(), elsewhere);
    cluster.secondaries[1].freeze();
    for _ in 0..3 {
        let answer = master.get(CONFIRMED);
        assert_eq!(answer.messages(), ["m1", "m2", "m3"]);
        assert!(answer.took < Duration::from_millis(900), "{:?}", answer.took);
    }
    secondary.freeze();
    assert_eq!(master.send("POST", "/messages", r#"{"msg":"m4","w":1}"#).status, 201);
    let refused = master.get(CONFIRMED);
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    assert!(refused.text().contains("no quorum has confirmed"), "{}", refused.text());
    assert!(refused.took < Duration::from_secs(6), "{:?}", refused.took);
    secondary.thaw();
    let later = support::wait_until("confirmed again", support::SOON, || {
        let answer = master.get(CONFIRMED);
        if answer.status == 200 { Ok(answer) } else { Err(answer.text().to_string()) }
    });
    assert!(later.messages().starts_with(&["m1".into(), "m2".into(), "m3".into()]));
}

#[test]
fn a_deposed_master_confirms_nothing() {
    // Goal: the first master, which hears of nobody for a minute, shows its old log to those who
    // ask for no more, and to none of those who read confirmed once the second has acknowledged.
    let cluster = Cluster::start(&[&[], &[]], &[("HEARTBEAT_MS", "60000")]);
    let first = &cluster.master;
    cluster.post("m1");
    let urls: Vec<String> = cluster.secondaries.iter().map(Node::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let acknowledged = AtomicBool::new(false);
    let second = thread::scope(|scope| {
        let reader = || {
            let mut connection = first.connect();
            loop {
                let is_late = acknowledged.load(SeqCst);
                let answer = connection.send("GET", CONFIRMED, "");
                match answer.status {
                    200 => assert!(!is_late, "stale: {}", answer.text()),
                    307 | 503 => return,
                    status => panic!("{status}: {}", answer.text()),
                }
            }
        };
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(reader)).collect();
        let second = Node::usurper(&urls, &[]);
        assert_eq!(second.post_message("m2").status, 201);
        acknowledged.store(true, SeqCst);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader failed"));
        second
    });
    assert_eq!(second.get(CONFIRMED).messages(), ["m1", "m2"]);
    assert!([307, 503].contains(&first.get("/messages").status), "it knows now");
}

#[test]
fn a_master_cut_off_unawares_confirms_nothing() {
    // Goal: a confirmed read is the first to find out that the reign is over, and is refused.
    let cluster = Cluster::start(&[&[]], &[("HEARTBEAT_MS", "60000")]);
    let first = &cluster.master;
    cluster.post("m1");
    assert_eq!(first.get(CONFIRMED).messages(), ["m1"]);
    let second = Node::usurper(&[&cluster.secondaries[0].url()], &[]);
    assert_eq!(second.post_message("m2").status, 201);
    assert_eq!(first.log(), ["m1"], "it does not know");
    let refused = first.get(CONFIRMED);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("has begun"), "{}", refused.text());
}

#[test]
fn many_confirmed_reads_share_heartbeats() {
    // Goal: 64 clients read three times each, and the only secondary, which takes 50 ms for a
    // heartbeat, is asked for all of them together.
    let asked = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&asked);
    let fake = Fake::start(move |request, stream| {
        match request.what.as_str() {
            "POST /promise" => {}
            "POST /heartbeat" => {
                theirs.fetch_add(1, SeqCst);
                thread::sleep(Duration::from_millis(50));
            }
            _ => return healthy(request, 0, stream),
        }
        let position = json!({
            "last_seq": 0, "last_epoch": 0, "epoch": request.json()["epoch"], "instance": "a",
        });
        respond(stream, 200, &position.to_string())
    });
    let master = Node::master(&[&fake.url()], &[("HEARTBEAT_MS", "60000")]);
    support::wait_until("reigning", support::SOON, || match master.get("/ready") {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text().to_string()),
    });
    let before = asked.load(SeqCst);
    at_once(64, |_| {
        let mut connection = master.connect();
        for _ in 0..3 {
            let answer = connection.send("GET", CONFIRMED, "");
            assert_eq!(answer.seen(), (200, r#"{"messages":[],"from":1,"last_seq":0}"#));
        }
    });
    let asked = asked.load(SeqCst) - before;
    assert!((3..=30).contains(&asked), "{asked} heartbeats");
}
