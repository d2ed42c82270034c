//! One process, one reign after another.
//!
//! A master process stands by until it may reign, reigns until another master takes over, and then
//! stands by again. Each time it has a [`Replication`] of its own, which begins with the log that
//! the former one has left: requests of the former one end by themselves.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::entries::{Log, Seq};
use common::locked::locked;
use common::reign::{Facts, MasterId};
use common::store::Opened;
use common::vital;
use log::{error, info, warn};

use crate::ask::ask;
use crate::state::{Options, Phase, Replication, State};
use crate::{couriers, recovery};

/// Between two looks whether the disk of a former reign rests.
const REST_INTERVAL: Duration = Duration::from_millis(20);

/// Between two tries to start threads.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a secondary may take to hear that this master goes.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(300);

/// The replications of one process, one after another.
#[derive(Debug)]
pub struct Succession {
    current: Mutex<Arc<Replication>>,
}

impl Succession {
    /// Stands by, and reigns as soon as it may, in a thread of its own.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(
        options: Options,
        disk: Option<Opened>,
        takeover: bool,
    ) -> io::Result<Arc<Succession>> {
        let (mut log, mut facts, store) = match disk {
            Some(Opened { log, facts, store }) => (log, facts, Some(Arc::new(store))),
            None => (Log::new(options.idempotency_keys), Facts::default(), None),
        };
        if facts.id == MasterId::NONE {
            facts.id = MasterId::draw();
        }
        if facts.strays_from > Seq::NONE {
            // The directory was a secondary's.
            if let Some(store) = &store {
                let strays = log.batch(facts.strays_from, usize::MAX);
                store.set_aside(&strays, facts.promised.epoch).map_err(io::Error::other)?;
            }
            log.drop_from(facts.strays_from);
            facts.strays_from = Seq::NONE;
        }
        let replication = Arc::new(Replication::new(Arc::new(options), log, facts, store));
        let succession = Arc::new(Succession { current: Mutex::new(replication) });
        let reigning = Arc::clone(&succession);
        vital::start("succession", move || reigning.reign_again_and_again(takeover))?;
        Ok(succession)
    }

    /// The replication now.
    pub fn current(&self) -> Arc<Replication> {
        Arc::clone(&locked(&self.current))
    }

    fn reign_again_and_again(&self, mut takeover: bool) {
        loop {
            let replication = self.current();
            if let Err(error) = reign(&replication, takeover) {
                error!("failed to start threads error={error}");
                thread::sleep(RETRY_INTERVAL);
                continue;
            }
            takeover = false;
            replication.wait_until_over();
            if replication.lock().disk_failure().is_some() {
                // Until it is started again: a master that cannot write must not ask for promises.
                return;
            }
            info!("stands by again after epoch {}", replication.lock().lines.reign());
            *locked(&self.current) = Arc::new(replication.next());
        }
    }

    /// Tells the secondaries that this master stops: another one may reign at once.
    pub fn abdicate(&self) {
        let replication = self.current();
        if replication.lock().phase != Phase::Reigning {
            return;
        }
        replication.lock().abdicates = true;
        thread::scope(|scope| {
            for (line, url) in replication.urls().iter().enumerate() {
                let (_, heartbeat) = replication.heartbeat(line);
                let client = replication.options.client(url, FAREWELL_TIMEOUT);
                let farewell = move || ask(&client, &heartbeat, false);
                // Without a thread the secondary notices when no heartbeat comes.
                let _ = thread::Builder::new().spawn_scoped(scope, farewell);
            }
        });
        info!("abdicated epoch={}", replication.lock().lines.reign());
    }
}

/// Begins a reign as soon as this master may.
fn reign(replication: &Arc<Replication>, takeover: bool) -> io::Result<()> {
    let threads = couriers::start(replication)?;
    recovery::recover(replication, threads, takeover);
    if replication.lock().disk_failure().is_some() {
        return Ok(());
    }
    couriers::start_heartbeats(replication)
}

impl Replication {
    /// Returns when another master has taken over, and nothing is being written any more.
    fn wait_until_over(&self) {
        let lasts = |state: &mut State| {
            let reigns = state.phase == Phase::Reigning;
            state.lines.fenced_by().is_none() && (reigns || state.disk_failure().is_none())
        };
        drop(self.begun.wait_while(self.lock(), lasts));
        while self.lock().lines.disk_is_writing() {
            thread::sleep(REST_INTERVAL);
        }
    }

    /// What stands by after this reign. Its log is the one that is stored.
    fn next(&self) -> Replication {
        let state = self.lock();
        let (mut log, stored, last) =
            (state.log.clone(), state.lines.stored_seq(), state.log.last_seq());
        if stored < last {
            warn!("gave up entries that were never stored first_seq={}", stored.next());
            log.drop_from(stored.next());
        }
        let (options, store) = (Arc::clone(&self.options), self.store.clone());
        let mut next = Replication::new(options, log, state.facts, store);
        next.metrics = Arc::clone(&self.metrics);
        next.lock().dropped = state.dropped;
        next
    }
}
