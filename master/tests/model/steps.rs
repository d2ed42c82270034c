//! Which steps are possible in a state. Whatever the network may bring late, twice or never is
//! possible at any time, any number of times.

use stateright::{Model, Property};

use crate::cluster::{Action, Peer, Set, State};
use crate::faults::Fault;
use crate::log::{Epoch, Log, Reign, Seq};
use crate::master::{Begun, Phase, best_logs};
use crate::properties;
use crate::secondary::Answer;
use crate::setup::{Backup, Recovery, Setup};

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
        for master in 0..state.masters.len() {
            state.steps_of_a_master(master, self, actions);
            state.steps_of_an_operator(master, self, actions);
        }
        for peer in 0..state.peers.len() {
            state.steps_of_a_secondary(peer, self, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(state.after(action, self))
    }

    fn properties(&self) -> Vec<Property<Setup>> {
        properties::of(self)
    }
}

impl State {
    fn steps_of_a_master(&self, master: usize, setup: &Setup, actions: &mut Vec<Action>) {
        match self.masters[master].phase {
            Phase::Idle => {
                self.ways_to_ask(master, setup, actions);
                if setup.levelling {
                    let id = self.masters[master].own.id;
                    let others = self.reigns.iter().filter(|begun| begun.reign.id != id);
                    let committed = others.map(|it| it.log.beginning(it.committed));
                    self.ways_to_fetch(master, committed, actions);
                }
            }
            Phase::Asking(_) => {
                self.ways_to_ask(master, setup, actions);
                let begin = |(heard, log)| Action::Begin { master, heard, log };
                let beginnings = self.beginnings(master, setup);
                self.ways_to_fetch(master, beginnings.iter().map(|(_, log)| *log), actions);
                actions.extend(beginnings.into_iter().map(begin));
            }
            Phase::Reigning(epoch) => self.ways_to_reign(master, epoch, setup, actions),
        }
        if self.crashes < setup.crashes {
            let logs = self.survivors(master, setup);
            actions.extend(logs.into_iter().map(|log| Action::Crash { master, log }));
        }
    }

    /// A master takes an epoch greater than its own and than that of some secondary it has heard.
    fn ways_to_ask(&self, master: usize, setup: &Setup, actions: &mut Vec<Action>) {
        if self.is_mirrored(master, setup) || self.still_asks(master, setup) {
            return;
        }
        let own = self.masters[master].epoch();
        let is_taken = |epoch: Epoch| epoch > 0 && setup.is_first(epoch);
        let least = (1..).find(|&epoch| !is_taken(epoch)).unwrap_or(1);
        let heard = self.peers.iter().map(|peer| peer.copy.promised.epoch);
        let greatest = heard.map(|heard| heard.max(own)).filter(|&greatest| greatest > 0);
        let mut epochs: Vec<Epoch> = greatest.map(|it| least.max(it + 1)).collect();
        if own == 0 {
            epochs.push(setup.first_epoch(master));
        }
        epochs.sort_unstable();
        epochs.dedup();
        epochs.retain(|&epoch| epoch <= setup.epochs);
        actions.extend(epochs.into_iter().map(|epoch| Action::Ask { master, epoch }));
    }

    /// Two masters that are alike: only what follows when the first one asks first is looked at.
    fn is_mirrored(&self, master: usize, setup: &Setup) -> bool {
        master == 1
            && setup.recovery == Recovery::Quorum
            && setup.masters[0] == setup.masters[1]
            && self.masters[0] == State::first(setup).masters[0]
    }

    /// To ask again, before anybody has promised or refused, is to have asked with the new epoch in
    /// the first place.
    fn still_asks(&self, master: usize, setup: &Setup) -> bool {
        let Phase::Asking(epoch) = self.masters[master].phase else { return false };
        let reign = Reign { epoch, id: self.masters[master].own.id };
        let mut copies = self.peers.iter().map(|peer| &peer.copy);
        copies.all(|copy| copy.promised != reign && copy.allows(reign, setup))
    }

    /// The answers that suffice to begin with, and the logs. Any answer may be lost.
    fn beginnings(&self, master: usize, setup: &Setup) -> Vec<(Set, Log)> {
        let mut beginnings = Vec::new();
        for heard in self.answered(master) {
            if self.grounds(master, heard, setup).is_none() {
                continue;
            }
            let positions = self.heard(master, heard);
            for log in best_logs(&self.masters[master].own, &positions, setup) {
                beginnings.push((heard, log));
                if setup.late_fetch {
                    let from = |peer: &&Peer| peer.answers[master].is_some_and(|it| it.log == log);
                    let late = self.peers.iter().filter(from).map(|peer| (heard, peer.copy.log));
                    beginnings.extend(late);
                }
            }
        }
        beginnings.dedup();
        beginnings
    }

