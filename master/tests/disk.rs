//! Disks that fail, freeze, panic or lose power at the n-th sync, for every n of a small run.

mod support;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::client::Bearer;
use common::entries::{Draft, Log, Message, Seq};
use common::store::{Opened, Store};
use master::concern::Concern;
use master::health::Thresholds;
use master::outcome::{NotAppended, Outcome as Written, ReadOnly};
use master::state::{Options, Replication};
use master::takeover::Recovery;
use master::{couriers, recovery};
use secondary::replica::{Outcome, Replica};
use serde_json::json;
use support::SOON;
use support::disk::Disk;
use support::history::Dice;

/// How many entries a run writes, one after another.
const ENTRIES: u64 = 8;

/// More syncs than a run makes.
const SYNCS: u64 = 30;

/// How long a master waits for what it needs for an answer: longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that keeps its log on a disk: what the runs below ask of both roles.
trait Durable: Sync {
    fn start(opened: Opened) -> Self;
    /// Writes the entry of this number; whether it was acknowledged.
    fn write(&self, number: u64) -> bool;
    /// Why nothing can be written any more.
    fn disk_failed(&self) -> Option<String>;
    /// What it shows.
    fn shown(&self) -> u64;
}

impl Durable for Replica {
    fn start(opened: Opened) -> Replica {
        Replica::new(Some(opened), 9, u64::MAX)
    }

    fn write(&self, number: u64) -> bool {
        let prev_epoch = u8::from(number > 1);
        let call = json!({ "epoch": 1, "prev_epoch": prev_epoch, "seq": number, "msg": "m" });
        match self.receive(serde_json::from_value(call).expect("it is a call")) {
            Outcome::Acknowledged(ack) => {
                assert_eq!(ack.position.last_seq, Seq(number));
                true
            }
            Outcome::DiskFailed(_) => false,
            outcome => panic!("{outcome:?}"),
        }
    }

    fn disk_failed(&self) -> Option<String> {
        Replica::read_only(self)
    }

    fn shown(&self) -> u64 {
        self.standing().position.last_seq.0
    }
}

impl Durable for Arc<Replication> {
    fn start(opened: Opened) -> Arc<Replication> {
        let options = Options {
            secondaries: Vec::new(),
            ack_timeout: PATIENCE,
            quorum: None,
            idempotency_keys: 9,
            thresholds: Thresholds { suspected_after: 2, unhealthy_after: 5 },
            max_log_bytes: u64::MAX,
            heartbeat: Duration::from_millis(500),
            recovery_timeout: Duration::ZERO,
            recovery: Recovery::Auto,
            url: String::new(),
            token: Bearer::default(),
        };
        let Opened { log, facts, store } = opened;
        let (options, store) = (Arc::new(options), Some(Arc::new(store)));
        let replication = Arc::new(Replication::new(options, log, facts, store));
        let threads = couriers::start(&replication).expect("a thread can be started");
        recovery::recover(&replication, threads, false);
        replication
    }

    fn write(&self, _number: u64) -> bool {
        let draft = Draft { message: Message::new("m"), key: None };
        let acknowledged = Mutex::new(None);
        Replication::write(self, &draft, Concern::AllOrFail, (), |_, (), written| {
            let is = match written {
                Written::Acknowledged(_) => true,
                Written::Unacknowledged { node, stored, .. } => {
                    assert_eq!((&*node, stored.is_saved), ("the master", false));
                    false
                }
                Written::DiskFailed(..)
                | Written::NotAppended(NotAppended::ReadOnly(ReadOnly::DiskFailed(_))) => false,
                other => panic!("{other:?}"),
            };
            *acknowledged.lock().expect("nobody panics") = Some(is);
        });
        acknowledged.into_inner().expect("nobody panics").expect("it was answered")
    }

    fn disk_failed(&self) -> Option<String> {
        self.lock().disk_failure().map(|error| error.problem.clone())
    }

    fn shown(&self) -> u64 {
        self.lock().lines.stored_seq().0
    }
}

fn entries(log: &Log) -> u64 {
    log.last_seq().0
}

/// A store whose syncs fail, but for the first so many; `None` if it cannot even be opened.
fn failing(syncs: u64) -> (Disk, Option<Opened>) {
    let disk = Disk::failing_after(syncs);
    let opened = Store::with_backend(disk.clone(), 9);
    (disk, opened.ok())
}

