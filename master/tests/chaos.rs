//! All promises together, while nodes are killed, frozen, restarted and lie about errors.
//!
//! A checker decides afterwards whether what eight writers were told fits what the nodes hold. The
//! faults come from a seed, which a failure names: `CHAOS_SEED=7 cargo test -p master --test chaos`
//! plays them again (the threads of the machine are not part of the seed). The checker itself is
//! checked with histories that are wrong, and with secondaries that are broken on purpose.

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::{Value, json};
use support::cluster::Cluster;
use support::fake::{Fake, respond};
use support::history::{Append, Dice, History, Read, Told};
use support::node::Node;
use support::writers::under;
use support::{SOON, wait_until};

const MASTER: &[(&str, &str)] =
    &[("ACK_TIMEOUT_MS", "2000"), ("HEARTBEAT_MS", "50"), ("RECOVERY_TIMEOUT_MS", "10000")];

/// Waits until every secondary has what the master had when this began: only then may another
/// node lose its memory.
fn wait_until_level(cluster: &Cluster) {
    cluster.wait_until_ready();
    let goal = cluster.master.health()["last_seq"].as_u64().expect("health names the last entry");
    wait_until("level", SOON, || {
        let health = cluster.master.health();
        let statuses = health["secondary_statuses"].as_object().cloned().unwrap_or_default();
        let level = statuses.values().all(|s| s["acked_seq"].as_u64() >= Some(goal));
        if level { Ok(()) } else { Err(health.to_string()) }
    });
}

