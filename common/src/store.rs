//! The log on disk: one file, written in transactions.
//!
//! With `DATA_DIR` a node keeps its log in `log.redb` in that directory, by the embedded engine
//! [redb]. A [`Store`] knows nothing of replication: it takes batches of entries that follow
//! what it has, and a batch is there, synced, when [`Store::write`] returns. Everything that waits
//! meanwhile goes into the next one, so many writers share one sync.
//!
//! The file has two tables: `entries` by place, and `facts`: the version of this format, whose log
//! it is, and the greatest epoch heard of.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use crate::entries::{Batch, Draft, Epoch, Log, Message};
use gate::Gate;

mod gate;

/// The epoch, the idempotency key or the empty text, and the message's JSON, by place.
const ENTRIES: TableDefinition<'_, u64, (u64, &str, &[u8])> = TableDefinition::new("entries");
/// What is to be known of the node, by these names.
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
const FORMAT: &str = "format";
const ROLE: &str = "role";
const EPOCH: &str = "epoch";

/// The version of the tables. A greater one is not understood.
const KNOWN_FORMAT: u64 = 1;

/// redb's cache: entries are written once and read once.
const CACHE_BYTES: usize = 8 << 20;

const FILE: &str = "log.redb";

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

impl StoreError {
    /// The disk may be slow or dead.
    pub fn silent_for(time: Duration) -> StoreError {
        problem(format!("it has not answered for {} s", time.as_secs()))
    }

    /// Says which file it is about.
    fn of(self, file: &Path) -> StoreError {
        StoreError { problem: format!("{}: {self}", file.display()), ..self }
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
        let (error, full) = (error.into(), std::io::ErrorKind::StorageFull);
        let is_full = matches!(&error, redb::Error::Io(error) if error.kind() == full);
        let problem = match error {
            redb::Error::DatabaseAlreadyOpen => "it is in use by another process".into(),
            redb::Error::Corrupted(what) => format!("it is damaged: {what}"),
            redb::Error::Io(error) if is_damage(error.kind()) => {
                format!("it is damaged: {error}")
            }
            redb::Error::PreviousIo => "the disk has failed before".into(),
            other => other.to_string(),
        };
        StoreError { problem, is_full }
    }
}

fn is_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn problem(problem: impl Into<String>) -> StoreError {
    StoreError { problem: problem.into(), is_full: false }
}

/// A log on disk that is open for writing. No other process can open it meanwhile.
#[derive(Debug)]
pub struct Store {
    database: Database,
    /// Before its file.
    gate: Gate,
}

/// What a store held when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Everything in it.
    pub log: Log,
    /// The greatest epoch heard of.
    pub epoch: Epoch,
}

/// What the store of a stopped node holds.
#[derive(Debug)]
pub struct Inspected {
    /// Whose it is.
    pub role: Role,
    /// Everything in it.
    pub log: Log,
    /// The greatest epoch heard of.
    pub epoch: Epoch,
}

impl Store {
    /// Opens the log in this directory, which is made if it is not there, and reads it back.
    ///
    /// # Errors
    /// When the directory or the file cannot be used; then nothing has changed.
    pub fn open(directory: &Path, role: Role, most_keys: usize) -> Result<Opened, StoreError> {
        let file = file_in(directory);
        let open = || {
            if !file.exists() {
                make_once(directory, &file, role)?;
            }
            Store::open_file(&file, Some(role), most_keys)
        };
        open().map_err(|error| error.of(&file))
    }

