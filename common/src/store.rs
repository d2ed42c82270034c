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

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::mem;
use std::ops::Bound::Unbounded;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::info;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
};
use serde_json::Value;

use crate::entries::{Batch, Draft, Epoch, Log, Seq};
use crate::reign::{Facts, MasterId, Reign};

/// The epoch, the idempotency key or the empty text, and the message's JSON, by place.
const ENTRIES: TableDefinition<'_, u64, (u64, &str, &[u8])> = TableDefinition::new("entries");
/// Epochs and places by name.
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
/// Masters by name; 0 for none.
const IDS: TableDefinition<'_, &str, u128> = TableDefinition::new("ids");
const EPOCH: &str = "epoch";
const ID: &str = "id";

/// The format of the tables. No other is understood.
const FORMAT: u64 = 1;

/// The name that earlier releases gave to every log: they kept format and role among the facts.
/// The first start renames such a file.
const OLD_NAME: &str = "log.redb";
const OLD_FORMAT: &str = "format";
const OLD_ROLE: &str = "role";

/// redb's cache: entries are written once and read once.
const CACHE_BYTES: usize = 8 << 20;

/// A file is copied in parts of this length, so that it is in memory once.
const PART_BYTES: usize = 1 << 20;

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

impl Role {
    fn file_name(self) -> String {
        format!("{self}-{FORMAT}.redb")
    }
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
            let opened = Store::read_back(builder().open(&own)?, most_keys)?;
            let directory = Some(std::path::absolute(directory)?);
            Ok(Opened { store: Store { directory, ..opened.store }, ..opened })
        })
    }

    /// Whose log a stopped node has left, everything in it, and the facts. The
    /// file is read into memory and repaired there after a crash, so it needs to be readable only.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn inspect(directory: &Path) -> Result<(Role, Log, Facts)> {
        within(directory, || {
            let (file, role) = existing(directory)?;
            let copy = open_copy(&file)?;
            let log = load(&copy, usize::MAX)?;
            let facts = facts(&copy, &log)?;
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
            let log = load(&open_copy(&file)?, usize::MAX)?;
            forget_id(&builder().open(&file)?)?;
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
        let database = builder().create_with_backend(backend)?;
        if is_new {
            let nothing = Log::new(0).batch(Seq::NONE.next(), 0);
            write_in_one(&database, &nothing, &Facts::default(), None, Seq::NONE)?;
        }
        Store::read_back(database, most_keys)
    }

    fn read_back(database: Database, most_keys: usize) -> Result<Opened> {
        let log = load(&database, most_keys)?;
        let (facts, last) = (facts(&database, &log)?, log.last_seq());
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
        let write = || write_in_one(file, batch, facts, Some(noted), *last);
        let Ok(written) = catch_unwind(AssertUnwindSafe(write)) else {
            // What redb would write after that is unknown. Closing the file writes too.
            mem::forget(database.take());
            return Err(problem("the engine that writes it has panicked"));
        };
        written?;
        (*noted, *last) = (*facts, batch.last());
        Ok(())
    }
}

impl Store {
    /// Sets entries aside that are going to be dropped because the log of this epoch does not have
    /// them: in `dropped-EPOCH-FIRST.jsonl` in the directory. They are on the disk when this returns.
    ///
    /// # Errors
    /// When they are not.
    pub fn set_aside(&self, dropped: &Batch, epoch: Epoch) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let name = format!("dropped-{epoch}-{}.jsonl", dropped.first());
        let mut file = File::options().create(true).append(true).open(directory.join(name))?;
        write_lines(&mut BufWriter::new(&mut file), dropped)?;
        file.sync_all()?;
        Ok(sync_directory(directory)?)
    }
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

