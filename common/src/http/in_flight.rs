//! Counts requests in progress.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts requests in progress, and can wait until there are none.
#[derive(Default)]
pub(super) struct InFlight {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// One request in progress: the `number`th when it began.
pub(super) struct InProgress<'a> {
    of: &'a InFlight,
    pub(super) number: usize,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, usize> {
        // A number is never half written.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        *self.lock()
    }

    pub(super) fn enter(&self) -> InProgress<'_> {
        let mut count = self.lock();
        *count += 1;
        InProgress { of: self, number: *count }
    }

    /// Returns how many there still are when the time is up.
    pub(super) fn wait_until_none(&self, timeout: Duration) -> usize {
        let waited = self.fewer.wait_timeout_while(self.lock(), timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let mut count = self.of.lock();
        *count -= 1;
        if *count == 0 {
            self.of.fewer.notify_all();
        }
    }
}
