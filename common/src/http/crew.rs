//! The threads of one server: loops that each take a request and handle it.
//!
//! A few fixed loops would block everybody as soon as each waits for a slow acknowledgement; a
//! thread per request costs more than the request. So a loop that takes a request when no other
//! one is waiting hires a further thread first, up to a limit. Threads that are not needed leave.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, warn};

use crate::locked::locked;

/// How long a thread waits for a job before it asks whether it is still needed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a thread waits for a job while more than [`KEPT`] wait, before it leaves.
const SURPLUS_PATIENCE: Duration = Duration::from_millis(50);

/// Waiting threads that stay, however quiet it is.
const KEPT: usize = 4;

/// What a crew does.
pub(super) trait Work: Send + Sync + 'static {
    type Job;
    /// Waits for the next job, at most so long. One thread at a time calls it.
    fn next(&self, patience: Duration) -> Option<Self::Job>;
    fn run(&self, job: Self::Job);
    /// Whether no more jobs will come, after there was none for so long.
    fn is_over(&self, quiet: Duration) -> bool;
}

/// The threads that share one source of jobs.
pub(super) struct Crew<W> {
    work: W,
    most: usize,
    threads: AtomicUsize,
    /// Threads without a job.
    waiting: AtomicUsize,
    /// Held by the thread that waits for the next job; the others wait for the lock.
    lead: Mutex<()>,
}

impl<W: Work> Crew<W> {
    /// Starts with one thread; there will be at most so many.
    ///
    /// # Errors
    /// When the system has no thread.
    pub(super) fn start(work: W, most: usize) -> io::Result<()> {
        let (threads, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Crew { work, most, threads, waiting, lead: Mutex::default() }).hire()
    }

    fn hire(self: &Arc<Self>) -> io::Result<()> {
        self.threads.fetch_add(1, SeqCst);
        self.waiting.fetch_add(1, SeqCst);
        let crew = Arc::clone(self);
        let spawned =
            thread::Builder::new().name("http-handler".into()).spawn(move || crew.serve());
        if spawned.is_err() {
            self.leave();
        }
        spawned.map(|_| ())
    }

    fn leave(&self) {
        self.waiting.fetch_sub(1, SeqCst);
        self.threads.fetch_sub(1, SeqCst);
    }

    /// The life of a thread.
    fn serve(self: &Arc<Self>) {
        while let Some(job) = self.wait() {
            let is_last = self.waiting.fetch_sub(1, SeqCst) == 1;
            if is_last && self.threads.load(SeqCst) < self.most {
                // Without a further thread the next job waits until one comes back.
                let hired = self.hire();
                hired.unwrap_or_else(|error| {
                    warn!("failed to start a handler thread error={error}")
                });
            }
            if catch_unwind(AssertUnwindSafe(|| self.work.run(job))).is_err() {
                error!("panicked in a handler thread");
            }
            self.waiting.fetch_add(1, SeqCst);
        }
        self.leave();
    }

    /// The next job of this thread; `None` when it is no longer needed.
    fn wait(&self) -> Option<W::Job> {
        let _lead = locked(&self.lead);
        let start = Instant::now();
        loop {
            let surplus = self.waiting.load(SeqCst) > KEPT;
            let job = self.work.next(if surplus { SURPLUS_PATIENCE } else { PATIENCE });
            if job.is_some() || surplus || self.work.is_over(start.elapsed()) {
                return job;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    /// Each job is a pair: it says that it has begun, then waits to be let go.
    struct Gate {
        jobs: Receiver<(Sender<()>, Receiver<()>)>,
    }

    impl Work for Gate {
        type Job = (Sender<()>, Receiver<()>);
        fn next(&self, patience: Duration) -> Option<Self::Job> {
            self.jobs.recv_timeout(patience).ok()
        }
        fn run(&self, (begun, finish): Self::Job) {
            let _ = begun.send(());
            let _ = finish.recv();
        }
        fn is_over(&self, _: Duration) -> bool {
            false
        }
    }

    /// Goal: threads are hired while others block, up to the limit, and are reused.
    #[test]
    fn blocked_jobs_block_at_the_limit_only() {
        let (submit, jobs) = unbounded();
        Crew::start(Gate { jobs }, 3).unwrap();
        let begin = || {
            let (begun, has_begun) = bounded(1);
            let (finish, finished) = bounded::<()>(1);
            submit.send((begun, finished)).unwrap();
            (has_begun, finish)
        };
        let blocked: Vec<_> = (0..3).map(|_| begin()).collect();
        for (has_begun, _) in &blocked {
            has_begun.recv_timeout(Duration::from_secs(5)).expect("a blocked job blocked this one");
        }
        let (has_begun, finish) = begin();
        assert!(has_begun.recv_timeout(Duration::from_millis(50)).is_err(), "a fourth thread");
        drop(blocked);
        has_begun.recv_timeout(Duration::from_secs(5)).expect("no thread was reused");
        drop(finish);
    }
}
