//! The log on disk: one file, written in transactions.
//!
//! With `DATA_DIR` a node keeps its log in one file of that directory, by the embedded engine
//! [redb]. A [`Store`] knows nothing of replication: it takes batches of entries that follow
//! what it has, and a batch is there, synced, when [`Store::write`] returns. Everything that waits
//! meanwhile goes into the next one, so many writers share one sync.
//!
//! The file's name tells whose log it is, and its format: `master-1.redb`, `secondary-1.redb`. A
//! start refuses another role's log, and one of another format, before it opens the file. After a
//! crash redb repairs the file in place while it opens it, so a start that refuses a damaged file
//! may have changed it.
//!
//! The file has three tables: `entries` by place; `facts` and `ids` with the [`Facts`]. A file of an
//! earlier release has no `ids`, and its `facts` are only the greatest epoch heard of.

mod directory;
mod tables;

use std::fmt;
use std::fs::File;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use log::info;
use redb::backends::FileBackend;
use redb::{Database, StorageBackend};

use crate::entries::{Batch, Epoch, Log, Seq};
use crate::reign::Facts;

use directory::{belongs_to, existing, find, lock, make_directory, rename, sync_directory, within};

pub use directory::write_lines;

/// One transaction writes about as much at most.
pub const TRANSACTION_BYTES: usize = 8 << 20;

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A master's.
    Master,
    /// A secondary's.
    Secondary,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Master => "master",
            Role::Secondary => "secondary",
        })
    }
}

/// Why the directory cannot be used, or the disk no longer, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// What is wrong.
    pub problem: String,
    /// There is no room left.
    pub is_full: bool,
}

type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// The disk may be slow or dead.
    pub fn silent_for(time: Duration) -> StoreError {
        problem(format!("it has not answered for {} s", time.as_secs()))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for StoreError {}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> StoreError {
        use io::ErrorKind::{InvalidData, InvalidInput, StorageFull, UnexpectedEof};
        let error = error.into();
        let kind = if let redb::Error::Io(error) = &error { Some(error.kind()) } else { None };
        let is_damaged = matches!(kind, Some(InvalidData | InvalidInput | UnexpectedEof));
        let problem = match error {
            redb::Error::DatabaseAlreadyOpen => "it is in use by another process".into(),
            redb::Error::PreviousIo => "the disk has failed before".into(),
            redb::Error::Corrupted(what) => format!("it is damaged: {what}"),
            redb::Error::Io(what) if is_damaged => format!("it is damaged: {what}"),
            other => other.to_string(),
        };
        StoreError { problem, is_full: kind == Some(StorageFull) }
    }
}

fn problem(problem: impl Into<String>) -> StoreError {
    StoreError { problem: problem.into(), is_full: false }
}

/// A log on disk that is open for writing. No other process can open it meanwhile.
#[derive(Debug)]
pub struct Store {
    open: Mutex<Open>,
    /// The directory, if the log is in a file.
    directory: Option<PathBuf>,
}

/// The file, and what it is known to hold.
#[derive(Debug)]
struct Open {
    /// `None` after a panic of the engine.
    database: Option<Database>,
    facts: Facts,
    last: Seq,
}

/// What a store held when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Everything in it.
    pub log: Log,
    /// The facts in it.
    pub facts: Facts,
}

impl Store {
    /// Opens the log in this directory, which is made if it is not there, and reads it back.
    ///
    /// # Errors
    /// When the directory or the file cannot be used. A damaged file may have changed then.
    pub fn open(directory: &Path, role: Role, most_keys: usize) -> Result<Opened> {
        within(directory, || {
            make_directory(directory, sync_directory)?;
            let _lock = lock(directory)?;
            let own = directory.join(role.file_name());
            match find(directory)? {
                None => make(directory, &own)?,
                Some((_, owner)) if owner != role => return Err(belongs_to(owner)),
                Some((file, _)) if file != own => {
                    rename(directory, &file, &own)?;
                    info!("renamed the log on disk from={file:?} to={own:?}");
                }
                Some(_) => {}
            }
            let opened = Store::read_back(tables::builder().open(&own)?, most_keys)?;
            let directory = Some(std::path::absolute(directory)?);
            Ok(Opened { store: Store { directory, ..opened.store }, ..opened })
        })
    }

