//! The whole cluster with its network as one state, and the steps that change it.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::faults::Fault;
use crate::harm::{Committed, Harm};
use crate::log::{Epoch, Id, Log, Reign, Seq};
use crate::master::{Begun, Grounds, Master, Own, Phase, may_begin};
use crate::secondary::{Answer, Call, Position, Secondary};
use crate::setup::{Backup, Recovery, Setup};

/// The most reigns of one run.
const REIGNS: usize = 6;

/// What a secondary is called in a trace. It is no part of the state: secondaries are alike.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub usize);

impl PartialEq for Name {
    fn eq(&self, _: &Name) -> bool {
        true
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, _: &Name) -> Ordering {
        Ordering::Equal
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A secondary, and what it has said that may still be on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Peer {
    pub copy: Secondary,
    /// How far it has acknowledged each reign of [`State::reigns`].
    pub acked: [Seq; REIGNS],
    /// Its answer to the promise that each master asks for at present.
    pub answers: [Option<Position>; 2],
    /// A call that was admitted and waits for the disk: its reign, its first and its last place.
    pub waiting: Option<(Reign, Seq, Seq)>,
    pub name: Name,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The secondaries, in an order that makes alike states equal.
    pub peers: Vec<Peer>,
    pub masters: [Master; 2],
    /// Requests for a promise that may still be on their way.
    pub requests: Vec<Reign>,
    /// Reigns whose calls and heartbeats may still be on their way.
    pub reigns: Vec<Begun>,
    /// What was ever committed.
    pub committed: Committed,
    pub appended: u8,
    pub crashes: u8,
    pub lives: u8,
    pub copied: Option<(usize, Own)>,
    pub harm: Option<Harm>,
}

/// One step. Secondaries are named by their index in [`State::peers`], masters by 0 and 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A master that has looked around asks for promises.
    Ask { master: usize, epoch: Epoch },
    /// A request for a promise arrives; the answer reaches the master if it still asks.
    Promise { peer: usize, reign: Reign },
    /// A master begins a reign over this log. It has received the answers of the set `heard`.
    Begin { master: usize, heard: u8, log: Log },
    /// A master appends an entry.
    Append { master: usize },
    /// A heartbeat of a reign arrives.
    Heartbeat { peer: usize, reign: Reign },
    /// A call with the entries `first..=last` of a reign arrives; its answer is on its way.
    Call { peer: usize, reign: Reign, first: Seq, last: Seq },
    /// The same on a slow disk: the call is admitted and waits ...
    Admit { peer: usize, reign: Reign, first: Seq, last: Seq },
    /// ... until it is stored and answered.
    Store { peer: usize },
    /// A master has received acknowledgements and counts entries as committed.
    Count { reign: Reign, place: Seq },
    /// A master hears of a greater reign: it is deposed.
    StepDown { master: usize },
    /// A master crashes; so many entries had reached its disk.
    Crash { master: usize, kept: Seq },
    /// A secondary crashes and restarts.
    CrashSecondary { peer: usize },
    /// A master that stands by levels its log with the committed entries of a reign.
    StandBy { master: usize, reign: Reign },
    /// An operator copies a master's directory.
    BackUp { master: usize },
    /// An operator puts the copy back.
    PutBack { master: usize },
}

impl State {
    pub fn first(setup: &Setup) -> State {
        let peer = |name| Peer {
            copy: Secondary::default(),
            acked: [0; REIGNS],
            answers: [None; 2],
            waiting: None,
            name: Name(name),
        };
        State {
            peers: (1..=setup.secondaries).map(peer).collect(),
            masters: [Master::new(Id::new(0, 0)), Master::new(Id::new(1, 0))],
            requests: Vec::new(),
            reigns: Vec::new(),
            committed: Committed::default(),
            appended: 0,
            crashes: 0,
            lives: 0,
            copied: None,
            harm: None,
        }
    }

    /// The reign that a master believes to lead.
    pub fn reign_of(&self, master: usize) -> Option<&Begun> {
        self.reigns.iter().find(|begun| self.masters[master].reigns_in(begun.reign))
    }

    pub fn begun(&self, reign: Reign) -> Option<usize> {
        self.reigns.iter().position(|begun| begun.reign == reign)
    }

    /// The answers of a set of secondaries to a master.
    pub fn heard(&self, master: usize, set: u8) -> Vec<Position> {
        let is_in = |index: usize| set >> index & 1 == 1;
        let answers = self.peers.iter().map(|peer| peer.answers[master]).enumerate();
        answers.filter_map(|(index, answer)| answer.filter(|_| is_in(index))).collect()
    }

    pub fn grounds(&self, master: usize, set: u8, setup: &Setup) -> Option<Grounds> {
        let Master { own, phase: Phase::Asking(epoch) } = &self.masters[master] else {
            return None;
        };
        may_begin(own, *epoch, &self.heard(master, set), setup)
    }

