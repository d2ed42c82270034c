//! The tables of a file, written and read.

use std::fs::File;
use std::ops::Bound::Unbounded;
use std::path::Path;
use std::sync::Arc;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
};

use super::{Result, problem};
use crate::entries::{Batch, Draft, Epoch, Log, Seq};
use crate::reign::{Facts, MasterId, Reign};

/// The epoch, the idempotency key or the empty text, and the message's JSON, by place.
pub(super) const ENTRIES: TableDefinition<'_, u64, (u64, &str, &[u8])> =
    TableDefinition::new("entries");
/// Epochs and places by name.
pub(super) const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
/// Masters by name; 0 for none.
const IDS: TableDefinition<'_, &str, u128> = TableDefinition::new("ids");
const EPOCH: &str = "epoch";
const ID: &str = "id";

/// redb's cache: entries are written once and read once.
const CACHE_BYTES: usize = 8 << 20;

/// A file is copied in parts of this length, so that it is in memory once.
pub(super) const PART_BYTES: usize = 1 << 20;

/// Writes in one transaction. `noted` and `last` are what the file holds.
pub(super) fn write_in_one(
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

pub(super) fn forget_id(database: &Database) -> Result<()> {
    let write = database.begin_write()?;
    write.open_table(IDS)?.insert(ID, MasterId::NONE.0)?;
    Ok(write.commit()?)
}

pub(super) fn load(database: &Database, most_keys: usize) -> Result<Log> {
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
pub(super) fn facts(database: &Database, log: &Log) -> Result<Facts> {
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

pub(super) fn fact(database: &Database, name: &str) -> Result<u64> {
    find_fact(database, name)?.ok_or_else(|| problem(format!("it is damaged: it has no {name}")))
}

pub(super) fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // This reads the whole file, which we do anyway. Without it a damaged file can pass for a
    // sound one, or make redb panic.
    builder.set_check_integrity_on_open(true);
    builder
}

/// Opens a copy of this file in memory, as long as the file, since redb changes what it opens.
pub(super) fn open_copy(file: &Path) -> Result<Database> {
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
