//! A gate between redb and the file: nothing passes before we know that the file is ours.
//!
//! redb repairs a file while it opens it, and tidies it up when it closes it. Whose log it is, and
//! whether we know its format, stands inside and is read after that. So what redb writes is held in
//! memory first; it reads it back from there. Once the log is accepted everything is released, in
//! the same order and with the same syncs, and from then on the gate is open.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// What redb has done to a file that it has not done yet.
#[derive(Debug)]
enum Change {
    Len(u64),
    Write(u64, Vec<u8>),
    Sync,
}

#[derive(Debug)]
enum State {
    /// These changes wait. There are a few dozen at most: a repair and a close write little.
    Held(Vec<Change>),
    Open,
    /// Nothing passes any more.
    Shut,
}

#[derive(Debug)]
struct Inner {
    storage: Box<dyn StorageBackend>,
    /// The file may be read only, so that an exclusive lock is not to be had.
    only_reads: bool,
    state: Mutex<State>,
}

/// A gate that holds everything back at first; clones are the same gate.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Inner>);

impl Gate {
    /// Before a file to be written.
    pub(super) fn before_file(file: File) -> Result<Gate, DatabaseError> {
        Ok(Gate::before(FileBackend::new(file)?))
    }

    /// Before a file that is only read; it is never released.
    pub(super) fn before_read_only(file: File) -> Result<Gate, DatabaseError> {
        Ok(Gate::new(FileBackend::new(file)?, true))
    }

    /// Before anything else.
    pub(super) fn before(storage: impl StorageBackend) -> Gate {
        Gate::new(storage, false)
    }

    fn new(storage: impl StorageBackend, only_reads: bool) -> Gate {
        let state = Mutex::new(State::Held(Vec::new()));
        Gate(Arc::new(Inner { storage: Box::new(storage), only_reads, state }))
    }

    /// Does what was held back and lets everything pass from now on. If that fails nothing more
    /// passes.
    pub(super) fn release(&self) -> io::Result<()> {
        let (mut state, storage) = (self.lock(), &self.0.storage);
        let State::Held(changes) = std::mem::replace(&mut *state, State::Shut) else {
            return Err(io::Error::other("it was released before"));
        };
        for change in &changes {
            match change {
                Change::Len(len) => storage.set_len(*len)?,
                Change::Write(offset, data) => storage.write(*offset, data)?,
                Change::Sync => storage.sync_data()?,
            }
        }
        *state = State::Open;
        Ok(())
    }

    /// Lets nothing pass any more.
    pub(super) fn shut(&self) {
        *self.lock() = State::Shut;
    }

    pub(super) fn is_shut(&self) -> bool {
        matches!(*self.lock(), State::Shut)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a change is to be made now; otherwise it is held.
    fn passes(&self, change: impl FnOnce() -> Change) -> io::Result<bool> {
        match &mut *self.lock() {
            State::Open => Ok(true),
            State::Held(changes) => {
                changes.push(change());
                Ok(false)
            }
            State::Shut => Err(io::Error::other("nothing more is written")),
        }
    }
}

/// How long the storage is after these changes.
fn len_after(changes: &[Change], len: u64) -> u64 {
    changes.iter().fold(len, |len, change| match change {
        Change::Len(len) => *len,
        Change::Write(offset, data) => len.max(offset + data.len() as u64),
        Change::Sync => len,
    })
}

/// Reads what would be there after these changes.
fn read_after(
    changes: &[Change],
    storage: &dyn StorageBackend,
    offset: u64,
    out: &mut [u8],
) -> io::Result<()> {
    let (len, end) = (storage.len()?, offset + out.len() as u64);
    if end > len_after(changes, len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Where a place of the storage is in `out`.
    let index = |place: u64| (place.clamp(offset, end) - offset) as usize;
    let (there, beyond) = out.split_at_mut(index(len));
    if !there.is_empty() {
        storage.read(offset, there)?;
    }
    beyond.fill(0);
    for change in changes {
        match change {
            // What is cut off and comes back is empty.
            Change::Len(len) => out[index(*len)..].fill(0),
            Change::Write(at, data) => {
                let (from, to) = (index(*at), index(at + data.len() as u64));
                let skipped = (offset + from as u64).saturating_sub(*at) as usize;
                if from < to {
                    out[from..to].copy_from_slice(&data[skipped..skipped + to - from]);
                }
            }
            Change::Sync => {}
        }
    }
    Ok(())
}

impl StorageBackend for Gate {
    fn len(&self) -> io::Result<u64> {
        let len = self.0.storage.len()?;
        match &*self.lock() {
            State::Held(changes) => Ok(len_after(changes, len)),
            State::Open | State::Shut => Ok(len),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let State::Held(changes) = &*self.lock() {
            return read_after(changes, &*self.0.storage, offset, out);
        }
        self.0.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.passes(|| Change::Len(len))? { self.0.storage.set_len(len) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.passes(|| Change::Sync)? { self.0.storage.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let passes = self.passes(|| Change::Write(offset, data.to_vec()))?;
        if passes { self.0.storage.write(offset, data) } else { Ok(()) }
    }

    fn close(&self) -> io::Result<()> {
        self.0.storage.close()
    }

    // The locks that redb takes in the mode in which we open a file. They are taken at once: they
    // change nothing, and tell whether another process has it.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if self.0.only_reads {
            return self.0.storage.try_lock_shared_range(start, end);
        }
        self.0.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.storage.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn content(storage: &impl StorageBackend) -> Vec<u8> {
        let mut content = vec![0; storage.len().unwrap() as usize];
        storage.read(0, &mut content).unwrap();
        content
    }

    #[test]
    fn what_is_held_is_read_back_as_if_it_were_there_and_is_there_when_released() {
        // Goal: any changes, read at any place, agree with a storage that makes them at once.
        let mut seed = 1_u64;
        let mut dice = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (plain, behind) = (InMemoryBackend::new(), Arc::new(InMemoryBackend::new()));
            for storage in [&plain, &*behind] {
                storage.set_len(40).unwrap();
                storage.write(0, &[9; 40]).unwrap();
            }
            let gate = Gate::before(Shared(Arc::clone(&behind)));
            for step in 0..20 {
                if dice(3) == 0 {
                    let len = dice(64);
                    plain.set_len(len).unwrap();
                    gate.set_len(len).unwrap();
                }
                let len = plain.len().unwrap();
                let at = dice(len + 1);
                let data = vec![step; dice(len - at + 1) as usize];
                plain.write(at, &data).unwrap();
                gate.write(at, &data).unwrap();
                gate.sync_data().unwrap();
                let (from, expected) = (dice(len + 1) as usize, content(&plain));
                let mut read = vec![0; dice(len - from as u64 + 1) as usize];
                gate.read(from as u64, &mut read).unwrap();
                assert_eq!(read, expected[from..from + read.len()]);
                assert_eq!(content(&gate), expected);
            }
            assert!(gate.read(plain.len().unwrap(), &mut [0]).is_err(), "read beyond the end");
            assert_eq!(content(&*behind), [9; 40], "nothing has passed");
            gate.release().unwrap();
            assert_eq!(content(&*behind), content(&plain));
            gate.set_len(1).unwrap();
            assert_eq!(behind.len().unwrap(), 1);
            gate.shut();
            assert!(gate.write(0, &[1]).is_err() && gate.sync_data().is_err());
        }
    }

    /// A storage that the test can look at.
    #[derive(Debug)]
    struct Shared(Arc<InMemoryBackend>);

    impl StorageBackend for Shared {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }
}