    /// Looks at the log of a stopped node, whatever its role. It is not changed, not even repaired
    /// after a crash, and needs to be readable only.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn inspect(directory: &Path) -> Result<Inspected, StoreError> {
        let file = file_in(directory);
        let look = || {
            let gate = Gate::before_read_only(not_empty(File::open(&file)?)?)?;
            let Opened { store, log, epoch } = Store::read_back(gate, None, usize::MAX)?;
            Ok(Inspected { role: store.role()?, log, epoch })
        };
        look().map_err(|error: StoreError| error.of(&file))
    }

    /// Makes the log of a stopped node, whatever its role, a master's, and returns it.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn promote(directory: &Path) -> Result<Log, StoreError> {
        let file = file_in(directory);
        let promote = || {
            let Opened { store, log, .. } = Store::open_file(&file, None, usize::MAX)?;
            store.set_fact(ROLE, Role::Master as u64)?;
            Ok(log)
        };
        promote().map_err(|error: StoreError| error.of(&file))
    }

    fn open_file(file: &Path, role: Option<Role>, most_keys: usize) -> Result<Opened, StoreError> {
        let file = File::options().read(true).write(true).open(file)?;
        Store::accept(Gate::before_file(not_empty(file)?)?, role, most_keys)
    }

    /// The same over something other than a file, which is empty or was a store before.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn with_backend(
        backend: impl StorageBackend,
        role: Role,
        most_keys: usize,
    ) -> Result<Opened, StoreError> {
        let is_new = backend.len()? == 0;
        let gate = Gate::before(backend);
        if is_new {
            // There is nothing that could be refused.
            gate.release()?;
            let database = builder().create_with_backend(gate.clone())?;
            set_up(&database, role)?;
            return Store::load_all(Store { database, gate }, Some(role), most_keys);
        }
        Store::accept(gate, Some(role), most_keys)
    }

    /// Reads everything, and lets the file be changed if nothing is wrong.
    fn accept(gate: Gate, role: Option<Role>, most_keys: usize) -> Result<Opened, StoreError> {
        let opened = Store::read_back(gate, role, most_keys)?;
        opened.store.gate.release()?;
        Ok(opened)
    }

    fn read_back(gate: Gate, role: Option<Role>, most_keys: usize) -> Result<Opened, StoreError> {
        let database = builder().create_with_backend(gate.clone())?;
        Store::load_all(Store { database, gate }, role, most_keys)
    }

    fn load_all(store: Store, role: Option<Role>, most_keys: usize) -> Result<Opened, StoreError> {
        let format = store.fact(FORMAT)?;
        if format != KNOWN_FORMAT {
            return Err(problem(format!(
                "its format is {format}, this program knows {KNOWN_FORMAT}"
            )));
        }
        let owner = store.role()?;
        if role.is_some_and(|role| role != owner) {
            let mut why = format!("it belongs to a {owner}");
            if owner == Role::Secondary {
                // A copy of its log may take a lost master's place. There is no way back.
                why += "; to make a copy of it the log of a master, run \
                        `master --data-dir COPY promote`";
            }
            return Err(problem(why));
        }
        let epoch = Epoch(store.fact(EPOCH)?);
        let log = store.load(most_keys)?;
        Ok(Opened { store, log, epoch })
    }

    fn load(&self, most_keys: usize) -> Result<Log, StoreError> {
        let mut log = Log::new(most_keys);
        let read = self.database.begin_read()?;
        for entry in read.open_table(ENTRIES)?.iter()? {
            let (seq, entry) = entry?;
            let (epoch, key, json) = entry.value();
            let expected = log.last_seq().next();
            if seq.value() != expected.0 {
                return Err(problem(format!("it is damaged: entry {expected} is missing")));
            }
            let message = serde_json::from_slice::<Message>(json);
            let message = message.map_err(|_| {
                problem(format!("it is damaged: entry {expected} is not a message"))
            })?;
            let key = (!key.is_empty()).then(|| Arc::from(key));
            log.append(Epoch(epoch), &Draft { message, key });
        }
        Ok(log)
    }

    /// Writes these entries, which follow what is there, and notes the greatest epoch heard of.
    /// Both are on the disk when this returns.
    ///
    /// # Errors
    /// When they are not, or nobody knows whether they are. Nothing more can be written then until
    /// the store has been opened again.
    pub fn write(&self, batch: &Batch, epoch: Epoch) -> Result<(), StoreError> {
        if self.gate.is_shut() {
            return Err(redb::Error::PreviousIo.into());
        }
        let written = catch_unwind(AssertUnwindSafe(|| self.write_in_one(batch, epoch)));
        written.unwrap_or_else(|_| {
            // Nobody knows what redb would write after that.
            self.gate.shut();
            Err(problem("the engine that writes it has panicked"))
        })
    }

    fn write_in_one(&self, batch: &Batch, epoch: Epoch) -> Result<(), StoreError> {
        let write = self.database.begin_write()?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            for (seq, epoch, key, json) in batch.iter() {
                entries.insert(seq.0, (epoch.0, key.unwrap_or(""), json))?;
            }
            let mut facts = write.open_table(FACTS)?;
            let noted = facts.get(EPOCH)?.map(|noted| noted.value());
            if noted != Some(epoch.0) {
                facts.insert(EPOCH, epoch.0)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn role(&self) -> Result<Role, StoreError> {
        match self.fact(ROLE)? {
            0 => Ok(Role::Master),
            1 => Ok(Role::Secondary),
            other => Err(problem(format!("it is damaged: there is no role {other}"))),
        }
    }

    fn fact(&self, name: &str) -> Result<u64, StoreError> {
        let read = self.database.begin_read()?;
        let facts = read.open_table(FACTS)?;
        let fact = facts.get(name)?.map(|value| value.value());
        fact.ok_or_else(|| problem(format!("it is damaged: it has no {name}")))
    }

    fn set_fact(&self, name: &str, value: u64) -> Result<(), StoreError> {
        let write = self.database.begin_write()?;
        write.open_table(FACTS)?.insert(name, value)?;
        write.commit()?;
        Ok(())
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // Reads the whole file, which we do anyway. Without it a damaged one can be taken for a good
    // one, or make redb panic.
    builder.set_check_integrity_on_open(true);
    builder
}

/// redb would make an empty file a new log.
fn not_empty(file: File) -> Result<File, StoreError> {
    match file.metadata()?.len() {
        0 => Err(problem("it is damaged: it is empty")),
        _ => Ok(file),
    }
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Makes the file, unless another node has just made it: of two that start at the same moment
/// neither may replace what the other one has opened.
fn make_once(directory: &Path, file: &Path, role: Role) -> Result<(), StoreError> {
    make_directory(directory, sync_directory)?;
    let directory_lock = File::open(directory)?;
    directory_lock.lock()?;
    if file.exists() { Ok(()) } else { make(directory, file, role) }
}

/// Makes a file that is either whole or not there.
fn make(directory: &Path, file: &Path, role: Role) -> Result<(), StoreError> {
    let unfinished = directory.join("log.redb.new");
    if unfinished.exists() {
        // A start that ended in between has left it.
        fs::remove_file(&unfinished)?;
    }
    let database = builder().create(&unfinished)?;
    set_up(&database, role)?;
    drop(database);
    fs::rename(&unfinished, file)?;
    sync_directory(directory)?;
    Ok(())
}

/// Makes the directory, and those above it that are not there, and has `sync` put their names on
/// the disk: after a loss of power a log in a directory without a name is lost with it.
fn make_directory(directory: &Path, sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let missing = directory.ancestors().take_while(|above| !above.exists()).count();
    fs::create_dir_all(&directory)?;
    directory.ancestors().skip(1).take(missing).try_for_each(sync)
}

/// What it contains is on the disk by its name after that.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn set_up(database: &Database, role: Role) -> Result<(), StoreError> {
    let write = database.begin_write()?;
    {
        let mut facts = write.open_table(FACTS)?;
        facts.insert(FORMAT, KNOWN_FORMAT)?;
        facts.insert(ROLE, role as u64)?;
        facts.insert(EPOCH, 0)?;
        write.open_table(ENTRIES)?;
    }
    write.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use redb::backends::InMemoryBackend;

    use crate::entries::Seq;

    use super::*;

    /// A directory of its own that is removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Directory {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let name = format!("store-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
            Directory(std::env::temp_dir().join(name))
        }

        fn open(&self, role: Role) -> Result<Opened, StoreError> {
            Store::open(&self.0, role, 9)
        }

        fn refusal(&self) -> String {
            self.open(Role::Master).expect_err("it must be refused").to_string()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn append(log: &mut Log, store: &Store, texts: &[&str]) -> Result<(), StoreError> {
        let first = log.last_seq().next();
        for text in texts {
            let key = text.starts_with('k').then(|| Arc::from(*text));
            log.append(Epoch(7), &Draft { message: Message::new(text), key });
        }
        store.write(&log.batch(first, usize::MAX), Epoch(7))
    }

    fn texts(log: &Log) -> String {
        let chunks = log.chunks(Seq(1)..=log.last_seq());
        String::from_utf8(chunks.iter().flat_map(|c| c.bytes()).copied().collect()).unwrap()
    }

    #[test]
    fn what_was_written_is_read_back_with_epochs_and_keys() {
        let directory = Directory::new();
        let Opened { store, mut log, epoch } = directory.open(Role::Master).unwrap();
        assert_eq!((log.last_seq(), epoch), (Seq::NONE, Epoch(0)));
        append(&mut log, &store, &["a", "k1", "\"\u{1F600}\""]).unwrap();
        append(&mut log, &store, &["d"]).unwrap();
        store.write(&log.batch(Seq(5), 1), Epoch(9)).unwrap();
        drop(store);
        let again = directory.open(Role::Master).unwrap();
        assert_eq!(texts(&again.log), "\"a\",\"k1\",\"\\\"\u{1F600}\\\"\",\"d\"");
        assert_eq!((again.log.last_epoch(), again.epoch), (Epoch(7), Epoch(9)));
        assert_eq!(again.log.find_key("k1"), Some(Seq(2)));
    }

    #[test]
    fn the_names_of_new_directories_are_put_on_the_disk() {
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
    fn of_two_that_start_in_a_new_directory_one_gets_it() {
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
    fn kill(directory: &Directory, store: Store) {
        let left = fs::read(file_in(&directory.0)).unwrap();
        drop(store);
        assert!(left != fs::read(file_in(&directory.0)).unwrap(), "a close writes");
        fs::write(file_in(&directory.0), left).unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_plain_words_and_left_as_it_is() {
        let directory = Directory::new();
        let file = file_in(&directory.0);
        let refused = |as_role: Role, why: &str| {
            let before = fs::read(&file).unwrap();
            let refusal = directory.open(as_role).expect_err("it must be refused").to_string();
            assert!(refusal.contains(why), "{refusal}");
            assert!(fs::read(&file).unwrap() == before, "changed: {why}");
        };
        for is_killed in [false, true] {
            let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
            append(&mut log, &store, &["message"]).unwrap();
            refused(Role::Secondary, "it is in use by another process");
            if is_killed {
                kill(&directory, store)
            } else {
                drop(store)
            }
            refused(Role::Master, "it belongs to a secondary; to make a copy of it the log of");
            let store = directory.open(Role::Secondary).unwrap().store;
            store.set_fact(FORMAT, 2).unwrap();
            if is_killed {
                kill(&directory, store)
            } else {
                drop(store)
            }
            refused(Role::Secondary, "its format is 2, this program knows 1");
            refused(Role::Master, "its format is 2, this program knows 1");
            fs::remove_file(&file).unwrap();
        }
        drop(directory.open(Role::Master).unwrap());
        let refusal = directory.open(Role::Secondary).expect_err("another role's").to_string();
        assert!(refusal.ends_with("it belongs to a master"), "{refusal}");
        for damage in [&b"something else"[..], b""] {
            fs::write(&file, damage).unwrap();
            refused(Role::Master, "it is damaged");
        }
        let file = Directory::new();
        fs::write(&file.0, "a file").unwrap();
        assert!(file.refusal().contains("log.redb"), "{}", file.refusal());
        fs::remove_file(&file.0).unwrap();
    }

    #[test]
    fn a_look_changes_nothing_not_even_after_a_crash_and_is_refused_while_a_node_runs() {
        let directory = Directory::new();
        let file = file_in(&directory.0);
        let Opened { store, mut log, .. } = directory.open(Role::Secondary).unwrap();
        append(&mut log, &store, &["a", "k1"]).unwrap();
        let running = Store::inspect(&directory.0).expect_err("it is in use").to_string();
        assert!(running.ends_with("in use by another process"), "{running}");
        kill(&directory, store);
        for is_killed in [true, false] {
            let before = fs::read(&file).unwrap();
            let Inspected { role, log, epoch } = Store::inspect(&directory.0).unwrap();
            assert_eq!(
                (role, epoch, texts(&log)),
                (Role::Secondary, Epoch(7), "\"a\",\"k1\"".into())
            );
            assert!(fs::read(&file).unwrap() == before, "changed, is_killed={is_killed}");
            drop(directory.open(Role::Secondary).unwrap());
        }
        let promoted = Store::promote(&directory.0).unwrap();
        assert_eq!(texts(&promoted), texts(&log));
        assert_eq!(texts(&directory.open(Role::Master).unwrap().log), texts(&log));
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
    fn a_panic_while_it_is_written_is_an_error_and_nothing_more_is_written() {
        let storage = Panicking::default();
        let open = || Store::with_backend(storage.clone(), Role::Master, 9).unwrap();
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

    #[test]
    fn a_file_that_was_cut_or_changed_is_refused_and_left_as_it_is_or_holds_everything() {
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Master).unwrap();
        for _ in 0..20 {
            append(&mut log, &store, &["message"]).unwrap();
        }
        drop(store);
        let file = file_in(&directory.0);
        let whole = fs::read(&file).unwrap();
        let cuts = (whole.len() - 4096..whole.len()).chain((0..whole.len()).step_by(1009));
        let cut = cuts.map(|length| whole[..length].to_vec());
        let changed = (0..whole.len()).step_by(509).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            bytes
        });
        let mut refused = 0;
        for damaged in cut.chain(changed) {
            fs::write(&file, &damaged).unwrap();
            match directory.open(Role::Master) {
                Ok(opened) => assert_eq!(texts(&opened.log), texts(&log)),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("it is damaged"), "{error}");
                    assert!(fs::read(&file).unwrap() == damaged, "it was changed");
                }
            }
        }
        assert!(refused > 4096, "only {refused} were refused");
    }

    #[test]
    fn a_file_that_was_cut_or_changed_after_a_crash_is_refused_and_left_as_it_is_or_a_prefix() {
        // Goal: redb takes a damaged last transaction for one that the crash has interrupted.
        let directory = Directory::new();
        let Opened { store, mut log, .. } = directory.open(Role::Master).unwrap();
        for _ in 0..20 {
            append(&mut log, &store, &["message"]).unwrap();
        }
        kill(&directory, store);
        let file = file_in(&directory.0);
        let whole = fs::read(&file).unwrap();
        let mut refused = 0;
        for at in (1..whole.len()).step_by(1009) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            for damaged in [whole[..at].to_vec(), changed] {
                fs::write(&file, &damaged).unwrap();
                match directory.open(Role::Master) {
                    Ok(opened) => assert!(texts(&log).starts_with(&texts(&opened.log))),
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().contains("it is damaged"), "{error}");
                        assert!(fs::read(&file).unwrap() == damaged, "it was changed");
                    }
                }
            }
        }
        assert!(refused > whole.len() / 1009 / 2, "only {refused} were refused");
    }
}
