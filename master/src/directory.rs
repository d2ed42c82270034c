//! What an operator can do with the directory of a stopped node: `verify`, `dump`, `promote`.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use common::entries::{Log, Seq};
use common::settings::NodeSettings;
use common::store::{Store, StoreError};
use serde_json::Value;

/// Checks the log and says what it holds.
pub fn verify(settings: &NodeSettings) -> ExitCode {
    with_directory(settings, |directory| {
        let (role, log, epoch) = Store::inspect(directory)?;
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
        match print(&log) {
            // The reader may have seen enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    })
}

fn print(log: &Log) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (seq, epoch, key, json) in log.batch(Seq::NONE.next(), usize::MAX).iter() {
        let key = key.map_or(String::new(), |key| format!("\"key\":{},", Value::from(key)));
        let json = String::from_utf8_lossy(json);
        writeln!(out, "{{\"seq\":{seq},\"epoch\":{epoch},{key}\"msg\":{json}}}")?;
    }
    out.flush()
}

/// Makes the log a master's.
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
