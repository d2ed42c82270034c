//! What an operator can do with the directory of a stopped node: `verify`, `dump`, `promote`.

use std::io::{self, BufWriter, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use common::entries::Seq;
use common::settings::NodeSettings;
use common::store::{Store, StoreError, write_lines};

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