/// A store whose syncs panic, but for the first so many after it was opened.
fn panicking(syncs: u64) -> (Disk, Option<Opened>) {
    let disk = Disk::sound();
    let opened = Store::with_backend(disk.clone(), 9).expect("the disk is sound");
    disk.panic_after(syncs);
    (disk, Some(opened))
}

/// Goal: whichever sync fails, nothing is acknowledged from then on; what was is there after a
/// restart, even if the power is lost, and nothing that came after the failure.
fn fails_at_every_sync<N: Durable>(open: fn(u64) -> (Disk, Option<Opened>), reason: &str) {
    let mut failed = 0;
    for syncs in 0..SYNCS {
        let (disk, opened) = open(syncs);
        let mut acknowledged = 0;
        if let Some(opened) = opened {
            let node = N::start(opened);
            while acknowledged < ENTRIES && node.write(acknowledged + 1) {
                acknowledged += 1;
            }
            if acknowledged < ENTRIES {
                failed += 1;
                assert!(!node.write(acknowledged + 1), "acknowledged on a broken disk");
                let why = node.disk_failed().unwrap_or_default();
                assert!(why.contains(reason), "{why:?}");
                assert_eq!(node.shown(), acknowledged, "it shows what is on the disk");
            }
            for seed in 0..20 {
                let left = disk.after_power_loss(&mut Dice::new(syncs * 100 + seed));
                let again = Store::with_backend(left, 9);
                let held = entries(&again.expect("it was whole before").log);
                let expected = acknowledged..=acknowledged + 1;
                assert!(expected.contains(&held), "{held} of {acknowledged}, {syncs} syncs");
            }
            // Closing the store syncs once more.
            disk.thaw();
        }
    }
    assert!(failed as u64 >= ENTRIES, "only {failed} runs failed");
}

#[test]
fn a_secondarys_disk_fails_at_every_sync() {
    fails_at_every_sync::<Replica>(failing, "the disk is broken");
}

#[test]
fn a_masters_disk_fails_at_every_sync() {
    fails_at_every_sync::<Arc<Replication>>(failing, "the disk is broken");
}

#[test]
fn a_secondarys_engine_panics_at_every_sync() {
    fails_at_every_sync::<Replica>(panicking, "has panicked");
}

#[test]
fn a_masters_engine_panics_at_every_sync() {
    fails_at_every_sync::<Arc<Replication>>(panicking, "has panicked");
}

/// Ends with a disk that is not frozen, for a failed run joins its threads and closes its store.
struct Thaws<'a>(&'a Disk);

impl Drop for Thaws<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

/// Goal: whichever sync freezes, reads go on and show what is on the disk, writes are told so after
/// a while, and when the disk answers again everything goes on.
fn freezes_at_every_sync<N: Durable>() {
    let froze = |syncs| {
        let disk = Disk::sound();
        let opened = Store::with_backend(disk.clone(), 9).expect("the disk is sound");
        let node = N::start(opened);
        disk.freeze_after(syncs);
        thread::scope(|scope| {
            let _thaws = Thaws(&disk);
            let first = scope.spawn(|| (1..=ENTRIES).take_while(|n| node.write(*n)).count());
            while !disk.is_frozen_within(Duration::from_millis(10)) {
                if first.is_finished() {
                    assert_eq!(first.join().expect("no panic"), ENTRIES as usize);
                    return false;
                }
            }
            let shown = node.shown();
            let start = Instant::now();
            assert!(!node.write(shown + 1), "acknowledged on a frozen disk");
            assert!(start.elapsed() < SOON, "it hangs");
            assert_eq!((node.shown(), node.disk_failed()), (shown, None));
            disk.thaw();
            first.join().expect("no panic");
            let next = node.shown() + 1;
            assert!(node.write(next), "it goes on");
            true
        })
    };
    let frozen = thread::scope(|scope| {
        let runs: Vec<_> = (0..SYNCS).map(|syncs| scope.spawn(move || froze(syncs))).collect();
        runs.into_iter().map(|run| run.join().expect("a run failed")).filter(|froze| *froze).count()
    });
    assert!(frozen as u64 >= ENTRIES, "only {frozen} runs froze");
}

#[test]
fn a_secondarys_disk_freezes_at_every_sync() {
    freezes_at_every_sync::<Replica>();
}

#[test]
fn a_masters_disk_freezes_at_every_sync() {
    freezes_at_every_sync::<Arc<Replication>>();
}