    /// Carries out a step.
    pub fn step(&self, action: Action, setup: &Setup) -> State {
        let mut next = self.clone();
        match action {
            Action::Ask { master, epoch } => next.ask(master, epoch),
            Action::Promise { peer, reign } => next.promise(peer, reign, setup),
            Action::Begin { master, heard, log } => next.begin(master, heard, log, setup),
            Action::Append { master } => next.append(master),
            Action::Heartbeat { peer, reign } => next.heartbeat(peer, reign, setup),
            Action::Call { peer, reign, first, last } => next.call(peer, reign, first, last, setup),
            Action::Admit { peer, reign, first, last } => {
                next.peers[peer].waiting = Some((reign, first, last));
            }
            Action::Store { peer } => next.store(peer, setup),
            Action::Count { reign, place } => next.count(reign, place),
            Action::StepDown { master } => next.step_down(master),
            Action::Crash { master, kept } => next.crash(master, kept, setup),
            Action::CrashSecondary { peer } => next.crash_secondary(peer, setup),
            Action::StandBy { master, reign } => next.stand_by(master, reign),
            Action::BackUp { master } => next.back_up(master),
            Action::PutBack { master } => next.put_back(master, setup),
        }
        next.tidy(setup);
        next
    }

    fn ask(&mut self, master: usize, epoch: Epoch) {
        self.stop(master);
        self.masters[master].phase = Phase::Asking(epoch);
        self.requests.push(Reign { epoch, id: self.masters[master].own.id });
    }

    fn promise(&mut self, peer: usize, reign: Reign, setup: &Setup) {
        if setup.fault != Some(Fault::AckedAfterALaterPromise) {
            // Everything accepted before is on the disk before the promise is answered.
            self.store(peer, setup);
        }
        let answer = self.peers[peer].copy.promise(reign, setup);
        if let Some(master) = (0..2).find(|&master| self.masters[master].asks_for(reign)) {
            self.peers[peer].answers[master] = answer;
        }
    }

    fn begin(&mut self, master: usize, heard: u8, log: Log, setup: &Setup) {
        let Phase::Asking(epoch) = self.masters[master].phase else { return };
        let grounds = self.grounds(master, heard, setup);
        let reign = Reign { epoch, id: self.masters[master].own.id };
        let begun = Begun {
            reign,
            start: log.last_seq(),
            log,
            committed: 0,
            provisional: grounds == Some(Grounds::NewCluster),
        };
        self.harm = self.harm.or(self.committed.harm_of_beginning(&begun, &self.reigns));
        self.stop(master);
        // One transaction of the directory, before the reign begins.
        self.masters[master].own = Own { id: reign.id, log_epoch: epoch, log };
        self.masters[master].phase = Phase::Reigning(epoch);
        self.reigns.push(begun);
    }

    fn append(&mut self, master: usize) {
        let reigning = self.masters[master];
        if let Some(begun) = self.reigns.iter_mut().find(|begun| reigning.reigns_in(begun.reign)) {
            begun.log.push(begun.reign);
            self.appended += 1;
        }
    }

    fn heartbeat(&mut self, peer: usize, reign: Reign, setup: &Setup) {
        let Some(index) = self.begun(reign) else { return };
        let before = self.peers[peer].copy.log;
        let answer = self.peers[peer].copy.heartbeat(&self.reigns[index].herald(), setup);
        self.judge(before, peer, answer);
    }

    fn call(&mut self, peer: usize, reign: Reign, first: Seq, last: Seq, setup: &Setup) {
        let Some(index) = self.begun(reign) else { return };
        let begun = self.reigns[index];
        let before = self.peers[peer].copy.log;
        let answer = self.peers[peer].copy.call(&begun.herald(), &piece(&begun, first, last), setup);
        self.judge(before, peer, answer);
        if let Answer::Acked(place) = answer {
            let acked = &mut self.peers[peer].acked[index];
            *acked = place.max(*acked);
        }
    }

    /// The waiting call is stored. It is checked against the promise once more.
    fn store(&mut self, peer: usize, setup: &Setup) {
        let Some((reign, first, last)) = self.peers[peer].waiting.take() else { return };
        if setup.fault != Some(Fault::AckedAfterALaterPromise) {
            return self.call(peer, reign, first, last, setup);
        }
        let Some(index) = self.begun(reign) else { return };
        let begun = self.reigns[index];
        let before = self.peers[peer].copy.log;
        let copy = &mut self.peers[peer].copy;
        if let Ok(Answer::Acked(place)) =
            copy.take(&begun.herald(), &piece(&begun, first, last), setup)
        {
            let acked = &mut self.peers[peer].acked[index];
            *acked = place.max(*acked);
        }
        self.judge(before, peer, Answer::Gap);
    }

    /// Notes the harm that a secondary's step has done.
    fn judge(&mut self, before: Log, peer: usize, answer: Answer) {
        let after = &self.peers[peer].copy.log;
        let dropped = self.committed.harm_of_dropping(&before, after);
        let diverged = (answer == Answer::Diverged).then_some(Harm::Diverged);
        self.harm = self.harm.or(dropped).or(diverged);
    }

