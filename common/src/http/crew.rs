//! The threads of one server.
//!
//! A few fixed loops would block everybody as soon as each waits for a slow acknowledgement; a
//! thread per request costs more than the request. So threads are reused: a job goes to the thread
//! that became idle last, for its stack is still in the processor's cache. A thread is hired when
//! none is idle, up to a limit; idle ones leave after a while.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use log::{error, warn};

use crate::locked::locked;

/// How long an idle thread waits for a job before it asks whether it is still needed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often an idle thread lets others run before it sleeps: under load it has its next job by
/// then, and need not be woken.
const YIELDS: usize = 2;

/// Idle threads that stay, however quiet it is.
const KEPT: usize = 4;

/// The work of a crew.
pub(super) trait Work: Send + Sync + Sized + 'static {
    type Job: Send + 'static;
    fn crew(&self) -> &Crew<Self::Job>;
    fn run(self: &Arc<Self>, job: Self::Job);
    /// Whether no more jobs will be done.
    fn is_over(&self) -> bool;
}

/// At most so many threads, and the jobs that wait for one of them.
#[derive(Debug)]
pub(super) struct Crew<J> {
    most: usize,
    state: Mutex<State<J>>,
}

#[derive(Debug)]
struct State<J> {
    threads: usize,
    /// The one that became idle last comes last.
    idle: Vec<Arc<Member<J>>>,
    /// Jobs that came when nobody was idle and nobody could be hired.
    waiting: VecDeque<J>,
}

#[derive(Debug)]
struct Member<J> {
    thread: Thread,
    /// Its next job.
    job: Mutex<Option<J>>,
}

impl<J> Crew<J> {
    pub(super) fn new(most: usize) -> Crew<J> {
        let state = State { threads: 0, idle: Vec::new(), waiting: VecDeque::new() };
        Crew { most, state: Mutex::new(state) }
    }

    /// How many threads there are now.
    #[cfg(test)]
    fn threads(&self) -> usize {
        locked(&self.state).threads
    }
}

impl<J> Member<J> {
    fn give(&self, job: J) {
        *locked(&self.job) = Some(job);
        self.thread.unpark();
    }
}

/// Gives a job to another thread as soon as there is one.
pub(super) fn submit<W: Work>(work: &Arc<W>, job: W::Job) {
    if let Err(job) = try_submit(work, job) {
        let crew = work.crew();
        let mut state = locked(&crew.state);
        // A thread that became idle in between does not look again.
        match state.idle.pop() {
            Some(member) => member.give(job),
            None => state.waiting.push_back(job),
        }
    }
}

/// Gives a job to another thread at once. The job comes back when all threads are busy and no more
/// may be, or can be, hired.
pub(super) fn try_submit<W: Work>(work: &Arc<W>, job: W::Job) -> Result<(), W::Job> {
    let crew = work.crew();
    let mut state = locked(&crew.state);
    if let Some(member) = state.idle.pop() {
        drop(state);
        member.give(job);
        return Ok(());
    }
    if state.threads >= crew.most {
        return Err(job);
    }
    state.threads += 1;
    drop(state);
    // A failed spawn drops its closure and the job in it, so the job is handed over through
    // `first`.
    let first = Arc::new(Mutex::new(Some(job)));
    let (theirs, hired) = (Arc::clone(&first), Arc::clone(work));
    let spawned = thread::Builder::new().name("http-handler".into()).spawn(move || {
        if let Some(job) = locked(&theirs).take() {
            serve(&hired, job);
        }
    });
    let Err(error) = spawned else { return Ok(()) };
    let mut state = locked(&crew.state);
    state.threads -= 1;
    warn!("failed to start a handler thread threads={} error={error}", state.threads);
    drop(state);
    locked(&first).take().map_or(Ok(()), Err)
}

/// The life of a thread.
fn serve<W: Work>(work: &Arc<W>, first: W::Job) {
    let me = Arc::new(Member { thread: thread::current(), job: Mutex::new(None) });
    let mut next = Some(first);
    while let Some(job) = next {
        if catch_unwind(AssertUnwindSafe(|| work.run(job))).is_err() {
            error!("panicked in a handler thread");
        }
        next = wait(work, &me);
    }
}

/// The next job of this thread; `None` when it is no longer needed.
fn wait<W: Work>(work: &Arc<W>, me: &Arc<Member<W::Job>>) -> Option<W::Job> {
    let crew = work.crew();
    {
        let mut state = locked(&crew.state);
        if let Some(job) = state.waiting.pop_front() {
            return Some(job);
        }
        state.idle.push(Arc::clone(me));
    }
    for _ in 0..YIELDS {
        thread::yield_now();
        if let Some(job) = locked(&me.job).take() {
            return Some(job);
        }
    }
    let mut since = Instant::now();
    loop {
        thread::park_timeout(PATIENCE.saturating_sub(since.elapsed()));
        if let Some(job) = locked(&me.job).take() {
            return Some(job);
        }
        if since.elapsed() < PATIENCE {
            continue;
        }
        let mut state = locked(&crew.state);
        let place = state.idle.iter().position(|member| Arc::ptr_eq(member, me));
        // Not there: it has just been chosen.
        if let Some(place) = place
            && (work.is_over() || state.idle.len() > KEPT)
        {
            state.idle.remove(place);
            state.threads -= 1;
            return None;
        }
        since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{Receiver, Sender, bounded};

    use super::*;

    /// Each job is a pair: it says that it has begun, then waits to be let go.
    struct Gate {
        crew: Crew<(Sender<()>, Receiver<()>)>,
    }

    impl Work for Gate {
        type Job = (Sender<()>, Receiver<()>);
        fn crew(&self) -> &Crew<Self::Job> {
            &self.crew
        }
        fn run(self: &Arc<Self>, (begun, finish): Self::Job) {
            let _ = begun.send(());
            let _ = finish.recv();
        }
        fn is_over(&self) -> bool {
            true
        }
    }

    #[test]
    fn blocked_jobs_block_no_others_up_to_a_limit() {
        let gate = Arc::new(Gate { crew: Crew::new(3) });
        let mut open = Vec::new();
        for _ in 0..3 {
            let (begun, has_begun) = bounded(1);
            let (finish, finished) = bounded::<()>(1);
            submit(&gate, (begun, finished));
            has_begun.recv_timeout(Duration::from_secs(5)).expect("a blocked job blocked this one");
            open.push(finish);
        }
        let (begun, has_begun) = bounded(1);
        let (finish, finished) = bounded::<()>(1);
        let job = try_submit(&gate, (begun, finished)).expect_err("a fourth thread");
        submit(&gate, job);
        assert!(has_begun.recv_timeout(Duration::from_millis(50)).is_err(), "a fourth thread");
        drop(open);
        has_begun.recv_timeout(Duration::from_secs(5)).expect("no thread was reused");
        assert!(gate.crew.threads() <= 3, "{} threads", gate.crew.threads());
        drop(finish);
    }
}
