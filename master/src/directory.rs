//! What an operator can do with the directory of a stopped node: `verify`, `dump`, `promote`.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use common::entries::Seq;
use common::settings::NodeSettings;
use common::store::{Inspected, Store, StoreError};

/// Checks the log and says what it holds.
pub fn verify(settings: &NodeSettings) -> ExitCode {
    with_directory(settings, |directory| {
        let Inspected { role, log, epoch } = Store::inspect(directory)?;
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
        let Inspected { log, .. } = Store::inspect(directory)?;
        let mut out = BufWriter::new(io::stdout().lock());
        let mut print = || -> io::Result<()> {
            for (seq, epoch, key, json) in log.batch(Seq::NONE.next(), usize::MAX).iter() {
                write!(out, "{{\"seq\":{seq},\"epoch\":{epoch},")?;
                if let Some(key) = key {
                    write!(out, "\"key\":{},", serde_json::Value::from(key))?;
                }
                out.write_all(b"\"msg\":")?;
                out.write_all(json)?;
                out.write_all(b"}\n")?;
            }
            out.flush()
        };
        match print() {
            // Whoever reads has seen enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    })
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
    match run(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("master: {error}");
            ExitCode::FAILURE
        }
    }
}
