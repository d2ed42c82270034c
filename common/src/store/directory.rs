//! What is in the directory of a node: one log, whose name tells whose it is, and dropped entries.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Result, Role, StoreError, problem, tables};
use crate::entries::{Batch, Epoch};

/// The format of the tables. No other is understood.
const FORMAT: u64 = 1;

/// The name that earlier releases gave to every log: they kept format and role among the facts.
/// The first start renames such a file.
const OLD_NAME: &str = "log.redb";
const OLD_FORMAT: &str = "format";
const OLD_ROLE: &str = "role";

impl Role {
    pub(super) fn file_name(self) -> String {
        format!("{self}-{FORMAT}.redb")
    }
}

/// An error of this run begins with the directory.
pub(super) fn within<T>(directory: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
    run().map_err(|e| StoreError { problem: format!("{}: {e}", directory.display()), ..e })
}

pub(super) fn belongs_to(owner: Role) -> StoreError {
    // A copy of its log may take a lost master's place. There is no way back.
    let hint = "; to make a copy of it the log of a master, run `master --data-dir COPY promote`";
    problem(format!("it belongs to a {owner}{}", if owner == Role::Secondary { hint } else { "" }))
}

pub(super) fn existing(directory: &Path) -> Result<(PathBuf, Role)> {
    find(directory)?.ok_or_else(|| problem("there is no log in it"))
}

/// The log in this directory, if there is one, and whose it is.
pub(super) fn find(directory: &Path) -> Result<Option<(PathBuf, Role)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().into_string();
        logs.extend(name.ok().filter(|name| name == OLD_NAME || role_and_format(name).is_some()));
    }
    logs.sort();
    let name = match &logs[..] {
        [] => return Ok(None),
        [name] => name,
        _ => return Err(problem(format!("it holds {}; move one away", logs.join(" and ")))),
    };
    let file = directory.join(name);
    let (role, format) = role_and_format(name).map_or_else(|| old_role_and_format(&file), Ok)?;
    if format != FORMAT {
        return Err(problem(format!("its format is {format}, this program knows {FORMAT}")));
    }
    Ok(Some((file, role)))
}

fn role_and_format(name: &str) -> Option<(Role, u64)> {
    let (role, format) = name.strip_suffix(".redb")?.split_once('-')?;
    let role = [Role::Master, Role::Secondary].into_iter().find(|r| r.to_string() == role)?;
    Some((role, format.parse().ok()?))
}

fn old_role_and_format(file: &Path) -> Result<(Role, u64)> {
    let copy = tables::open_copy(file)?;
    let role = if tables::fact(&copy, OLD_ROLE)? == 0 { Role::Master } else { Role::Secondary };
    Ok((role, tables::fact(&copy, OLD_FORMAT)?))
}

/// Excludes other starts and promotions in this directory, until the lock is dropped.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let directory = File::open(directory)?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(redb::Error::DatabaseAlreadyOpen.into()),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Renames a file in this directory. The new name is on the disk when this returns.
pub(super) fn rename(directory: &Path, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(directory)
}

/// Makes the directory, and those above it that are not there, and has `sync` put their names on
/// the disk: after a loss of power a log in a directory without a name is lost with it.
pub(super) fn make_directory(
    directory: &Path,
    sync: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let missing = directory.ancestors().take_while(|above| !above.exists()).count();
    fs::create_dir_all(&directory)?;
    directory.ancestors().skip(1).take(missing).try_for_each(sync)
}

/// The names in it are on the disk after that.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Writes entries that the log of this epoch does not have to `dropped-EPOCH-FIRST.jsonl`.
pub(super) fn set_aside(directory: &Path, dropped: &Batch, epoch: Epoch) -> io::Result<()> {
    let name = format!("dropped-{epoch}-{}.jsonl", dropped.first());
    let mut file = File::options().create(true).append(true).open(directory.join(name))?;
    write_lines(&mut BufWriter::new(&mut file), dropped)?;
    file.sync_all()?;
    sync_directory(directory)
}

/// Writes a JSON object for each entry on a line of its own.
///
/// # Errors
/// When the writer fails.
pub fn write_lines(out: &mut impl Write, batch: &Batch) -> io::Result<()> {
    for (seq, epoch, key, json) in batch.iter() {
        let key = key.map_or(String::new(), |key| format!("\"key\":{},", Value::from(key)));
        let json = String::from_utf8_lossy(json);
        writeln!(out, "{{\"seq\":{seq},\"epoch\":{epoch},{key}\"msg\":{json}}}")?;
    }
    out.flush()
}