    /// A master takes over one of these logs in pieces, and may be interrupted between any two.
    fn ways_to_fetch(
        &self,
        master: usize,
        logs: impl Iterator<Item = Log>,
        actions: &mut Vec<Action>,
    ) {
        let own = &self.masters[master].own.log;
        let better = logs.filter(|log| !own.starts_with(log));
        let mut parts: Vec<Log> = better.flat_map(|log| beginnings_from(own, log)).collect();
        parts.sort_unstable();
        parts.dedup();
        parts.retain(|part| part != own);
        actions.extend(parts.into_iter().map(|log| Action::Fetch { master, log }));
    }

    fn ways_to_reign(&self, master: usize, epoch: Epoch, setup: &Setup, actions: &mut Vec<Action>) {
        if self.appended < setup.messages {
            actions.push(Action::Append { master });
        }
        if self.peers.iter().any(|peer| peer.copy.promised.epoch > epoch) {
            actions.push(Action::StepDown { master });
        }
        let leads = |begun: &Begun| self.masters[master].leads(begun.reign);
        if let Some(index) = self.reigns.iter().position(leads) {
            let Begun { reign, committed, .. } = self.reigns[index];
            let places = committed + 1..=self.countable(index, setup);
            actions.extend(places.map(|place| Action::Count { reign, place }));
        }
    }

    /// The logs that may be found on the disk of a master that crashes.
    fn survivors(&self, master: usize, setup: &Setup) -> Vec<Log> {
        let own = self.masters[master].own;
        if !setup.masters[master] {
            let has_nothing = own.reigned == 0 && self.masters[master].phase == Phase::Idle;
            return if has_nothing { Vec::new() } else { vec![Log::default()] };
        }
        match (self.masters[master].phase, self.reign_of(master)) {
            (_, Some(begun)) => {
                let counts_early = setup.fault == Some(Fault::OwnVoteBeforeTheDisk);
                let counted = if counts_early { 0 } else { begun.committed };
                let stored = begun.start.max(counted)..=begun.log.last_seq();
                stored.map(|last| begun.log.beginning(last)).collect()
            }
            (Phase::Asking(_), None) => vec![own.log],
            _ => Vec::new(),
        }
    }

    fn steps_of_an_operator(&self, master: usize, setup: &Setup, actions: &mut Vec<Action>) {
        if setup.backup == Backup::None || self.crashes == setup.crashes {
            return;
        }
        match self.copied {
            None => actions.push(Action::BackUp { master }),
            Some((copied, _)) if copied == master => actions.push(Action::PutBack { master }),
            Some(_) => {}
        }
    }

    fn steps_of_a_secondary(&self, peer: usize, setup: &Setup, actions: &mut Vec<Action>) {
        let Peer { copy, waiting, .. } = &self.peers[peer];
        let requests = self.requests.iter().filter(|&&reign| copy.allows(reign, setup));
        actions.extend(requests.map(|&reign| Action::Promise { peer, reign }));
        for index in 0..self.reigns.len() {
            if copy.allows(self.reigns[index].reign, setup) {
                self.ways_to_follow(peer, index, setup, actions);
            }
        }
        if waiting.is_some() {
            actions.push(Action::Store { peer });
        }
        // A secondary that keeps everything is the same after a crash.
        if self.crashes < setup.crashes && !setup.promises_are_kept() {
            actions.push(Action::CrashSecondary { peer });
        }
    }

    /// Heartbeats and calls of a reign: one of those that change the same, none of those that change
    /// nothing.
    fn ways_to_follow(&self, peer: usize, index: usize, setup: &Setup, actions: &mut Vec<Action>) {
        let Peer { copy, acked, waiting, .. } = &self.peers[peer];
        let (begun, reign) = (&self.reigns[index], self.reigns[index].reign);
        let is_led = self.is_led(reign);
        let mut seen = vec![(*copy, acked[index])];
        let mut is_news = |copy, answer| {
            let place = match answer {
                Answer::Acked(place) if is_led => place.max(acked[index]),
                _ => acked[index],
            };
            let is_new = !seen.contains(&(copy, place));
            seen.push((copy, place));
            is_new || answer == Answer::Diverged
        };
        let mut after = *copy;
        let answer = after.heartbeat(&begun.herald(), setup);
        if is_news(after, answer) {
            actions.push(Action::Heartbeat { peer, reign });
        }
        let last_seq = begun.log.last_seq();
        for (first, last) in
            (1..=last_seq).flat_map(|first| (first..=last_seq).map(move |last| (first, last)))
        {
            let mut after = *copy;
            let answer = after.call(&begun.herald(), &begun.piece(first, last), setup);
            if !is_news(after, answer) || setup.slow_disk && waiting.is_some() {
                continue;
            }
            actions.push(match setup.slow_disk {
                false => Action::Call { peer, reign, first, last },
                true => Action::Admit { peer, reign, first, last },
            });
        }
    }
}

/// What a master that takes over a log in pieces has at each moment: the beginning that both logs
/// have in common, or more of the new one.
fn beginnings_from(old: &Log, new: Log) -> impl Iterator<Item = Log> {
    let common = old.iter().zip(new.iter()).take_while(|(one, other)| one == other).count();
    (common as Seq..=new.last_seq()).map(move |last| new.beginning(last))
}