/// Writes in one transaction. `noted` and `last` are what the file holds.
fn write_in_one(
    database: &Database,
    batch: &Batch,
    facts: &Facts,
    noted: Option<&Facts>,
    last: Seq,
) -> Result<()> {
    let write = database.begin_write()?;
    {
        let mut entries = write.open_table(ENTRIES)?;
        for dropped in batch.first().0..=last.0 {
            entries.remove(dropped)?;
        }
        for (seq, epoch, key, json) in batch.iter() {
            entries.insert(seq.0, (epoch.0, key.unwrap_or(""), json))?;
        }
        if noted.map(numbers) != Some(numbers(facts)) {
            let mut table = write.open_table(FACTS)?;
            numbers(facts)
                .into_iter()
                .try_for_each(|(name, number)| table.insert(name, number).map(drop))?;
        }
        if noted.map(ids) != Some(ids(facts)) {
            let mut table = write.open_table(IDS)?;
            ids(facts).into_iter().try_for_each(|(name, id)| table.insert(name, id).map(drop))?;
        }
    }
    write.commit()?;
    Ok(())
}

fn numbers(facts: &Facts) -> [(&'static str, u64); 5] {
    let &Facts { promised, followed, log_epoch, committed, strays_from, .. } = facts;
    [
        (EPOCH, promised.epoch.0),
        ("followed", followed.into()),
        ("log_epoch", log_epoch.0),
        ("committed", committed.0),
        ("strays_from", strays_from.0),
    ]
}

fn ids(facts: &Facts) -> [(&'static str, u128); 2] {
    [("promised", facts.promised.master.0), (ID, facts.id.0)]
}

fn forget_id(database: &Database) -> Result<()> {
    let write = database.begin_write()?;
    write.open_table(IDS)?.insert(ID, MasterId::NONE.0)?;
    Ok(write.commit()?)
}

fn load(database: &Database, most_keys: usize) -> Result<Log> {
    let mut log = Log::new(most_keys);
    for entry in database.begin_read()?.open_table(ENTRIES)?.iter()? {
        let (seq, entry) = entry?;
        let (epoch, key, json) = entry.value();
        let expected = log.last_seq().next();
        let damaged = |how| problem(format!("it is damaged: entry {expected} is {how}"));
        if seq.value() != expected.0 {
            return Err(damaged("missing"));
        }
        let message = serde_json::from_slice(json).map_err(|_| damaged("not a message"))?;
        let key = (!key.is_empty()).then(|| Arc::from(key));
        log.append(Epoch(epoch), &Draft { message, key });
    }
    Ok(log)
}

/// The facts of this file, which holds this log.
fn facts(database: &Database, log: &Log) -> Result<Facts> {
    let epoch = Epoch(fact(database, EPOCH)?);
    let table = database.begin_read()?.open_table(IDS);
    let id = |name| match &table {
        Ok(table) => Ok(MasterId(table.get(name)?.map_or(0, |id| id.value()))),
        Err(TableError::TableDoesNotExist(_)) => Ok(MasterId::NONE),
        Err(_) => Err(problem("it is damaged: it has no ids")),
    };
    Ok(Facts {
        promised: Reign { epoch, master: id("promised")? },
        // An earlier release has not noted these.
        followed: find_fact(database, "followed")? == Some(1),
        log_epoch: find_fact(database, "log_epoch")?.map_or(log.last_epoch(), Epoch),
        committed: Seq(find_fact(database, "committed")?.unwrap_or(0)).min(log.last_seq()),
        strays_from: Seq(find_fact(database, "strays_from")?.unwrap_or(0)),
        id: id(ID)?,
    })
}

fn find_fact(database: &Database, name: &str) -> Result<Option<u64>> {
    let facts = database.begin_read()?.open_table(FACTS)?;
    Ok(facts.get(name)?.map(|value| value.value()))
}

fn fact(database: &Database, name: &str) -> Result<u64> {
    find_fact(database, name)?.ok_or_else(|| problem(format!("it is damaged: it has no {name}")))
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // This reads the whole file, which we do anyway. Without it a damaged file can pass for a
    // sound one, or make redb panic.
    builder.set_check_integrity_on_open(true);
    builder
}

/// An error of this run begins with the directory.
fn within<T>(directory: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
    run().map_err(|e| StoreError { problem: format!("{}: {e}", directory.display()), ..e })
}

fn belongs_to(owner: Role) -> StoreError {
    // A copy of its log may take a lost master's place. There is no way back.
    let hint = "; to make a copy of it the log of a master, run `master --data-dir COPY promote`";
    problem(format!("it belongs to a {owner}{}", if owner == Role::Secondary { hint } else { "" }))
}

fn existing(directory: &Path) -> Result<(PathBuf, Role)> {
    find(directory)?.ok_or_else(|| problem("there is no log in it"))
}

/// The log in this directory, if there is one, and whose it is.
fn find(directory: &Path) -> Result<Option<(PathBuf, Role)>> {
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
    let copy = open_copy(file)?;
    let role = if fact(&copy, OLD_ROLE)? == 0 { Role::Master } else { Role::Secondary };
    Ok((role, fact(&copy, OLD_FORMAT)?))
}

/// Opens a copy of this file in memory, as long as the file, since redb changes what it opens.
fn open_copy(file: &Path) -> Result<Database> {
    let (file, copy) = (FileBackend::new(File::open(file)?)?, InMemoryBackend::new());
    if !file.try_lock_shared_range(Unbounded, Unbounded)? {
        return Err(redb::Error::DatabaseAlreadyOpen.into());
    }
    let len = file.len()?;
    if len == 0 {
        return Err(problem("it is damaged: it is empty"));
    }
    copy.set_len(len)?;
    for offset in (0..len).step_by(PART_BYTES) {
        let mut part = vec![0; PART_BYTES.min((len - offset) as usize)];
        file.read(offset, &mut part)?;
        copy.write(offset, &part)?;
    }
    Ok(builder().create_with_backend(copy)?)
}

/// Excludes other starts and promotions in this directory, until the lock is dropped.
fn lock(directory: &Path) -> Result<File> {
    let directory = File::open(directory)?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(redb::Error::DatabaseAlreadyOpen.into()),
        Err(TryLockError::Error(error)) => Err(error.into()),
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

/// Renames a file in this directory. The new name is on the disk when this returns.
fn rename(directory: &Path, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(directory)
}

/// Makes the directory, and those above it that are not there, and has `sync` put their names on
/// the disk: after a loss of power a log in a directory without a name is lost with it.
fn make_directory(directory: &Path, sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let missing = directory.ancestors().take_while(|above| !above.exists()).count();
    fs::create_dir_all(&directory)?;
    directory.ancestors().skip(1).take(missing).try_for_each(sync)
}

/// The names in it are on the disk after that.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use redb::backends::InMemoryBackend;

    use crate::entries::Message;

    use super::*;

    /// A directory of its own that is removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Directory {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let name = format!("store-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
            Directory(std::env::temp_dir().join(name))
        }

        fn open(&self, role: Role) -> Result<Opened> {
            Store::open(&self.0, role, 9)
        }

        fn file(&self, role: Role) -> PathBuf {
            self.0.join(format!("{role}-1.redb"))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn in_epoch(epoch: u64) -> Facts {
        let promised = Reign { epoch: Epoch(epoch), master: MasterId(4) };
        Facts { promised, log_epoch: promised.epoch, ..Facts::default() }
    }

    fn append(log: &mut Log, store: &Store, texts: &[&str]) -> Result<()> {
        let first = log.last_seq().next();
        for text in texts {
            let key = text.starts_with('k').then(|| Arc::from(*text));
            log.append(Epoch(7), &Draft { message: Message::new(text), key });
        }
        store.write(&log.batch(first, usize::MAX), &in_epoch(7))
    }

    fn texts(log: &Log) -> String {
        let chunks = log.chunks(Seq(1)..=log.last_seq());
        String::from_utf8(chunks.iter().flat_map(|c| c.bytes()).copied().collect()).unwrap()
    }

    #[test]
    fn a_written_log_is_read_back() {
        let directory = Directory::new();
        let Opened { store, mut log, facts } = directory.open(Role::Master).unwrap();
        assert_eq!((log.last_seq(), facts), (Seq::NONE, Facts::default()));
        append(&mut log, &store, &["a", "k1", "\"\u{1F600}\""]).unwrap();
        append(&mut log, &store, &["d"]).unwrap();
        let facts = Facts {
            promised: Reign { epoch: Epoch(9), master: MasterId(1 << 100) },
            followed: true,
            log_epoch: Epoch(8),
            committed: Seq(3),
            strays_from: Seq(4),
            id: MasterId(5),
        };
        store.write(&log.batch(Seq(5), 1), &facts).unwrap();
        drop(store);
        let again = directory.open(Role::Master).unwrap();
        assert_eq!(texts(&again.log), "\"a\",\"k1\",\"\\\"\u{1F600}\\\"\",\"d\"");
        assert_eq!((again.log.last_epoch(), again.facts), (Epoch(7), facts));
        assert_eq!(again.log.find_key("k1"), Some(Seq(2)));
    }

    #[test]
    fn a_batch_takes_the_place_of_later_entries() {
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
        append(&mut log, &store, &["a", "b", "c"]).unwrap();
        log.drop_from(Seq(2));
        append(&mut log, &store, &["x"]).unwrap();
        drop(store);
        let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
        assert_eq!(texts(&log), "\"a\",\"x\"");
        log.drop_from(Seq(1));
        append(&mut log, &store, &[]).unwrap();
        drop(store);
        assert_eq!(directory.open(Role::Secondary).unwrap().log.last_seq(), Seq::NONE);
    }

    #[test]
    fn new_directories_are_synced() {
        let directory = Directory::new();
        let top = directory.0.parent().unwrap();
        let synced = |made: &Path| {
            let mut synced = Vec::new();
            let sync = |above: &Path| {
                assert!(above.exists());
                synced.push(above.to_path_buf());
                sync_directory(above)
            };
            make_directory(made, sync).unwrap();
            assert!(made.is_dir());
            synced
        };
        let deeper = directory.0.join("a").join("b");
        assert_eq!(synced(&deeper), [&directory.0.join("a"), &directory.0, top]);
        assert_eq!(synced(&deeper), [] as [&Path; 0]);
    }

    #[test]
    fn of_two_starts_one_gets_the_directory() {
        for _ in 0..20 {
            let directory = Directory::new();
            let opened = std::thread::scope(|scope| {
                let starts = [0, 1].map(|_| scope.spawn(|| directory.open(Role::Master)));
                starts.map(|start| start.join().unwrap())
            });
            let refused: Vec<_> = opened.iter().filter_map(|o| o.as_ref().err()).collect();
            let [refused] = refused[..] else { panic!("{opened:?}") };
            assert!(refused.to_string().ends_with("in use by another process"), "{refused}");
        }
    }

    /// Makes the file what a process that is killed leaves.
    fn kill(file: &Path, open: impl Sized) {
        let left = fs::read(file).unwrap();
        drop(open);
        assert!(left != fs::read(file).unwrap(), "a close writes");
        fs::write(file, left).unwrap();
    }

    /// The names and the content of all files.
    fn content(directory: &Directory) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    /// A start in this role is refused for this reason and changes nothing.
    #[track_caller]
    fn assert_refused(directory: &Directory, role: Role, why: &str) {
        let before = content(directory);
        let refusal = directory.open(role).expect_err("it must be refused").to_string();
        let expected = format!("{}: {why}", directory.0.display());
        assert!(refusal.starts_with(&expected), "{refusal}");
        assert!(content(directory) == before, "changed: {refusal}");
    }

    const NOT_A_MASTERS: &str = "it belongs to a secondary; to make a copy of it the log of";

    #[test]
    fn another_role_or_format_is_refused_unchanged() {
        // Goal: nothing is opened, so that not even a repair after a crash changes anything.
        for is_killed in [false, true] {
            let directory = Directory::new();
            let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
            append(&mut log, &store, &["message"]).unwrap();
            assert_refused(&directory, Role::Secondary, "it is in use by another process");
            let file = directory.file(Role::Secondary);
            if is_killed {
                kill(&file, store);
            } else {
                drop(store);
            }
            assert_refused(&directory, Role::Master, NOT_A_MASTERS);
            fs::copy(&file, directory.file(Role::Master)).unwrap();
            for role in [Role::Master, Role::Secondary] {
                assert_refused(&directory, role, "it holds ");
            }
            fs::remove_file(directory.file(Role::Master)).unwrap();
            fs::rename(&file, directory.0.join("secondary-2.redb")).unwrap();
            for role in [Role::Master, Role::Secondary] {
                assert_refused(&directory, role, "its format is 2, this program knows 1");
            }
        }
        let directory = Directory::new();
        drop(directory.open(Role::Master).unwrap());
        assert_refused(&directory, Role::Secondary, "it belongs to a master");
    }

    #[test]
    fn what_is_no_log_is_refused_in_plain_words() {
        let directory = Directory::new();
        drop(directory.open(Role::Master).unwrap());
        for damage in [&b"something else"[..], b""] {
            fs::write(directory.file(Role::Master), damage).unwrap();
            assert_refused(&directory, Role::Master, "it is damaged");
            let looked = Store::inspect(&directory.0).expect_err("it is damaged").to_string();
            assert!(looked.contains(": it is damaged"), "{looked}");
        }
        let file = Directory::new();
        fs::write(&file.0, "a file").unwrap();
        let refusal = file.open(Role::Master).expect_err("it is a file").to_string();
        assert!(refusal.starts_with(file.0.to_str().unwrap()), "{refusal}");
        fs::remove_file(&file.0).unwrap();
    }

    #[test]
    fn a_look_at_a_log_changes_nothing() {
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
        append(&mut log, &store, &["a", "k1"]).unwrap();
        let running = Store::inspect(&directory.0).expect_err("it is in use").to_string();
        assert!(running.ends_with("in use by another process"), "{running}");
        let running = Store::promote(&directory.0).expect_err("it is in use").to_string();
        assert!(running.ends_with("in use by another process"), "{running}");
        kill(&directory.file(Role::Secondary), store);
        for is_killed in [true, false] {
            let before = content(&directory);
            let (role, log, facts) = Store::inspect(&directory.0).unwrap();
            let seen = (role, facts.promised.epoch, texts(&log));
            assert_eq!(seen, (Role::Secondary, Epoch(7), "\"a\",\"k1\"".into()));
            assert!(content(&directory) == before, "changed, is_killed={is_killed}");
            drop(directory.open(Role::Secondary).unwrap());
        }
    }

    #[test]
    fn a_look_reads_all_parts_of_a_long_file() {
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Master).unwrap();
        append(&mut log, &store, &["a", &"x".repeat(PART_BYTES), "b"]).unwrap();
        drop(store);
        let len = fs::metadata(directory.file(Role::Master)).unwrap().len() as usize;
        assert!(len > PART_BYTES && !len.is_multiple_of(PART_BYTES), "{len}");
        assert!(texts(&Store::inspect(&directory.0).unwrap().1) == texts(&log));
    }

    #[test]
    fn a_promotion_is_of_a_sound_log() {
        let directory = Directory::new();
        let nothing = Store::promote(&directory.0).expect_err("no directory").to_string();
        assert!(nothing.contains("No such file"), "{nothing}");
        let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
        append(&mut log, &store, &["a", "k1"]).unwrap();
        let file = directory.file(Role::Secondary);
        kill(&file, store);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let before = content(&directory);
        let damaged = Store::promote(&directory.0).expect_err("it is damaged").to_string();
        assert!(damaged.contains(": it is damaged"), "{damaged}");
        assert!(content(&directory) == before, "a refusal has changed it");
        fs::write(&file, &whole).unwrap();
        for _ in 0..2 {
            assert_eq!(texts(&Store::promote(&directory.0).unwrap()), texts(&log));
            let [(file, _)] = &content(&directory)[..] else { panic!("two files") };
            assert_eq!(file, &directory.file(Role::Master));
        }
        assert_refused(&directory, Role::Secondary, "it belongs to a master");
        assert_eq!(texts(&directory.open(Role::Master).unwrap().log), texts(&log));
        fs::remove_file(directory.file(Role::Master)).unwrap();
        let nothing = Store::promote(&directory.0).expect_err("nothing there").to_string();
        assert!(nothing.ends_with(": there is no log in it"), "{nothing}");
    }

    #[test]
    fn a_promotion_forgets_the_identity_alone() {
        for role in [Role::Master, Role::Secondary] {
            let directory = Directory::new();
            let Opened { store, log, .. } = directory.open(role).unwrap();
            let facts = Facts { followed: true, id: MasterId(4), ..in_epoch(7) };
            store.write(&log.batch(Seq(1), 0), &facts).unwrap();
            drop(store);
            Store::promote(&directory.0).unwrap();
            let promoted = directory.open(Role::Master).unwrap().facts;
            assert_eq!(promoted, Facts { id: MasterId::NONE, ..facts });
        }
    }

    /// Makes what an earlier release has left, with one entry and in epoch 7.
    fn make_old(directory: &Directory, role: u64, format: u64) -> Database {
        fs::create_dir_all(&directory.0).unwrap();
        let old = Database::create(directory.0.join("log.redb")).unwrap();
        let write = old.begin_write().unwrap();
        {
            let mut facts = write.open_table(FACTS).unwrap();
            for (name, fact) in [("format", format), ("role", role), ("epoch", 7)] {
                facts.insert(name, fact).unwrap();
            }
            let mut entries = write.open_table(ENTRIES).unwrap();
            entries.insert(1, (7, "k1", &b"\"old\""[..])).unwrap();
        }
        write.commit().unwrap();
        old
    }

    #[test]
    fn a_log_of_an_earlier_release_is_renamed_once() {
        for (number, role, other) in
            [(0, Role::Master, Role::Secondary), (1, Role::Secondary, Role::Master)]
        {
            for is_killed in [false, true] {
                let directory = Directory::new();
                let old = make_old(&directory, number, 1);
                assert_refused(&directory, role, "it is in use by another process");
                if is_killed {
                    kill(&directory.0.join("log.redb"), old);
                } else {
                    drop(old);
                }
                assert_refused(&directory, other, "it belongs to a");
                let before = content(&directory);
                let (owner, log, facts) = Store::inspect(&directory.0).unwrap();
                let epoch = facts.promised.epoch;
                assert_eq!((owner, epoch, &*texts(&log)), (role, Epoch(7), "\"old\""));
                assert!(content(&directory) == before, "a look has changed it");
                for _ in 0..2 {
                    let Opened { log, facts, .. } = directory.open(role).unwrap();
                    assert_eq!((&*texts(&log), facts.promised.epoch), ("\"old\"", Epoch(7)));
                    assert_eq!(log.find_key("k1"), Some(Seq(1)));
                    let [(file, _)] = &content(&directory)[..] else { panic!("two files") };
                    assert_eq!(file, &directory.file(role));
                }
            }
        }
    }

    #[test]
    fn an_earlier_log_is_promoted_or_refused() {
        let directory = Directory::new();
        kill(&directory.0.join("log.redb"), make_old(&directory, 1, 1));
        assert_eq!(texts(&Store::promote(&directory.0).unwrap()), "\"old\"");
        assert_eq!(texts(&directory.open(Role::Master).unwrap().log), "\"old\"");
        drop(make_old(&directory, 0, 1));
        assert_refused(&directory, Role::Master, "it holds ");
        fs::remove_file(directory.file(Role::Master)).unwrap();
        fs::remove_file(directory.0.join("log.redb")).unwrap();
        drop(make_old(&directory, 0, 2));
        assert_refused(&directory, Role::Master, "its format is 2, this program knows 1");
    }

    /// A storage in memory whose sync panics when it is told to; clones are the same storage.
    #[derive(Debug, Clone, Default)]
    struct Panicking {
        content: Arc<InMemoryBackend>,
        panics: Arc<AtomicBool>,
    }

    impl StorageBackend for Panicking {
        fn len(&self) -> io::Result<u64> {
            self.content.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.content.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.content.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            assert!(!self.panics.load(SeqCst), "a bug");
            self.content.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.content.write(offset, data)
        }
    }

    #[test]
    fn after_a_panic_nothing_more_is_written() {
        let storage = Panicking::default();
        let open = || Store::with_backend(storage.clone(), 9).unwrap();
        let Opened { store, mut log, .. } = open();
        append(&mut log, &store, &["a"]).unwrap();
        let content = || {
            let mut content = vec![0; storage.len().unwrap() as usize];
            storage.read(0, &mut content).unwrap();
            content
        };
        storage.panics.store(true, SeqCst);
        let failed = append(&mut log, &store, &["b"]).expect_err("it panicked").to_string();
        assert_eq!(failed, "the engine that writes it has panicked");
        storage.panics.store(false, SeqCst);
        let before = content();
        let failed = append(&mut log, &store, &["c"]).expect_err("it has failed").to_string();
        assert_eq!(failed, "the disk has failed before");
        drop(store);
        assert!(content() == before, "something was written");
        let held = texts(&open().log);
        assert!(held == "\"a\"" || held == "\"a\",\"b\"", "{held}");
    }

    /// Opens a damaged file twice, for the first time may have changed it. Gives the log's text if
    /// that was not refused.
    fn open_damaged(directory: &Directory, damaged: &[u8]) -> Option<String> {
        let file = directory.file(Role::Master);
        fs::write(&file, damaged).unwrap();
        let looked = Store::inspect(&directory.0).map(|(_, log, _)| texts(&log));
        assert!(fs::read(&file).unwrap() == damaged, "a look has changed it");
        let opened =
            [(); 2].map(|()| directory.open(Role::Master).map(|opened| texts(&opened.log)));
        for error in opened.iter().chain([&looked]).filter_map(|opened| opened.as_ref().err()) {
            assert!(error.to_string().contains("it is damaged"), "{error}");
        }
        let [looked, first, second] = [&looked, &opened[0], &opened[1]].map(|o| o.as_ref().ok());
        assert_eq!((looked, second), (first, first));
        first.cloned()
    }

    #[test]
    fn a_damaged_log_is_refused_or_whole() {
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Master).unwrap();
        for _ in 0..20 {
            append(&mut log, &store, &["message"]).unwrap();
        }
        drop(store);
        let whole = fs::read(directory.file(Role::Master)).unwrap();
        let last_page = (whole.len() - 4096..whole.len()).step_by(31);
        let cuts = last_page.chain((0..whole.len()).step_by(1009));
        let cut = cuts.map(|length| whole[..length].to_vec());
        let changed = (0..whole.len()).step_by(509).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            bytes
        });
        let opened = cut.chain(changed).map(|damaged| open_damaged(&directory, &damaged));
        let (whole, refused): (Vec<_>, Vec<_>) = opened.partition(Option::is_some);
        assert!(whole.iter().all(|held| held.as_ref() == Some(&texts(&log))));
        assert!(refused.len() > 4096 / 31, "only {} were refused", refused.len());
    }

    #[test]
    fn a_crashed_damaged_log_is_refused_or_a_prefix() {
        // Goal: redb takes a damaged last transaction for one that the crash has interrupted.
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Master).unwrap();
        for _ in 0..20 {
            append(&mut log, &store, &["message"]).unwrap();
        }
        kill(&directory.file(Role::Master), store);
        let whole = fs::read(directory.file(Role::Master)).unwrap();
        let mut refused = 0;
        for at in (1..whole.len()).step_by(1009) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            for damaged in [&whole[..at], &changed] {
                match open_damaged(&directory, damaged) {
                    Some(held) => assert!(texts(&log).starts_with(&held)),
                    None => refused += 1,
                }
            }
        }
        assert!(refused > whole.len() / 1009 / 2, "only {refused} were refused");
    }
}