    /// Whose log a stopped node has left, everything in it, and the facts. The file is read into
    /// memory and repaired there after a crash, so it needs to be readable only.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn inspect(directory: &Path) -> Result<(Role, Log, Facts)> {
        within(directory, || {
            let (file, role) = existing(directory)?;
            let copy = tables::open_copy(&file)?;
            let log = tables::load(&copy, usize::MAX)?;
            let facts = tables::facts(&copy, &log)?;
            Ok((role, log, facts))
        })
    }

    /// Makes the log of a stopped node, whatever its role, a new master's, and returns it. The
    /// directory may be a copy or an old backup of another one, so it keeps no identity: its first
    /// start draws one that has never reigned. A crash leaves the one or the other.
    ///
    /// # Errors
    /// When there is none, or it cannot be used; then nothing has changed.
    pub fn promote(directory: &Path) -> Result<Log> {
        within(directory, || {
            let _lock = lock(directory)?;
            let (file, _) = existing(directory)?;
            let log = tables::load(&tables::open_copy(&file)?, usize::MAX)?;
            tables::forget_id(&tables::builder().open(&file)?)?;
            rename(directory, &file, &directory.join(Role::Master.file_name()))?;
            Ok(log)
        })
    }

    /// Opens the log in something other than a file, which is empty or was a store before.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn with_backend(backend: impl StorageBackend, most_keys: usize) -> Result<Opened> {
        let is_new = backend.len()? == 0;
        let database = tables::builder().create_with_backend(backend)?;
        if is_new {
            let nothing = Log::new(0).batch(Seq::NONE.next(), 0);
            tables::write_in_one(&database, &nothing, &Facts::default(), None, Seq::NONE)?;
        }
        Store::read_back(database, most_keys)
    }

    fn read_back(database: Database, most_keys: usize) -> Result<Opened> {
        let log = tables::load(&database, most_keys)?;
        let (facts, last) = (tables::facts(&database, &log)?, log.last_seq());
        let open = Open { database: Some(database), facts, last };
        Ok(Opened { store: Store { open: Mutex::new(open), directory: None }, log, facts })
    }

    /// Writes these entries in the place of everything from the first of them on, and the facts.
    /// Both are on the disk when this returns.
    ///
    /// # Errors
    /// When they are not, or nobody knows whether they are. Nothing more can be written then until
    /// the store has been opened again.
    pub fn write(&self, batch: &Batch, facts: &Facts) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Open { database, facts: noted, last } = &mut *open;
        let Some(file) = &*database else { return Err(redb::Error::PreviousIo.into()) };
        let write = || tables::write_in_one(file, batch, facts, Some(noted), *last);
        let Ok(written) = catch_unwind(AssertUnwindSafe(write)) else {
            // What redb would write after that is unknown. Closing the file writes too.
            mem::forget(database.take());
            return Err(problem("the engine that writes it has panicked"));
        };
        written?;
        (*noted, *last) = (*facts, batch.last());
        Ok(())
    }

    /// Sets entries aside that are going to be dropped because the log of this epoch does not have
    /// them. They are on the disk when this returns, if the log is.
    ///
    /// # Errors
    /// When they are not.
    pub fn set_aside(&self, dropped: &Batch, epoch: Epoch) -> Result<()> {
        let directory = self.directory.as_ref();
        Ok(directory.map_or(Ok(()), |it| directory::set_aside(it, dropped, epoch))?)
    }
}

/// Makes a file that is either whole or not there.
fn make(directory: &Path, file: &Path) -> Result<()> {
    let unfinished = file.with_extension("new");
    let mut options = File::options();
    // A start that did not end has left one perhaps.
    options.read(true).write(true).create(true).truncate(true);
    drop(Store::with_backend(FileBackend::new(options.open(&unfinished)?)?, 0)?);
    Ok(rename(directory, &unfinished, file)?)
}

#[cfg(test)]
mod tests;