fn set_faults(node: &Node, faults: &Value) {
    let answer = node.send("PUT", "/chaos", &faults.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn one_fault(cluster: &mut Cluster, dice: &mut Dice) {
    let which = usize::from(dice.below(2) == 1);
    let pause = Duration::from_millis(20 + dice.below(200));
    match dice.below(6) {
        0 => {
            println!("kill the master");
            cluster.master.kill();
            cluster.master.restart();
        }
        1 | 2 => {
            println!("kill secondary {which}, down for {pause:?}");
            cluster.secondaries[which].kill();
            thread::sleep(pause);
            cluster.secondaries[which].restart();
        }
        3 => {
            println!("freeze secondary {which} for {pause:?}");
            cluster.secondaries[which].freeze();
            thread::sleep(pause);
            cluster.secondaries[which].thaw();
        }
        4 => {
            println!("freeze the master for {pause:?}");
            cluster.master.freeze();
            thread::sleep(pause);
            cluster.master.thaw();
        }
        _ => {
            println!("errors of secondary {which} for {pause:?}");
            let node = &cluster.secondaries[which];
            set_faults(node, &json!({ "error_after_store": 0.5, "error_rate": 0.2 }));
            thread::sleep(pause);
            set_faults(node, &json!({ "error_after_store": 0, "error_rate": 0 }));
        }
    }
    wait_until_level(cluster);
}

fn play(seed: u64) {
    println!("CHAOS_SEED={seed}");
    let chaos: &[(&str, &str)] = &[("CHAOS", "1")];
    let mut cluster = Cluster::start(&[chaos, chaos], MASTER);
    let mut dice = Dice::new(seed);
    let history = under(cluster.master.addr(), || {
        (0..10).for_each(|_| one_fault(&mut cluster, &mut dice));
    });
    cluster.wait_until_equal(SOON);
    assert!(history.acknowledged() > 100, "too little was written to mean anything");
    let verdict = history.check(&cluster.logs());
    verdict.unwrap_or_else(|wrong| panic!("CHAOS_SEED={seed}: {wrong}"));
}

#[test]
fn faults_lose_repeat_and_reorder_nothing() {
    // Goal: every acknowledged message is on every node exactly once, in one order, after kills,
    // freezes, restarts and errors after storing; eight writers with keys.
    match env::var("CHAOS_SEED") {
        Ok(seed) => play(seed.parse().expect("CHAOS_SEED is a number")),
        Err(_) => [1, 2, 3].into_iter().for_each(play),
    }
}

/// A writer that has posted these messages at these times, in seconds, and was told so.
fn written(start: Instant, posted: &[(&str, u64, Told)]) -> History {
    let at = |seconds| start + Duration::from_secs(seconds);
    let append = |(message, begun, told): &(&str, u64, Told)| Append {
        message: message.to_string(),
        begun: at(*begun),
        ended: at(begun + 2),
        told: *told,
    };
    History { writers: vec![posted.iter().map(append).collect()], ..History::default() }
}

fn logs(log: &[&str]) -> Vec<Vec<String>> {
    vec![log.iter().map(|m| m.to_string()).collect(); 3]
}

#[test]
fn the_checker_sees_what_is_wrong() {
    // Goal: each promise broken by hand, and the sound history beside it.
    let posted = [("a", 0, Told::Stored(1)), ("b", 3, Told::Unknown), ("c", 4, Told::Stored(2))];
    let sound = written(Instant::now(), &posted);
    assert_eq!(sound.check(&logs(&["a", "c"])), Ok(()));
    let wrong = |log: &[&str]| sound.check(&logs(log)).unwrap_err();
    assert_eq!(wrong(&["c", "a"]), "a is at Some(2), its answer said 1");
    assert_eq!(wrong(&["a"]), "c is at None, its answer said 2");
    assert_eq!(wrong(&["a", "c", "a"]), "a is at 1 and at 3");
    assert_eq!(wrong(&["a", "c", "x"]), "x was never posted");
    assert_eq!(wrong(&["a", "c", "b"]), "c is at 2, before its predecessor at 3");
    let mut differing = logs(&["a", "c"]);
    differing[2].swap(0, 1);
    let differing = sound.check(&differing).unwrap_err();
    assert!(differing.starts_with("node 2 differs from place 1"), "{differing}");
    let mut refused = sound.clone();
    refused.writers[0][1].told = Told::Refused;
    assert_eq!(
        refused.check(&logs(&["a", "c", "b"])).unwrap_err(),
        "b is at Some(3), but was refused"
    );
}

#[test]
fn the_checker_looks_at_reads_and_time() {
    // Goal: messages that overtake an acknowledged one, and reads of each wrong kind.
    let start = Instant::now();
    let both = |second| {
        let (mut history, other) = (
            written(start, &[("a", 1, Told::Stored(2))]),
            written(start, &[("b", second, Told::Unknown)]),
        );
        history.writers.extend(other.writers);
        history
    };
    let log = logs(&["b", "a"]);
    assert_eq!(both(2).check(&log), Ok(()), "they overlap");
    let late = both(4).check(&log).unwrap_err();
    assert_eq!(late, "b is at Some(1), but 2 was known before it");
    let read = |from, messages: &[&str], last_seq, begun, is_confirmed| Read {
        begun: start + Duration::from_secs(begun),
        ended: start + Duration::from_secs(begun + 1),
        connection: 1,
        is_confirmed,
        from,
        messages: messages.iter().map(|m| m.to_string()).collect(),
        last_seq,
    };
    let with = |reads: &[Read]| History { reads: reads.to_vec(), ..both(2) }.check(&log);
    let part = read(1, &["b"], 1, 4, false);
    assert_eq!(with(&[part.clone(), read(2, &["a"], 2, 5, true)]), Ok(()), "one may be behind");
    let taken_back = with(&[read(2, &["x"], 2, 4, false)]).unwrap_err();
    assert!(taken_back.starts_with("x was read as committed at 2"), "{taken_back}");
    let missing = with(&[read(4, &[], 3, 4, false)]).unwrap_err();
    assert_eq!(missing, "3 was committed, the log ends at 2");
    let shrinking = with(&[read(1, &["b", "a"], 2, 4, false), part.clone()]).unwrap_err();
    assert_eq!(shrinking, "entries up to 1 were read, up to 2 before that");
    let stale = with(&[Read { is_confirmed: true, ..part }]).unwrap_err();
    assert_eq!(stale, "a confirmed read ends at 1, 2 was known before");
}

/// How a secondary is broken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    /// Entries are stored in the order in which calls are done with, not in that of `seq`.
    Order,
    /// A call that is made again is stored again.
    Duplicates,
    /// It acknowledges, and stores only what still fits before it is killed: every tenth is lost.
    AckBeforeStore,
}

/// A secondary that is broken in one way and otherwise says that all is well.
fn broken(how: Broken) -> (Fake, Arc<Mutex<Vec<String>>>) {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (theirs, held) = (Arc::clone(&log), Mutex::new((0_u64, 0_u64, 0_u64)));
    let fake = Fake::start(move |request, stream| {
        let call = if request.is_replicate() { request.json() } else { Value::Null };
        let mut held = held.lock().expect("nobody panics with it");
        let one = call.get("msg").map(|msg| vec![msg.clone()]);
        let entries = one.or_else(|| call["entries"].as_array().cloned()).unwrap_or_default();
        let last = call["seq"].as_u64().unwrap_or(1) + entries.len() as u64 - 1;
        if !entries.is_empty() {
            let mut log = theirs.lock().expect("nobody panics with it");
            let texts = entries.iter().map(|e| e.as_str().unwrap_or_default().to_string());
            for (place, text) in (last + 1 - entries.len() as u64..).zip(texts) {
                let known = place <= held.0;
                match how {
                    Broken::Order if !known && place.is_multiple_of(7) => log.insert(0, text),
                    Broken::AckBeforeStore if place.is_multiple_of(10) => {}
                    Broken::Duplicates => log.push(text),
                    _ if !known => log.push(text),
                    _ => {}
                }
            }
            let epoch = call["entry_epoch"].as_u64().unwrap_or_default();
            let calls = held.2 + 1;
            // An error after storing makes the master call again, unless a heartbeat says in between
            // that the entries are there. Of eight writers no call carries more than eight entries,
            // so there are some before the test ends.
            if how == Broken::Duplicates && calls.is_multiple_of(3) {
                held.2 = calls;
                return respond(stream, 500, "stored all the same");
            }
            *held = (held.0.max(last), epoch, calls);
        }
        let epoch = call["epoch"].as_u64().unwrap_or(held.1);
        let answer = json!({
            "status": "ok", "idx": last.saturating_sub(1), "seq": last, "last_seq": held.0,
            "last_epoch": held.1, "epoch": epoch, "instance": "broken", "count": held.0,
            "delay_ms": 0,
        });
        respond(stream, 200, &answer.to_string())
    });
    (fake, log)
}

#[test]
fn the_checker_sees_broken_secondaries() {
    // Goal: order not kept, a duplicate not recognised, an ack before storing: each is noticed.
    for how in [Broken::Order, Broken::Duplicates, Broken::AckBeforeStore] {
        let (fake, log) = broken(how);
        let master = Node::master(&[&fake.url()], MASTER);
        let history = under(master.addr(), || {
            wait_until("some entries", SOON, || {
                let count = master.health()["count"].as_u64().unwrap_or_default();
                if count > 60 { Ok(()) } else { Err(count) }
            });
        });
        let logs = [master.log(), log.lock().expect("nobody panics with it").clone()];
        let verdict = history.check(&logs);
        assert!(verdict.is_err(), "{how:?} went unnoticed");
        println!("{how:?}: {}", verdict.unwrap_err());
    }
}
