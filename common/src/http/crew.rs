//! The handler threads of one server.
//!
//! A few fixed loops would block everybody as soon as each waits for a slow acknowledgement; a
//! thread per request costs more than the request. So threads are kept and reused, one more is
//! hired when the last idle one takes a job, and idle ones leave after a while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use log::{error, warn};

/// How long a thread waits for a job before it asks whether it is still needed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Idle threads that stay, however quiet it is.
const KEPT: usize = 4;

/// Where jobs come from and what is done with them.
pub(super) trait Work: Send + Sync + 'static {
    type Job;
    /// Waits up to `patience` for a job.
    fn next(&self, patience: Duration) -> Option<Self::Job>;
    fn run(self: Arc<Self>, job: Self::Job);
    /// Whether no more jobs will be done.
    fn is_over(&self) -> bool;
}

/// Between one and `most` threads that do the work.
pub(super) struct Crew<W> {
    work: Arc<W>,
    most: usize,
    threads: AtomicUsize,
    idle: AtomicUsize,
}

impl<W: Work> Crew<W> {
    /// Hires the first thread.
    pub(super) fn start(work: Arc<W>, most: usize) -> Arc<Crew<W>> {
        let crew =
            Arc::new(Crew { work, most, threads: AtomicUsize::new(0), idle: AtomicUsize::new(0) });
        crew.hire();
        crew
    }

    /// How many threads there are now.
    pub(super) fn threads(&self) -> usize {
        self.threads.load(SeqCst)
    }

    fn hire(self: &Arc<Self>) {
        if self.threads.fetch_add(1, SeqCst) >= self.most {
            self.threads.fetch_sub(1, SeqCst);
            return;
        }
        let crew = Arc::clone(self);
        let spawned = thread::Builder::new().name("http-handler".into()).spawn(move || crew.work());
        if let Err(error) = spawned {
            self.threads.fetch_sub(1, SeqCst);
            warn!("failed to start a handler thread threads={} error={error}", self.threads());
        }
    }

    fn work(self: Arc<Self>) {
        loop {
            self.idle.fetch_add(1, SeqCst);
            let job = self.work.next(PATIENCE);
            let still_idle = self.idle.fetch_sub(1, SeqCst) - 1;
            match job {
                Some(job) => {
                    if still_idle == 0 {
                        self.hire();
                    }
                    let work = AssertUnwindSafe(|| Arc::clone(&self.work).run(job));
                    if catch_unwind(work).is_err() {
                        error!("panicked in a handler thread");
                    }
                }
                None if self.work.is_over() || still_idle >= KEPT => break,
                None => {}
            }
        }
        self.threads.fetch_sub(1, SeqCst);
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
        fn run(self: Arc<Self>, (begun, finish): Self::Job) {
            let _ = begun.send(());
            let _ = finish.recv();
        }
        fn is_over(&self) -> bool {
            true
        }
    }

    #[test]
    fn blocked_jobs_do_not_keep_others_waiting_and_threads_are_reused_and_bounded() {
        let (submit, jobs) = unbounded();
        let crew = Crew::start(Arc::new(Gate { jobs }), 3);
        let mut open = Vec::new();
        for _ in 0..3 {
            let (begun, has_begun) = bounded(1);
            let (finish, finished) = bounded::<()>(1);
            submit.send((begun, finished)).unwrap();
            has_begun.recv_timeout(Duration::from_secs(5)).expect("a blocked job blocked this one");
            open.push(finish);
        }
        let (begun, has_begun) = bounded(1);
        let (finish, finished) = bounded::<()>(1);
        submit.send((begun, finished)).unwrap();
        assert!(has_begun.recv_timeout(Duration::from_millis(50)).is_err(), "a fourth thread");
        drop(open);
        has_begun.recv_timeout(Duration::from_secs(5)).expect("no thread was reused");
        assert!(crew.threads() <= 3, "{} threads", crew.threads());
        drop(finish);
    }
}
