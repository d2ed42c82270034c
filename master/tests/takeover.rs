//! Promise: what a majority has acknowledged is in the log of every later master, and no two
//! masters acknowledge different messages at one place.
//!
//! Each section is a way in which logs with one master lose entries when masters come and go.
//! Nothing here depends on luck: nodes are killed and frozen, and wires are cut, at chosen moments.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::store::Store;
use secondary::replica::{Outcome, Replica};
use serde_json::{Value, json};
use support::binary::Role;
use support::cluster::Cluster;
use support::directory::{Directory, copy_directory};
use support::disk::Disk;
use support::fake::{Fake, ack, healthy, respond};
use support::masters::QUICK;
use support::node::{Node, Settings};
use support::relay::Relay;
use support::{SOON, wait_until};

/// How long a message may take that cannot be acknowledged.
const BRIEFLY: Duration = Duration::from_millis(500);

fn masters(urls: &[String], settings: Settings) -> Node {
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    Node::master(&urls, settings)
}

/// A master of these secondaries that has begun its reign.
fn reigning(urls: &[String], settings: Settings) -> Node {
    let master = masters(urls, settings);
    master.wait_until_ready();
    master
}

/// The same with its log in there.
fn reigning_in(directory: &Directory, name: &str, urls: &[String]) -> Node {
    reigning(urls, &[QUICK, &[("DATA_DIR", &directory.of(name))]].concat())
}

/// Posts a message that so many nodes must acknowledge.
fn post(master: &Node, w: impl Into<Value>, message: &str) {
    let answer = master.post_to(w, message, SOON);
    assert_eq!(answer.status, 201, "{message}: {}", answer.text());
}

/// Asserts that a master waits and says for whom: it takes no message and shows no log.
fn assert_waits(master: &Node, text: &str) {
    master.wait_until_not_ready(text);
    let posted = master.post_message("refused");
    assert_eq!((posted.status, &posted.json()["stored"]), (503, &json!(false)), "{posted:?}");
    assert_eq!(master.get("/messages").status, 503);
    // The POST has waited longer than RECOVERY_TIMEOUT_MS.
    master.wait_until_not_ready(text);
}

/// Waits until the node shows this log.
fn wait_for_log(node: &Node, expected: &[&str]) {
    wait_until("the log", SOON, || match node.get("/messages?committed=false") {
        answer if answer.status == 200 && answer.messages() == expected => Ok(()),
        answer => Err(format!("{answer:?}: {}", answer.text())),
    });
}

/// Waits until the master and its secondaries show this log.
fn wait_for_logs(master: &Node, secondaries: &[Node], expected: &[&str]) {
    [master].into_iter().chain(secondaries).for_each(|node| wait_for_log(node, expected));
}

/// Lets a secondary take messages past its master.
const MIXED: (&str, &str) = ("ACCEPT_ORIGINAL", "1");

/// A secondary's directory, and a secondary that keeps its log there.
fn durable(directory: &Directory, name: &str) -> Node {
    Node::secondary(&[("DATA_DIR", &directory.of(name)), MIXED])
}

/// Makes the log in there a new master's.
fn promote(path: &str) {
    let promoted = Role::Master.run(&[], &["--data-dir", path, "promote"]);
    assert!(promoted.status.success(), "{promoted:?}");
}

