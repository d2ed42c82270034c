//! What an operator can do with the directory of a stopped node: `verify`, `dump`, `promote`,
//! `reset-epochs`.

use std::io::{self, BufWriter, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use common::entries::{Draft, Epoch, Log, Seq};
use common::epochs;
use common::reign::{Facts, MasterId, Reign};
use common::settings::NodeSettings;
use common::store::{Opened, Store, StoreError, write_lines};

/// Checks the log and says what it holds.
pub fn verify(settings: &NodeSettings) -> ExitCode {
    with_directory(settings, |directory| {
        let (role, log, facts) = Store::inspect(directory)?;
        let epoch = facts.promised.epoch;
        let (entries, last_epoch, bytes) = (log.last_seq(), log.last_epoch(), log.bytes());
        println!(
            "ok role={role} entries={entries} last_epoch={last_epoch} epoch={epoch} bytes={bytes}"
        );
        Ok(())
    })
}

/// Prints every entry as a JSON object on a line of its own.
pub fn dump(settings: &NodeSettings) -> ExitCode {
    with_directory(settings, |directory| {
        let (_, log, _) = Store::inspect(directory)?;
        let all = log.batch(Seq::NONE.next(), usize::MAX);
        match write_lines(&mut BufWriter::new(io::stdout().lock()), &all) {
            // The reader may have seen enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    })
}

/// Makes the log a new master's.
pub fn promote(settings: &NodeSettings) -> ExitCode {
    with_directory(settings, |directory| {
        let log = Store::promote(directory)?;
        println!("ok role=master entries={}", log.last_seq());
        Ok(())
    })
}

/// Gives everything in the log that names an epoch beyond the clock a new one, which no other log
/// has: entries of several reigns cannot be told apart in it, so no other log may be compared with
/// this one. It counts as the best, and nobody has a promise from it.
pub fn reset_epochs(settings: &NodeSettings) -> ExitCode {
    with_directory(settings, |directory| {
        let (role, ..) = Store::inspect(directory)?;
        let Opened { store, log, facts } = Store::open(directory, role, usize::MAX)?;
        let first = log.last_not_after(epochs::latest(), log.last_seq()).next();
        let is_wrong =
            first <= log.last_seq() || facts.promised.epoch.max(facts.log_epoch) > epochs::latest();
        if !is_wrong {
            println!("ok entries={} reset=0: no epoch is ahead of the clock", log.last_seq());
            return Ok(());
        }
        let (log, epoch) = renumbered(&log, first);
        let promised = Reign { epoch, master: MasterId::NONE };
        let facts = Facts { promised, followed: false, log_epoch: epoch, ..facts };
        store.write(&log.batch(first, usize::MAX), &facts)?;
        let (last, reset) = (log.last_seq(), log.last_seq().next().0 - first.0);
        println!("ok role={role} entries={last} reset={reset} epoch={epoch}");
        Ok(())
    })
}

/// The same log with the entries from this one on in a new epoch, and that epoch.
fn renumbered(log: &Log, first: Seq) -> (Log, Epoch) {
    let mut renumbered = Log::new(usize::MAX);
    let epoch = epochs::draw(log.epoch_of(first.previous()));
    for (seq, old, key, json) in log.batch(Seq::NONE.next(), usize::MAX).iter() {
        let message = serde_json::from_slice(json).expect("a log holds JSON strings");
        let draft = Draft { message, key: key.map(Into::into) };
        renumbered.append(if seq < first { old } else { epoch }, &draft);
    }
    (renumbered, epoch)
}

fn with_directory(
    settings: &NodeSettings,
    run: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> ExitCode {
    let Some(directory) = &settings.data_dir else {
        eprintln!("master: --data-dir must say where the log is");
        return ExitCode::from(2);
    };
    if let Err(error) = run(directory) {
        eprintln!("master: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
