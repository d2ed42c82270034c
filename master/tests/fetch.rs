//! Promise: a master takes a better log over piece by piece, however long that is, and never more
//! than `MAX_LOG_BYTES`.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::binary::Role;
use support::directory::Directory;
use support::fake::{Fake, respond};
use support::masters::QUICK;
use support::node::Node;
use support::{SOON, wait_until};

/// A message of which a piece carries one.
fn long(number: u64) -> String {
    format!("{number}-{}", "x".repeat(700_000))
}

/// A secondary that holds so many long messages, knows that they are committed, and their master.
fn filled(count: u64) -> (Node, Node) {
    let secondary = Node::secondary(&[]);
    let master = Node::master(&[&secondary.url()], QUICK);
    for number in 1..=count {
        let answer = master.post_to(2, &long(number), SOON);
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    wait_until("committed", SOON, || match secondary.health()["committed_seq"].as_u64() {
        Some(committed) if committed == count => Ok(()),
        other => Err(format!("{other:?}")),
    });
    (secondary, master)
}

/// The places of the first entries of the pieces that were asked for, and 0 for each look.
fn asked(fake: &Fake) -> Vec<u64> {
    let place = |what: &str| match what.strip_prefix("GET /entries?from=") {
        Some(place) => Some(place.parse().expect("a place")),
        None => (what == "POST /heartbeat").then_some(0),
    };
    fake.received().iter().filter_map(|request| place(&request.what)).collect()
}

/// A secondary whose log, as it says, has no end.
fn endless() -> Fake {
    Fake::start(|request, stream| {
        let place = request.what.strip_prefix("GET /entries?from=");
        let answer = match place.map(|place| place.parse::<u64>().expect("a place")) {
            Some(first) => json!({
                "epoch": 0, "seq": first, "prev_epoch": if first == 1 { 0 } else { 5 },
                "entry_epoch": 5, "entries": vec!["x".repeat(100_000); 10],
            }),
            None => {
                let is_promise = request.what == "POST /promise";
                let epoch = if is_promise { request.json()["epoch"].clone() } else { json!(5) };
                json!({
                    "last_seq": 1_u64 << 40, "last_epoch": 5, "log_epoch": 5, "epoch": epoch,
                    "instance": "a",
                })
            }
        };
        respond(stream, 200, &answer.to_string())
    })
}

#[test]
fn an_endless_log_is_not_taken_over() {
    // Goal: the master says why it waits, and asks for nothing beyond the limit.
    let secondary = endless();
    let limit = [QUICK, &[("MAX_LOG_BYTES", "10000000")]].concat();
    let master = Node::master(&[&secondary.url()], &limit);
    let why = format!("the log of {} is larger than MAX_LOG_BYTES", secondary.url());
    master.wait_until_not_ready(&why);
    assert_eq!(master.post_message("m").status, 503);
    master.wait_until_not_ready(&why);
    let furthest = asked(&secondary).into_iter().max();
    assert_eq!(furthest, Some(91), "the tenth piece does not fit");
}

#[test]
fn a_piece_that_was_fetched_is_kept() {
    // Goal: the third piece cannot be fetched. The first two are on the disk of the new master, and
    // are not fetched again.
    let (secondary, mut former) = filled(3);
    former.kill();
    let is_busy = Arc::new(AtomicBool::new(true));
    let refuses = Arc::clone(&is_busy);
    let proxy = Fake::before(secondary.addr(), move |request| {
        let is_refused = request.what == "GET /entries?from=3" && refuses.load(SeqCst);
        is_refused.then_some((503, r#"{"error":"busy"}"#))
    });
    let directory = Directory::new();
    let own = directory.of("own");
    let settings = [QUICK, &[("DATA_DIR", own.as_str())]].concat();
    let mut master = Node::master(&[&proxy.url()], &settings);
    master.wait_until_not_ready("cannot be fetched: answered 503");
    master.kill();
    let verified = Role::Master.run(&[], &["--data-dir", &own, "verify"]);
    let verified = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.starts_with("ok role=master entries=2 "), "{verified}");
    master.restart();
    is_busy.store(false, SeqCst);
    master.wait_until_ready();
    assert_eq!(master.log(), [long(1), long(2), long(3)]);
    let pieces = asked(&proxy).into_iter().filter(|place| (1..3).contains(place));
    assert_eq!(pieces.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_standby_looks_on_between_pieces() {
    // Goal: a standby that has nothing fetches a long log. It asks who reigns in between.
    let (secondary, master) = filled(5);
    let proxy = Fake::before(secondary.addr(), |request| {
        if request.what.starts_with("GET /entries") {
            thread::sleep(Duration::from_millis(150));
        }
        None
    });
    let standby = Node::master(&[&proxy.url()], QUICK);
    standby.wait_until_not_ready(&master.url());
    standby.wait_for_line(" last_seq=5");
    let asked = asked(&proxy);
    let of = |place| asked.iter().position(|it| *it == place).expect("it was fetched");
    let looks = asked[of(1)..of(5)].iter().filter(|place| **place == 0).count();
    assert!(looks >= 2, "{asked:?}");
}