    fn count(&mut self, reign: Reign, place: Seq) {
        let Some(index) = self.begun(reign) else { return };
        self.reigns[index].committed = place;
        self.harm = self.harm.or(self.committed.commit(&self.reigns[index], &self.reigns));
    }

    /// How far a reign's entries are committed if its master receives every answer.
    pub fn countable(&self, index: usize, setup: &Setup) -> Seq {
        let begun = &self.reigns[index];
        let followed = self.peers.iter().filter(|peer| peer.acked[index] > 0).count();
        if begun.provisional
            && setup.recovery == Recovery::FirstStartCountsLate
            && followed < setup.promises_for_takeover()
        {
            return 0;
        }
        let answer = |peer: &Peer| {
            let is_counted = setup.fault == Some(Fault::GreaterEpochCounted)
                && peer.copy.promised.epoch > begun.reign.epoch;
            if is_counted { peer.copy.log.last_seq() } else { peer.acked[index] }
        };
        begun.countable(&self.peers.iter().map(answer).collect::<Vec<_>>(), setup)
    }

    fn step_down(&mut self, master: usize) {
        if let Some(begun) = self.reign_of(master).copied() {
            self.masters[master].own.log = begun.log;
        }
        self.stop(master);
    }

    fn crash(&mut self, master: usize, kept: Seq, setup: &Setup) {
        self.crashes += 1;
        if let Some(begun) = self.reign_of(master).copied() {
            self.masters[master].own.log = begun.log.beginning(kept);
        }
        self.stop(master);
        if !setup.directories[master] {
            self.draw_id(master);
            self.masters[master].own = Master::new(self.masters[master].own.id).own;
        }
    }

    /// A new identity, that no master had before.
    fn draw_id(&mut self, master: usize) {
        self.lives += 1;
        self.masters[master].own.id = Id::new(master, self.lives);
    }

    /// The master asks and reigns no more. Answers to it find nobody.
    fn stop(&mut self, master: usize) {
        self.masters[master].phase = Phase::Idle;
        self.peers.iter_mut().for_each(|peer| peer.answers[master] = None);
    }

    fn crash_secondary(&mut self, peer: usize, setup: &Setup) {
        self.crashes += 1;
        self.peers[peer].waiting = None;
        let copy = &mut self.peers[peer].copy;
        if !setup.disks {
            *copy = Secondary::default();
        } else if setup.fault == Some(Fault::PromiseNotPersisted) {
            copy.promised = Reign::default();
        }
    }

    fn stand_by(&mut self, master: usize, reign: Reign) {
        let Some(index) = self.begun(reign) else { return };
        let begun = &self.reigns[index];
        let own = &mut self.masters[master].own.log;
        let committed = begun.log.beginning(begun.committed);
        if !own.starts_with(&committed) {
            *own = committed;
        }
    }

    fn back_up(&mut self, master: usize) {
        let mut own = self.masters[master].own;
        if let Some(begun) = self.reign_of(master) {
            own.log = begun.log;
        }
        self.copied = Some((master, own));
    }

    fn put_back(&mut self, master: usize, setup: &Setup) {
        let Some((_, own)) = self.copied.take() else { return };
        self.stop(master);
        self.masters[master].own = own;
        if setup.backup == Backup::WithoutItsId {
            self.draw_id(master);
        }
    }

    /// Forgets what can no longer have an effect, and puts alike secondaries into one order.
    fn tidy(&mut self, setup: &Setup) {
        if setup.promises_are_kept() {
            let promised = |peer: &Peer| peer.copy.promised.epoch;
            let lowest = self.peers.iter().map(promised).min().unwrap_or_default();
            self.requests.retain(|request| request.epoch > lowest);
            self.forget_dead_reigns(lowest);
        }
        self.requests.sort_unstable();
        self.requests.dedup();
        self.peers.sort_unstable();
    }

    /// A reign is dead when no secondary admits its calls and no master leads it. The lower reigns
    /// are forgotten first: what a higher one holds is compared with what they still commit.
    fn forget_dead_reigns(&mut self, lowest: Epoch) {
        while let Some(index) = self.lowest_reign() {
            let reign = self.reigns[index].reign;
            let leads = self.masters.iter().any(|master| master.reigns_in(reign));
            let waits = self.peers.iter().any(|peer| peer.waiting.is_some());
            if leads || waits || reign.epoch >= lowest {
                return;
            }
            self.reigns.remove(index);
            for peer in &mut self.peers {
                peer.acked[index..].rotate_left(1);
                peer.acked[REIGNS - 1] = 0;
            }
        }
    }

    fn lowest_reign(&self) -> Option<usize> {
        (0..self.reigns.len()).min_by_key(|&index| self.reigns[index].reign)
    }
}

/// The call with the entries `first..=last` of a reign.
fn piece(begun: &Begun, first: Seq, last: Seq) -> Call<'_> {
    Call {
        first,
        prev_epoch: begun.log.epoch_at(first - 1).unwrap_or_default(),
        entries: &begun.log[usize::from(first) - 1..usize::from(last)],
    }
}
