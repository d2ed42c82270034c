//! Logs on a disk: written, read back, refused, promoted, damaged.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use redb::backends::InMemoryBackend;

use super::tables::{ENTRIES, FACTS, PART_BYTES};
use super::*;
use crate::entries::{Draft, Message};
use crate::reign::{MasterId, Reign};

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
    let opened = [(); 2].map(|()| directory.open(Role::Master).map(|opened| texts(&opened.log)));
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
