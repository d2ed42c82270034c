//! Forgets what can have no effect any more, so that states that differ in nothing else are one.

use crate::cluster::{REIGNS, State};
use crate::log::{Epoch, Reign};
use crate::master::Phase;
use crate::setup::{Backup, Recovery, Setup};

impl State {
    /// Brings the state into the one form of all that behave alike.
    pub fn tidy(&mut self, setup: &Setup) {
        if setup.promises_are_kept() {
            self.forget_dead_requests(setup);
            self.forget_dead_reigns(setup);
            if setup.fault.is_none() && setup.recovery == Recovery::Quorum {
                self.committed.forget_who_committed_before(self.next_epoch());
            }
        }
        self.requests.sort_unstable();
        self.requests.dedup();
        self.forget_answers_to_nobody(setup);
        if setup.backup == Backup::None {
            self.forget_lost_ids();
        }
        self.peers.sort_unstable();
    }

    fn forget_dead_requests(&mut self, setup: &Setup) {
        let copies = || self.peers.iter().map(|peer| &peer.copy);
        let is_news = |reign| copies().any(|it| it.promised != reign && it.allows(reign, setup));
        self.requests.retain(|&request| is_news(request));
    }

    /// A reign is dead when no secondary obeys it and no master leads it. The lowest is forgotten
    /// first: what a reign commits is compared with the logs of greater ones.
    fn forget_dead_reigns(&mut self, setup: &Setup) {
        let is_alive = |state: &State, reign: Reign| {
            let waits = state.peers.iter().any(|peer| peer.waiting.is_some());
            let mut copies = state.peers.iter().map(|peer| &peer.copy);
            waits || state.is_led(reign) || copies.any(|copy| copy.allows(reign, setup))
        };
        let lowest =
            |state: &State| (0..state.reigns.len()).min_by_key(|&index| state.reigns[index].reign);
        while let Some(index) = lowest(self).filter(|&at| !is_alive(self, self.reigns[at].reign)) {
            self.reigns.remove(index);
            for peer in &mut self.peers {
                peer.acked[index..].rotate_left(1);
                peer.acked[REIGNS - 1] = 0;
            }
        }
    }

    /// Nobody counts for a reign that no master leads.
    fn forget_answers_to_nobody(&mut self, setup: &Setup) {
        for index in 0..self.reigns.len() {
            if !self.is_led(self.reigns[index].reign) {
                self.peers.iter_mut().for_each(|peer| peer.acked[index] = 0);
                if !setup.places_are_told && !setup.levelling {
                    self.reigns[index].committed = 0;
                }
            }
        }
    }

    /// A master in memory that crashes takes its identity with it: nobody asks who followed it.
    fn forget_lost_ids(&mut self) {
        let ids: Vec<_> = self.masters.iter().map(|master| master.own.id).collect();
        for peer in &mut self.peers {
            peer.copy.followed &= ids.contains(&peer.copy.promised.id);
        }
    }

    /// No reign of a lower epoch begins from now on: somebody must promise it, or has answered.
    fn next_epoch(&self) -> Epoch {
        let promised = self.peers.iter().map(|peer| peer.copy.promised.epoch);
        let asked = self.masters.iter().filter_map(|master| match master.phase {
            Phase::Asking(epoch) => Some(epoch),
            _ => None,
        });
        promised.chain(asked).min().unwrap_or_default()
    }
}
