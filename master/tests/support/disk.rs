//! A disk that fails, freezes or loses power at a sync.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;

use super::history::Dice;

/// What happens at a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The sync of this number and all after it fail.
    Fail(u64),
    /// The sync of this number does not return before [`Disk::thaw`].
    Freeze(u64),
    /// The sync of this number and all after it panic, as a bug in the engine would.
    Panic(u64),
}

#[derive(Debug)]
struct Inner {
    /// What is read back while there is power.
    written: Vec<u8>,
    /// What a loss of power leaves for certain.
    synced: Vec<u8>,
    /// Writes since the last sync: of these any may be left.
    unsynced: Vec<(usize, Vec<u8>)>,
    syncs: u64,
    fault: Fault,
    is_frozen: bool,
}

/// A disk in memory; clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<(Mutex<Inner>, Condvar)>);

impl Disk {
    fn with(content: Vec<u8>, fault: Fault) -> Disk {
        let (written, synced) = (content.clone(), content);
        let (unsynced, syncs, is_frozen) = (Vec::new(), 0, false);
        let inner = Inner { written, synced, unsynced, syncs, fault, is_frozen };
        Disk(Arc::new((Mutex::new(inner), Condvar::new())))
    }

    /// An empty one whose syncs fail, but for the first so many.
    pub fn failing_after(syncs: u64) -> Disk {
        Disk::with(Vec::new(), Fault::Fail(syncs))
    }

    /// An empty one that works.
    pub fn sound() -> Disk {
        Disk::with(Vec::new(), Fault::None)
    }

    /// From now on so many syncs return, and the next freezes.
    pub fn freeze_after(&self, syncs: u64) {
        let mut inner = self.lock();
        inner.fault = Fault::Freeze(inner.syncs + syncs);
    }

    /// From now on so many syncs return, and the next panics.
    pub fn panic_after(&self, syncs: u64) {
        let mut inner = self.lock();
        inner.fault = Fault::Panic(inner.syncs + syncs);
    }

    /// Returns when a sync is frozen, or `false` after this time.
    pub fn is_frozen_within(&self, time: Duration) -> bool {
        let waited = self.0.1.wait_timeout_while(self.lock(), time, |inner| !inner.is_frozen);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_frozen
    }

    /// The frozen sync returns.
    pub fn thaw(&self) {
        self.lock().fault = Fault::None;
        self.0.1.notify_all();
    }

    /// What the disk holds when its power is lost now: of what was not synced, any part.
    pub fn after_power_loss(&self, dice: &mut Dice) -> Disk {
        let inner = self.lock();
        let mut content = inner.synced.clone();
        content.resize(inner.written.len(), 0);
        for (offset, data) in &inner.unsynced {
            if dice.below(2) == 0 && offset + data.len() <= content.len() {
                content[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
        Disk::with(content, Fault::None)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (inner, offset) = (self.lock(), offset as usize);
        let content = inner.written.get(offset..offset + out.len());
        out.copy_from_slice(content.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().written.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.syncs += 1;
        if matches!(inner.fault, Fault::Fail(after) if inner.syncs > after) {
            return Err(io::Error::other("the disk is broken"));
        }
        assert!(!matches!(inner.fault, Fault::Panic(after) if inner.syncs > after), "a bug");
        let this = inner.syncs;
        while matches!(inner.fault, Fault::Freeze(after) if this > after) {
            inner.is_frozen = true;
            self.0.1.notify_all();
            inner = self.0.1.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.synced = inner.written.clone();
        inner.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut inner, offset) = (self.lock(), offset as usize);
        inner.written[offset..offset + data.len()].copy_from_slice(data);
        inner.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}