/// Tells a secondary something in the name of a master that is not there, in this epoch.
fn told(secondary: &Node, epoch: u64, path: &str, mut body: Value) {
    body["epoch"] = json!(epoch);
    body["master"] = json!(format!("{:032x}", 7));
    let answer = secondary.send("POST", path, &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
}

// Majority lost

#[test]
fn a_new_master_waits_for_a_frozen_majority() {
    // Goal: the master and one secondary acknowledged m2. The master is lost, the secondary frozen
    // for longer than RECOVERY_TIMEOUT_MS: nobody reigns over the other one's shorter log.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    let relay = Relay::to(secondaries[1].addr());
    let mut master = reigning(&[secondaries[0].url(), relay.url()], QUICK);
    post(&master, 3, "m1");
    relay.cut();
    post(&master, "majority", "m2");
    master.kill();
    secondaries[0].freeze();
    relay.mend();
    master.restart();
    assert_waits(&master, &format!("no answer from {}", secondaries[0].url()));
    assert_eq!(secondaries[1].log(), ["m1"]);
    secondaries[0].thaw();
    master.wait_until_ready();
    post(&master, 3, "m3");
    wait_for_logs(&master, &secondaries, &["m1", "m2", "m3"]);
}

// Split brain

#[test]
fn of_two_masters_one_acknowledges_a_majority() {
    // Goal: each master reaches one of two secondaries, and then the former one none. A place that
    // one has acknowledged with a majority the other never gives to another message.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    let relays = || [Relay::to(secondaries[0].addr()), Relay::to(secondaries[1].addr())];
    let (to_first, to_second) = (relays(), relays());
    let urls = |relays: &[Relay]| relays.iter().map(Relay::url).collect::<Vec<_>>();
    let settings = [QUICK, &[("QUORUM", "majority")]].concat();
    let first = reigning(&urls(&to_first), &settings);
    post(&first, 3, "m1");
    to_first[1].cut();
    to_second[0].cut();
    let second = masters(&urls(&to_second), &settings);
    assert_waits(&second, &format!("no answer from {}", to_second[0].url()));
    post(&first, "majority", "m2");
    // The former master is cut off altogether.
    to_first[0].cut();
    to_second[0].mend();
    second.wait_until_ready();
    post(&second, "majority", "m3");
    let lost = first.post_to("majority", "lost", BRIEFLY);
    assert!([502, 503].contains(&lost.status), "{lost:?}: {}", lost.text());
    to_first.iter().for_each(Relay::mend);
    first.wait_until_not_ready(&second.url());
    post(&second, 3, "m4");
    wait_for_logs(&second, &secondaries, &["m1", "m2", "m3", "m4"]);
}

#[test]
fn a_deposed_masters_tail_comes_to_nothing() {
    // Goal: entries that a cut-off master took with w=1 are not in the log with which the same
    // process reigns later, and do not come back.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    let relays = [Relay::to(secondaries[0].addr()), Relay::to(secondaries[1].addr())];
    let first = reigning(&relays.each_ref().map(Relay::url), QUICK);
    post(&first, 3, "m1");
    relays.iter().for_each(Relay::cut);
    post(&first, 1, "lost");
    post(&first, 1, "lost too");
    let mut second = reigning(&secondaries.each_ref().map(Node::url), QUICK);
    post(&second, 3, "m2");
    relays.iter().for_each(Relay::mend);
    first.wait_until_not_ready(&second.url());
    second.kill();
    first.wait_until_ready();
    post(&first, 3, "m3");
    wait_for_logs(&first, &secondaries, &["m1", "m2", "m3"]);
}

// Raft's figure 8

#[test]
fn a_later_tail_does_not_beat_what_is_committed() {
    // Goal: the entry b is of an early epoch. It is committed in a late reign, which appends
    // nothing. A directory whose last entry x is of an epoch between the two, and that was
    // acknowledged by nobody, comes back: b stays, x goes.
    let directory = Directory::new();
    let mut secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let urls = secondaries.each_ref().map(Node::url);
    let other = directory.of("m1");
    let mut first = reigning_in(&directory, "m0", &urls);
    post(&first, 3, "a");
    secondaries.iter_mut().for_each(Node::kill);
    post(&first, 1, "b");
    first.kill();
    // A reign of its own, of which nobody hears.
    copy_directory(&directory.of("s0"), &other);
    promote(&other);
    let mut between = reigning_in(&directory, "m1", &[]);
    post(&between, 1, "x");
    between.kill();
    drop(between);
    secondaries.iter_mut().for_each(Node::restart);
    first.restart();
    first.wait_until_ready();
    wait_until("committed", SOON, || match first.health()["committed_seq"].as_u64() {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(first.log(), ["a", "b"]);
    first.kill();
    let last = reigning_in(&directory, "m1", &urls);
    post(&last, 3, "c");
    wait_for_logs(&last, &secondaries, &["a", "b", "c"]);
    let dropped = directory.dropped("m1");
    assert!(dropped.len() == 1 && dropped[0].ends_with(r#""msg":"x"}"#), "{dropped:?}");
}

#[test]
fn a_piece_of_a_log_has_no_higher_rank() {
    // Goal: a reign ends while the secondary that is behind catches up. What that one has got of
    // the reign's log does not beat the whole log on the other one.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    let relay = Relay::to(secondaries[1].addr());
    let mut first = reigning(&[secondaries[0].url(), relay.url()], QUICK);
    post(&first, 3, "m1");
    let epoch = secondaries[1].health()["log_epoch"].clone();
    relay.cut();
    post(&first, "majority", "m2");
    post(&first, "majority", "m3");
    first.kill();
    let told = |path, body| told(&secondaries[1], 1 << 50, path, body);
    told("/promise", json!({ "takeover": true }));
    told(
        "/replicate",
        json!({
            "reign_start": 3, "seq": 2, "prev_epoch": epoch, "entry_epoch": epoch, "acked_seq": 1,
            "msg": "m2",
        }),
    );
    told(
        "/heartbeat",
        json!({
            "reign_start": 3, "reign_start_epoch": epoch, "last_seq": 3, "committed_seq": 0,
            "silent_after_ms": 1,
        }),
    );
    let last = reigning(&secondaries.each_ref().map(Node::url), QUICK);
    post(&last, 3, "m4");
    wait_for_logs(&last, &secondaries, &["m1", "m2", "m3", "m4"]);
}

// Empty reign

#[test]
fn no_reign_begins_over_nothing() {
    // Goal: a master in memory restarts while both secondaries are frozen, longer than
    // RECOVERY_TIMEOUT_MS. It waits, and has everything in the end.
    let mut cluster = Cluster::start(&[&[], &[]], QUICK);
    cluster.post("m1");
    cluster.secondaries.iter().for_each(Node::freeze);
    cluster.master.kill();
    cluster.master.restart();
    let urls = [cluster.secondaries[0].url(), cluster.secondaries[1].url()];
    assert_waits(&cluster.master, &format!("no answer from {}", urls.join(", ")));
    cluster.secondaries[0].thaw();
    assert_waits(&cluster.master, &format!("no answer from {}", urls[1]));
    cluster.secondaries[1].thaw();
    cluster.master.wait_until_ready();
    cluster.post("m2");
    assert_eq!(cluster.wait_until_equal(SOON).0, ["m1", "m2"]);
}

// A stray message past the master

/// Posts a message to a secondary, in the original's form.
fn stray(secondary: &Node) {
    let answer = secondary.send("POST", "/replicate", r#"{"msg":"stray"}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_stray_message_is_dropped_again() {
    // Goal: the reigning master's next message takes its place; the stray one is set aside.
    let directory = Directory::new();
    let secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let master = reigning(&secondaries.each_ref().map(Node::url), QUICK);
    post(&master, 3, "m1");
    stray(&secondaries[1]);
    let answer = master.post_message("m2");
    assert_eq!(answer.status, 201, "{}", answer.text());
    secondaries.iter().for_each(|node| wait_for_log(node, &["m1", "m2"]));
    assert_eq!(directory.dropped("s1"), [r#"{"seq":2,"epoch":0,"msg":"stray"}"#]);
    assert_eq!(master.health()["secondary_statuses"][secondaries[1].url()]["diverged"], false);
}

#[test]
fn a_stray_message_does_not_raise_the_rank() {
    // Goal: m2 is acknowledged by a majority without the secondary that holds the stray message in
    // its place. The master is lost: the next one has m2.
    for behind in [0, 1] {
        let secondaries = [Node::secondary(&[MIXED]), Node::secondary(&[MIXED])];
        let relay = Relay::to(secondaries[behind].addr());
        let mut urls = secondaries.each_ref().map(Node::url);
        urls[behind] = relay.url();
        let mut master = reigning(&urls, QUICK);
        post(&master, 3, "m1");
        relay.cut();
        post(&master, "majority", "m2");
        stray(&secondaries[behind]);
        stray(&secondaries[behind]);
        master.kill();
        relay.mend();
        master.restart();
        master.wait_until_ready();
        post(&master, 3, "m3");
        wait_for_logs(&master, &secondaries, &["m1", "m2", "m3"]);
    }
}

#[test]
fn a_stray_message_does_not_lower_the_rank() {
    // Goal: the secondary with the stray message is the one that holds m2. The stray one may stay,
    // for nobody knows better, but m2 must.
    let secondaries = [Node::secondary(&[MIXED]), Node::secondary(&[MIXED])];
    let relay = Relay::to(secondaries[1].addr());
    let mut master = reigning(&[secondaries[0].url(), relay.url()], QUICK);
    post(&master, 3, "m1");
    relay.cut();
    post(&master, "majority", "m2");
    stray(&secondaries[0]);
    master.kill();
    relay.mend();
    master.restart();
    master.wait_until_ready();
    post(&master, 3, "m3");
    let log = master.log();
    assert_eq!(
        (&log[..2], log.last().map(String::as_str)),
        (&["m1".into(), "m2".into()][..], Some("m3"))
    );
    let log: Vec<&str> = log.iter().map(String::as_str).collect();
    secondaries.iter().for_each(|node| wait_for_log(node, &log));
}

#[test]
fn the_log_of_an_original_master_is_kept() {
    // Goal: entries in the original's form are no stray ones when nobody of ours has reigned. They
    // survive a reign that appends nothing, and the loss of its master.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    secondaries.iter().for_each(stray);
    let mut master = reigning(&secondaries.each_ref().map(Node::url), QUICK);
    assert_eq!(master.log(), ["stray"]);
    wait_until("level", SOON, || {
        let health = master.health();
        let statuses = health["secondary_statuses"].as_object().cloned().unwrap_or_default();
        let level = statuses.values().all(|s| s["acked_seq"] == 1 && s["last_error"].is_null());
        if level { Ok(()) } else { Err(health.to_string()) }
    });
    master.kill();
    master.restart();
    master.wait_until_ready();
    assert_eq!(master.log(), ["stray"]);
    post(&master, 3, "m2");
    wait_for_logs(&master, &secondaries, &["stray", "m2"]);
}

// A better log is known

#[test]
fn a_better_log_is_fetched_however_long_it_takes() {
    // Goal: the secondary that holds m2 answers everything but /entries. The reign does not begin
    // over the other one's log, however often that fails, and begins as soon as it works.
    let secondaries = [Node::secondary(&[]), Node::secondary(&[])];
    let relay = Relay::to(secondaries[1].addr());
    let mut first = reigning(&[secondaries[0].url(), relay.url()], QUICK);
    post(&first, 3, "m1");
    relay.cut();
    post(&first, "majority", "m2");
    first.kill();
    static IS_BUSY: AtomicBool = AtomicBool::new(true);
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    let proxy = Fake::before(secondaries[0].addr(), |request| {
        let is_refused = request.what.starts_with("GET /entries") && IS_BUSY.load(SeqCst);
        REFUSED.fetch_add(is_refused.into(), SeqCst);
        is_refused.then_some((503, r#"{"error":"busy"}"#))
    });
    let second = masters(&[proxy.url(), secondaries[1].url()], QUICK);
    assert_waits(&second, &format!("the better log of {} cannot be fetched", proxy.url()));
    wait_until("refused ten times", SOON, || match REFUSED.load(SeqCst) {
        10.. => Ok(()),
        few => Err(few),
    });
    assert_waits(&second, "cannot be fetched");
    IS_BUSY.store(false, SeqCst);
    second.wait_until_ready();
    post(&second, 3, "m3");
    wait_for_logs(&second, &secondaries, &["m1", "m2", "m3"]);
}

// An old master that must not reign

#[test]
fn an_old_masters_directory_harms_nobody() {
    // Goal: a master comes back with an entry on its disk that the living master's log does not
    // have. It stands by, the living one does not notice, and its log heals.
    let directory = Directory::new();
    let mut secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let urls = secondaries.each_ref().map(Node::url);
    let mut first = reigning_in(&directory, "m0", &urls);
    post(&first, 3, "m1");
    secondaries.iter_mut().for_each(Node::kill);
    post(&first, 1, "lost");
    first.kill();
    secondaries.iter_mut().for_each(Node::restart);
    let mut second = reigning(&urls, QUICK);
    let epoch = second.health()["epoch"].clone();
    post(&second, 3, "m2");
    first.restart();
    first.wait_until_not_ready(&second.url());
    for number in 3..=20 {
        let answer = second.post_message(&format!("m{number}"));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    first.wait_for_line("dropped entries that the better log does not have first_seq=2 last_seq=2");
    let dropped = directory.dropped("m0");
    assert!(dropped.len() == 1 && dropped[0].ends_with(r#""msg":"lost"}"#), "{dropped:?}");
    assert_eq!(second.health()["epoch"], epoch, "it reigns on");
    second.kill();
    first.wait_until_ready();
    post(&first, 3, "m21");
    let log: Vec<String> = (1..=21).map(|number| format!("m{number}")).collect();
    let log: Vec<&str> = log.iter().map(String::as_str).collect();
    wait_for_logs(&first, &secondaries, &log);
}

#[test]
fn an_own_directory_needs_one_follower() {
    // Goal: a master comes back on its own directory. While both secondaries are frozen it waits,
    // for another one may have reigned; one that has followed nobody since is enough.
    let directory = Directory::new();
    let secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let mut master = reigning_in(&directory, "m0", &secondaries.each_ref().map(Node::url));
    post(&master, 3, "m1");
    secondaries.iter().for_each(Node::freeze);
    master.kill();
    master.restart();
    assert_waits(&master, "no answer from");
    secondaries[1].thaw();
    master.wait_until_ready();
    post(&master, "majority", "m2");
    secondaries[0].thaw();
    secondaries.iter().for_each(|node| wait_for_log(node, &["m1", "m2"]));
}

#[test]
fn a_promise_does_not_make_a_follower() {
    // Goal: another master has reigned and committed m2 without the second secondary. The former
    // one comes back on its own directory, and that secondary promises it obedience, the other one
    // does not. The promise does not make it a witness that nobody else has reigned.
    let directory = Directory::new();
    let secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    static REFUSES: AtomicBool = AtomicBool::new(false);
    let proxy = Fake::before(secondaries[0].addr(), |request| {
        let is_refused = request.what == "POST /promise" && REFUSES.load(SeqCst);
        is_refused.then_some((503, r#"{"error":"busy"}"#))
    });
    let mut first = reigning_in(&directory, "m0", &[proxy.url(), secondaries[1].url()]);
    post(&first, 3, "m1");
    first.kill();
    let relay = Relay::to(secondaries[1].addr());
    let mut second = reigning(&[secondaries[0].url(), relay.url()], QUICK);
    post(&second, 3, "m2");
    relay.cut();
    post(&second, "majority", "m3");
    second.kill();
    secondaries.iter().for_each(|secondary| {
        wait_until("silent", SOON, || match &secondary.health()["hears"] {
            Value::Null => Ok(()),
            heard => Err(heard.clone()),
        });
    });
    let epoch = secondaries[1].health()["epoch"].as_u64();
    REFUSES.store(true, SeqCst);
    first.restart();
    wait_until("promised", SOON, || match secondaries[1].health()["epoch"].as_u64() {
        now if now > epoch => Ok(()),
        now => Err(format!("{now:?}")),
    });
    secondaries[0].freeze();
    assert_waits(&first, &format!("no answer from {}", proxy.url()));
    REFUSES.store(false, SeqCst);
    secondaries[0].thaw();
    first.wait_until_ready();
    assert_eq!(first.log(), ["m1", "m2", "m3"]);
}

#[test]
fn an_old_backup_is_not_the_own_directory() {
    // Goal: the master's directory is put back from a backup. One secondary follows that master and
    // knows that more is committed: that is a takeover, which needs both.
    let directory = Directory::new();
    let secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let (own, backup) = (directory.of("m0"), directory.of("backup"));
    let mut master = reigning_in(&directory, "m0", &secondaries.each_ref().map(Node::url));
    post(&master, 3, "m1");
    master.kill();
    copy_directory(&own, &backup);
    master.restart();
    master.wait_until_ready();
    post(&master, 3, "m2");
    wait_until("told", SOON, || match secondaries[1].health()["committed_seq"].as_u64() {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    master.kill();
    std::fs::remove_dir_all(&own).expect("nobody uses it");
    copy_directory(&backup, &own);
    secondaries[0].freeze();
    master.restart();
    assert_waits(&master, &format!("no answer from {}", secondaries[0].url()));
    secondaries[0].thaw();
    master.wait_until_ready();
    assert_eq!(master.log(), ["m1", "m2"]);
}

#[test]
fn a_promoted_backup_needs_a_quorum_of_promises() {
    // Goal: as before, but the secondary that answers knows nothing of what the backup lacks. The
    // operator promotes the backup: it is no longer the directory that this one has followed last.
    let directory = Directory::new();
    let secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let relay = Relay::to(secondaries[1].addr());
    let (own, backup) = (directory.of("m0"), directory.of("backup"));
    let mut master = reigning_in(&directory, "m0", &[secondaries[0].url(), relay.url()]);
    post(&master, 3, "m1");
    master.kill();
    copy_directory(&own, &backup);
    master.restart();
    master.wait_until_ready();
    relay.cut();
    post(&master, "majority", "m2");
    master.kill();
    std::fs::remove_dir_all(&own).expect("nobody uses it");
    copy_directory(&backup, &own);
    promote(&own);
    secondaries[0].freeze();
    relay.mend();
    master.restart();
    assert_waits(&master, &format!("no answer from {}", secondaries[0].url()));
    secondaries[0].thaw();
    master.wait_until_ready();
    assert_eq!(master.log(), ["m1", "m2"]);
}

// An unacknowledged tail

#[test]
fn an_unacknowledged_tail_heals_by_itself() {
    // Goal: one of three secondaries holds an entry that no majority has. A takeover without it
    // goes on; when it comes back it drops the entry, and every secondary acknowledges.
    let directory = Directory::new();
    let mut secondaries = [durable(&directory, "s0"), Node::secondary(&[]), Node::secondary(&[])];
    let relays = [Relay::to(secondaries[1].addr()), Relay::to(secondaries[2].addr())];
    let urls = [secondaries[0].url(), relays[0].url(), relays[1].url()];
    let mut master = reigning(&urls, QUICK);
    post(&master, 4, "m1");
    relays.iter().for_each(Relay::cut);
    post(&master, 2, "tail");
    master.kill();
    secondaries[0].kill();
    relays.iter().for_each(Relay::mend);
    master.restart();
    master.wait_until_ready();
    post(&master, "majority", "m2");
    secondaries[0].restart();
    wait_for_log(&secondaries[0], &["m1", "m2"]);
    let answer = master.post_message("m3");
    assert_eq!(answer.status, 201, "{}", answer.text());
    let dropped = directory.dropped("s0");
    assert!(dropped.len() == 1 && dropped[0].ends_with(r#""msg":"tail"}"#), "{dropped:?}");
    let metrics = secondaries[0].get("/metrics");
    let counted = metrics.text().lines().find(|line| line.contains("entries_dropped_total "));
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{counted:?}");
    let status = &master.health()["secondary_statuses"][&urls[0]];
    assert_eq!((&status["diverged"], &status["last_error"]), (&json!(false), &Value::Null));
}

#[test]
fn a_tail_of_the_same_length_is_not_adopted() {
    // Goal: the secondary with the tail has heard of the next reign, over a log as long as its own.
    // The tail goes when that reign's log is reached, not only when its place is taken.
    let directory = Directory::new();
    let mut secondaries = [durable(&directory, "s0"), Node::secondary(&[]), Node::secondary(&[])];
    let relays = [Relay::to(secondaries[1].addr()), Relay::to(secondaries[2].addr())];
    let urls = [secondaries[0].url(), relays[0].url(), relays[1].url()];
    let mut master = reigning(&urls, QUICK);
    post(&master, 4, "m1");
    relays.iter().for_each(Relay::cut);
    post(&master, 2, "tail");
    master.kill();
    secondaries[0].kill();
    relays.iter().for_each(Relay::mend);
    master.restart();
    master.wait_until_ready();
    secondaries[0].restart();
    // Nothing was appended.
    wait_for_log(&secondaries[0], &["m1"]);
    master.kill();
    master.restart();
    master.wait_until_ready();
    assert_eq!(master.log(), ["m1"]);
}

// Acknowledgements that come late

/// Thaws the disk when it is dropped.
struct Thawing<'a>(&'a Disk);

impl Drop for Thawing<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

#[test]
fn a_promise_ends_calls_that_wait_for_the_disk() {
    // Goal: a call of the former master waits for a silent disk while another master is promised
    // obedience. The promise covers the entry, and the call is not acknowledged.
    let disk = Disk::sound();
    let opened = Store::with_backend(disk.clone(), 9).expect("it is empty");
    let replica = Replica::new(Some(opened), 9, u64::MAX);
    let call = |epoch: u64, seq: u64| {
        let master = format!("{:032x}", 1);
        let call = json!({
            "epoch": epoch, "master": master, "reign_start": 0, "seq": seq,
            "prev_epoch": if seq == 1 { 0 } else { epoch }, "msg": "m",
        });
        replica.receive(serde_json::from_value(call).expect("it is a call"))
    };
    assert!(matches!(call(5, 1), Outcome::Acknowledged(_)));
    disk.freeze_after(0);
    let (waiting, promised) = thread::scope(|scope| {
        // Lets both threads end when the test fails.
        let thawing = Thawing(&disk);
        let waiting = scope.spawn(|| call(5, 2));
        assert!(disk.is_frozen_within(SOON), "the call writes");
        let promise = json!({ "epoch": 6, "master": format!("{:032x}", 2), "takeover": true });
        let promise = serde_json::from_value(promise).expect("it is a promise");
        let promised = scope.spawn(|| replica.promise(promise));
        wait_until("promised in memory", SOON, || match replica.standing().position.epoch.0 {
            6 => Ok(()),
            epoch => Err(epoch),
        });
        assert!(!promised.is_finished(), "the promise is not on the disk");
        drop(thawing);
        (waiting.join().expect("no panic"), promised.join().expect("no panic"))
    });
    let Outcome::Refused(refusal) = waiting else { panic!("{waiting:?}") };
    assert_eq!(json!(refusal.code), "stale_epoch");
    let promised = promised.expect("the disk works").expect("it promises");
    assert_eq!(promised.position.last_seq.0, 2, "everything accepted is on the disk");
    assert!(matches!(call(5, 3), Outcome::Refused(_)));
}

#[test]
fn an_ack_of_a_greater_epoch_does_not_count() {
    // Goal: the secondary obeys another master by the time it acknowledges.
    let fake = Fake::start(|request, stream| {
        if !request.is_replicate() {
            return healthy(request, 0, stream);
        }
        let call = request.json();
        let mut ack = ack(&call, "a");
        ack["epoch"] = json!(call["epoch"].as_u64().expect("a number") + 1);
        respond(stream, 200, &ack.to_string())
    });
    let master = Node::master(&[&fake.url()], &[]);
    for w in [json!(2), json!("majority")] {
        let answer = master.post_to(w, "m1", SOON);
        assert!([502, 503].contains(&answer.status), "{answer:?}: {}", answer.text());
    }
}

// Amnesia

#[test]
fn a_promise_survives_a_restart() {
    // Goal: the secondary on the former master's side restarts after it has promised the new one
    // obedience: the former master gets no majority.
    let directory = Directory::new();
    let mut secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
    let relays = [Relay::to(secondaries[0].addr()), Relay::to(secondaries[1].addr())];
    let first = reigning(&relays.each_ref().map(Relay::url), QUICK);
    post(&first, 3, "m1");
    relays.iter().for_each(Relay::cut);
    let second = reigning(&secondaries.each_ref().map(Node::url), QUICK);
    post(&second, 3, "m2");
    secondaries[0].kill();
    secondaries[0].restart();
    relays[0].mend();
    let refused = first.post_to("majority", "lost", Duration::from_secs(2));
    assert!([307, 502, 503].contains(&refused.status), "{refused:?}: {}", refused.text());
    first.wait_until_not_ready(&second.url());
    post(&second, 3, "m3");
    secondaries.iter().for_each(|node| wait_for_log(node, &["m1", "m2", "m3"]));
}

// Everything starts at once

#[test]
fn a_newborn_master_harms_no_secondary_with_a_log() {
    // Goal: after a power cut a standby in memory is up first. It hears nobody, and begins a first
    // reign over nothing. The secondaries come with their logs, and then the former master.
    for is_former_back in [true, false] {
        let directory = Directory::new();
        let mut secondaries = [durable(&directory, "s0"), durable(&directory, "s1")];
        let urls = secondaries.each_ref().map(Node::url);
        let mut first = reigning_in(&directory, "m0", &urls);
        post(&first, 3, "m1");
        post(&first, 3, "m2");
        first.kill();
        secondaries.iter_mut().for_each(Node::kill);
        let newborn = reigning(&urls, QUICK);
        secondaries[0].restart();
        wait_until("no longer reigning", SOON, || match newborn.get("/ready").status {
            503 => Ok(()),
            status => Err(status),
        });
        secondaries[1].restart();
        if is_former_back {
            first.restart();
        }
        let pair = if is_former_back { vec![&first, &newborn] } else { vec![&newborn] };
        let master = wait_until("one master", SOON, || {
            let ready = pair.iter().find(|node| node.get("/ready").status == 200);
            ready.copied().ok_or("none")
        });
        assert_eq!(master.post_to(3, "m3", SOON).status, 201);
        wait_for_logs(master, &secondaries, &["m1", "m2", "m3"]);
        let dropped = [directory.dropped("s0"), directory.dropped("s1")].concat();
        assert!(dropped.is_empty(), "{dropped:?}");
    }
}

#[test]
fn a_newborn_master_gives_up_whatever_its_epoch() {
    // Goal: first reigns have random epochs. The one that the secondary followed may be less than
    // the newborn master's, or greater: the newborn one hears that it does not reign.
    for epoch in [1 << 40, (1 << 41) - 1] {
        let directory = Directory::new();
        let mut secondary = durable(&directory, "s0");
        let call = json!({ "reign_start": 0, "seq": 1, "prev_epoch": 0, "msg": "m1" });
        told(&secondary, epoch, "/replicate", call);
        secondary.kill();
        // It has nothing to send: only heartbeats tell.
        let newborn = reigning(&[secondary.url()], QUICK);
        secondary.restart();
        wait_until("a later reign", SOON, || match newborn.health()["epoch"].as_u64() {
            Some(now) if now >= 1 << 41 => Ok(()),
            now => Err(format!("{now:?}")),
        });
        post(&newborn, 2, "m2");
        [&newborn, &secondary].into_iter().for_each(|node| wait_for_log(node, &["m1", "m2"]));
    }
}
