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
use std::time::Duration;

use log::{error, warn};

use crate::locked::locked;

/// How long a thread waits for a job before it asks whether it is still needed.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a thread waits for a job while more than [`KEPT`] wait, before it leaves.
const SURPLUS_PATIENCE: Duration = Duration::from_millis(50);

/// Waiting threads that stay, however quiet it is.
const KEPT: usize = 4;

/// What a crew does.
pub(super) trait Work: Send + Sync + 'static {
    type Job;
    fn crew(&self) -> &Crew;
    /// Waits for the next job, at most so long. One thread at a time calls it.
    fn next(&self, patience: Duration) -> Option<Self::Job>;
    fn run(&self, job: Self::Job);
    /// Whether no more jobs will come.
    fn is_over(&self) -> bool;
}

/// The threads that share one source of jobs.
#[derive(Debug)]
pub(super) struct Crew {
    most: usize,
    threads: AtomicUsize,
    /// Threads without a job.
    waiting: AtomicUsize,
    /// Held by the thread that waits for the next job; the others wait for the lock.
    lead: Mutex<()>,
}

impl Crew {
    /// At most so many threads.
    pub(super) fn new(most: usize) -> Crew {
        let (threads, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Crew { most, threads, waiting, lead: Mutex::new(()) }
    }

    /// Whether no thread has a job.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(SeqCst) == self.threads.load(SeqCst)
    }
}

/// Starts one more thread.
///
/// # Errors
/// When the system has none.
pub(super) fn hire<W: Work>(work: &Arc<W>) -> io::Result<()> {
    let crew = work.crew();
    crew.threads.fetch_add(1, SeqCst);
    crew.waiting.fetch_add(1, SeqCst);
    let hired = Arc::clone(work);
    let spawned =
        thread::Builder::new().name("http-handler".into()).spawn(move || serve(&hired)).map(|_| ());
    if spawned.is_err() {
        crew.waiting.fetch_sub(1, SeqCst);
        crew.threads.fetch_sub(1, SeqCst);
    }
    spawned
}

/// The life of a thread.
fn serve<W: Work>(work: &Arc<W>) {
    let crew = work.crew();
    while let Some(job) = wait(work) {
        if crew.waiting.fetch_sub(1, SeqCst) == 1 && crew.threads.load(SeqCst) < crew.most {
            // Without a further thread the next job waits until one comes back.
            hire(work)
                .unwrap_or_else(|error| warn!("failed to start a handler thread error={error}"));
        }
        if catch_unwind(AssertUnwindSafe(|| work.run(job))).is_err() {
            error!("panicked in a handler thread");
        }
        crew.waiting.fetch_add(1, SeqCst);
    }
    crew.waiting.fetch_sub(1, SeqCst);
    crew.threads.fetch_sub(1, SeqCst);
}

/// The next job of this thread; `None` when it is no longer needed.
fn wait<W: Work>(work: &Arc<W>) -> Option<W::Job> {
    let crew = work.crew();
    let _lead = locked(&crew.lead);
    loop {
        let surplus = crew.waiting.load(SeqCst) > KEPT;
        let job = work.next(if surplus { SURPLUS_PATIENCE } else { PATIENCE });
        if job.is_some() || surplus || work.is_over() {
            return job;
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    /// Each job is a pair: it says that it has begun, then waits to be let go.
    struct Gate {
        crew: Crew,
        jobs: Receiver<(Sender<()>, Receiver<()>)>,
    }

    impl Work for Gate {
        type Job = (Sender<()>, Receiver<()>);
        fn crew(&self) -> &Crew {
            &self.crew
        }
        fn next(&self, patience: Duration) -> Option<Self::Job> {
            self.jobs.recv_timeout(patience).ok()
        }
        fn run(&self, (begun, finish): Self::Job) {
            let _ = begun.send(());
            let _ = finish.recv();
        }
        fn is_over(&self) -> bool {
            false
        }
    }

    /// Goal: threads are hired while others block, up to the limit, and are reused.
    #[test]
    fn blocked_jobs_block_at_the_limit_only() {
        let (submit, jobs) = unbounded();
        let gate = Arc::new(Gate { crew: Crew::new(3), jobs });
        hire(&gate).unwrap();
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
        assert!(gate.crew.threads.load(SeqCst) <= 3);
        drop(finish);
    }
}
