//! Which steps are possible in a state. Whatever may be late, lost, repeated or reordered in the
//! network is possible at any time, once, often or never.

use stateright::{Model, Property};

use crate::cluster::{Action, State};
use crate::faults::Fault;
use crate::log::{Epoch, Reign, Seq};
use crate::master::{Begun, Phase, best_logs};
use crate::setup::{Backup, Setup};

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_some() {
            return;
        }
        for master in 0..2 {
            state.steps_of_a_master(master, self, actions);
        }
        for peer in 0..state.peers.len() {
            state.steps_of_a_secondary(peer, self, actions);
        }
        for (index, begun) in state.reigns.iter().enumerate() {
            if state.masters.iter().any(|master| master.reigns_in(begun.reign)) {
                let places = begun.committed + 1..=state.countable(index, self);
                actions.extend(places.map(|place| Action::Count { reign: begun.reign, place }));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(state.step(action, self))
    }

    fn properties(&self) -> Vec<Property<Setup>> {
        crate::properties::of(self)
    }
}

impl State {
    fn steps_of_a_master(&self, index: usize, setup: &Setup, actions: &mut Vec<Action>) {
        let master = &self.masters[index];
        match master.phase {
            Phase::Idle => self.ways_to_ask(index, setup, actions),
            Phase::Asking(_) => {
                self.ways_to_ask(index, setup, actions);
                self.ways_to_begin(index, setup, actions);
            }
            Phase::Reigning(epoch) => {
                if self.appended < setup.messages {
                    actions.push(Action::Append { master: index });
                }
                if self.peers.iter().any(|peer| peer.copy.promised.epoch > epoch) {
                    actions.push(Action::StepDown { master: index });
                }
            }
        }
        self.ways_to_crash(index, setup, actions);
        if setup.standby && master.phase == Phase::Idle {
            let others = self.reigns.iter().filter(|begun| begun.reign.id != master.own.id);
            actions.extend(others.map(|b| Action::StandBy { master: index, reign: b.reign }));
        }
        if setup.backup != Backup::None {
            match self.copied {
                None => actions.push(Action::BackUp { master: index }),
                Some((copied, _)) if copied == index && master.phase == Phase::Idle => {
                    actions.push(Action::PutBack { master: index });
                }
                Some(_) => {}
            }
        }
    }

    /// A master takes an epoch greater than all that it heard of: than its own, and than those of
    /// the secondaries that answered its look.
    fn ways_to_ask(&self, master: usize, setup: &Setup, actions: &mut Vec<Action>) {
        // Both masters are alike: let the first be the one that asks first.
        if master == 1 && self.masters[0].epoch() == 0 && self.masters[0].own.id.0 == 1 {
            return;
        }
        let own = self.masters[master].epoch();
        let heard = self.peers.iter().map(|peer| peer.copy.promised.epoch.max(own) + 1);
        let mut epochs: Vec<Epoch> = heard.chain([own + 1]).collect();
        epochs.sort_unstable();
        epochs.dedup();
        epochs.retain(|&epoch| epoch <= setup.epochs);
        actions.extend(epochs.into_iter().map(|epoch| Action::Ask { master, epoch }));
    }

    /// A master begins with any answers that suffice: the others may be lost.
    fn ways_to_begin(&self, master: usize, setup: &Setup, actions: &mut Vec<Action>) {
        let has_answered = |set: u8| {
            let mut members = (0..self.peers.len()).filter(|index| set >> index & 1 == 1);
            members.all(|index| self.peers[index].answers[master].is_some())
        };
        for heard in 0..1 << self.peers.len() {
            if has_answered(heard) && self.grounds(master, heard, setup).is_some() {
                let answers = self.heard(master, heard);
                for log in best_logs(&self.masters[master].own, &answers, setup) {
                    actions.push(Action::Begin { master, heard, log });
                }
            }
        }
    }

    fn ways_to_crash(&self, master: usize, setup: &Setup, actions: &mut Vec<Action>) {
        let is_idle = self.masters[master].phase == Phase::Idle;
        if self.crashes == setup.crashes || is_idle && setup.directories[master] {
            return;
        }
        let kept = match self.reign_of(master) {
            Some(begun) if setup.directories[master] => self.survivors(begun, setup),
            _ => 0..=0,
        };
        actions.extend(kept.map(|kept| Action::Crash { master, kept }));
    }

    /// How many entries may have reached the master's disk: all that it counted, at least.
    fn survivors(&self, begun: &Begun, setup: &Setup) -> std::ops::RangeInclusive<Seq> {
        let counted = match setup.fault {
            Some(Fault::OwnVoteBeforeTheDisk) => 0,
            _ => begun.committed,
        };
        begun.start.max(counted)..=begun.log.last_seq()
    }

    fn steps_of_a_secondary(&self, peer: usize, setup: &Setup, actions: &mut Vec<Action>) {
        let copy = &self.peers[peer].copy;
        for &reign in &self.requests {
            if copy.admits(reign, setup) {
                actions.push(Action::Promise { peer, reign });
            }
        }
        for begun in &self.reigns {
            if copy.admits(begun.reign, setup) {
                actions.push(Action::Heartbeat { peer, reign: begun.reign });
                self.ways_to_call(peer, begun, setup, actions);
            }
        }
        if self.peers[peer].waiting.is_some() {
            actions.push(Action::Store { peer });
        }
        if self.crashes < setup.crashes && !setup.promises_are_kept() {
            actions.push(Action::CrashSecondary { peer });
        }
    }

    fn ways_to_call(&self, peer: usize, begun: &Begun, setup: &Setup, actions: &mut Vec<Action>) {
        let reign: Reign = begun.reign;
        for first in 1..=begun.log.last_seq() {
            for last in first..=begun.log.last_seq() {
                if setup.slow_disk && self.peers[peer].waiting.is_none() {
                    actions.push(Action::Admit { peer, reign, first, last });
                } else if !setup.slow_disk {
                    actions.push(Action::Call { peer, reign, first, last });
                }
            }
        }
    }
}
