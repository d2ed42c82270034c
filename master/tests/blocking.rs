//! A POST blocks until the slowest secondary has acknowledged it; nobody else is blocked by that.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use support::cluster::{Cluster, assert_each_once};
use support::node::Node;
use support::{SOON, at_once, wait_until};

/// What a noisy machine may add to a delay.
const SLACK: Duration = Duration::from_millis(700);

#[test]
fn a_post_waits_for_the_slowest_secondary() {
    // Goal: the answer comes when the longest delay is over, not much later; delays do not add up.
    let delay = Duration::from_millis(800);
    let cluster = Cluster::start(&[&[("DELAY_MS", "800")], &[], &[("DELAY_MS", "800")]], &[]);
    for number in 0..2 {
        let answer = cluster.master.post_message(&format!("m{number}"));
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert!(answer.took >= delay && answer.took < delay + SLACK, "it took {:?}", answer.took);
        let duration = Duration::from_millis(answer.json()["duration_ms"].as_u64().unwrap());
        assert!(duration >= delay && duration <= answer.took, "it claims {duration:?}");
    }
    let undelayed = Cluster::start(&[&[], &[]], &[]);
    let took = undelayed.master.post_message("fast").took;
    assert!(took < delay, "{took:?} without a delay");
}

#[test]
fn posts_at_once_to_a_slow_secondary_overlap() {
    // Goal: eight POSTs at once take about one delay together, as in the original: not two, not
    // eight. The first round opens the connections, the second finds them kept.
    let delay = Duration::from_millis(1000);
    let cluster = Cluster::start(&[&[], &[("DELAY_MS", "1000")]], &[]);
    for round in 0..2 {
        let start = Instant::now();
        let answers =
            at_once(8, |client| cluster.master.post_message(&format!("{round}-{client}")));
        let all = start.elapsed();
        for answer in &answers {
            assert_eq!(answer.status, 201, "{}", answer.text());
            assert!(answer.took >= delay, "{:?} is shorter than the delay", answer.took);
        }
        let slowest = answers.iter().map(|answer| answer.took).max().unwrap();
        assert!(all < delay * 5 / 4 + SLACK, "together {all:?}, the slowest {slowest:?}");
    }
    let (log, _) = cluster.wait_until_equal(Duration::ZERO);
    let sent: Vec<_> = (0..16).map(|n| format!("{}-{}", n / 8, n % 8)).collect();
    assert_each_once(&log, &sent);
}

#[test]
fn staggered_posts_to_a_slow_secondary_overlap() {
    // Goal: a POST that arrives while a call is out does not wait for that call to come back.
    let delay = Duration::from_millis(1000);
    let cluster = Cluster::start(&[&[("DELAY_MS", "1000")]], &[]);
    cluster.post("the first call to a secondary, by which it is recognised");
    thread::scope(|scope| {
        for number in 1..=5 {
            let (master, before) = (&cluster.master, number);
            wait_until("appended", SOON, || {
                let count = master.log().len();
                if count >= before { Ok(()) } else { Err(count) }
            });
            scope.spawn(move || {
                let answer = master.post_message(&format!("m{number}"));
                assert_eq!(answer.status, 201, "{}", answer.text());
                assert!(answer.took >= delay, "{:?}", answer.took);
                assert!(answer.took < delay * 5 / 4 + SLACK, "m{number}: {:?}", answer.took);
            });
        }
    });
    cluster.wait_until_equal(Duration::ZERO);
}

#[test]
fn reads_are_fast_while_a_post_blocks() {
    // Goal: promise 5. While a POST waits for a slow secondary, reads of every node are answered
    // at once, and a secondary shows the entry when its delay is over and not before.
    let cluster = Cluster::start(&[&[], &[("DELAY_MS", "2000")]], &[]);
    let [fast, slow] = [0, 1].map(|number| &cluster.secondaries[number]);
    let answered = AtomicBool::new(false);
    cluster.wait_until_ready();
    thread::scope(|scope| {
        scope.spawn(|| {
            let answer = cluster.master.post_message("slow");
            assert_eq!(answer.status, 201, "{}", answer.text());
            answered.store(true, SeqCst);
        });
        let sees = |node: &Node| {
            wait_until("stored", SOON, || {
                let answer = node.get("/messages");
                assert!(answer.took < Duration::from_secs(1), "a read took {:?}", answer.took);
                if answer.messages() == ["slow"] { Ok(()) } else { Err(answer.text().to_string()) }
            });
        };
        sees(&cluster.master);
        sees(fast);
        for node in cluster.nodes().cycle().take(30) {
            let health = node.get("/health");
            assert_eq!(health.status, 200);
            assert!(health.took < Duration::from_secs(1), "{:?}", health.took);
        }
        let seen_by_slow = slow.log();
        assert!(!answered.load(SeqCst), "the reads took as long as the write");
        assert!(seen_by_slow.is_empty(), "stored before its delay: {seen_by_slow:?}");
    });
    assert_eq!(slow.log(), ["slow"]);
}

#[test]
fn after_a_201_every_node_shows_the_entry() {
    // Goal: promise 2. The next read of any node contains what was acknowledged, with eight
    // writers at once and one secondary behind the others.
    let cluster = Cluster::start(&[&[], &[("DELAY_MS", "20")]], &[]);
    at_once(8, |client| {
        let mut writer = cluster.master.connect();
        let mut readers: Vec<_> = cluster.nodes().map(Node::connect).collect();
        for number in 0..15 {
            let message = format!("{client}-{number}");
            let answer = writer.post_message(&message);
            assert_eq!(answer.status, 201, "{}", answer.text());
            for reader in &mut readers {
                let log = reader.send("GET", "/messages", "").messages();
                assert_eq!(log.get(answer.seq() - 1), Some(&message), "after the 201");
            }
        }
    });
}
