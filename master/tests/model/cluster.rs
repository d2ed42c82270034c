//! The cluster and its network as one state, and the steps that change it.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::faults::Fault;
use crate::harm::{Committed, Harm};
use crate::log::{Epoch, Id, Log, Reign, Seq};
use crate::master::{Begun, Grounds, Master, Own, Phase, may_begin};
use crate::secondary::{Answer, Position, Secondary};
use crate::setup::{Backup, Setup};

/// The most reigns whose messages may be on their way at a time.
pub const REIGNS: usize = 6;

/// A set of secondaries: one bit for each index in [`State::peers`].
pub type Set = u8;

/// What a secondary is called when a run is told. It is no part of the state.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub usize);

/// A secondary, and what it has said that may still be on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Peer {
    /// What it keeps.
    pub copy: Secondary,
    /// How far it has acknowledged each reign of [`State::reigns`].
    pub acked: [Seq; REIGNS],
    /// Its answer to the promise that each master asks for at present.
    pub answers: [Option<Position>; 2],
    /// A call that waits for its disk: the reign, the first and the last place.
    pub waiting: Option<(Reign, Seq, Seq)>,
    /// Its name.
    pub name: Name,
}

/// A state of everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The secondaries, in an order that makes alike states equal.
    pub peers: Vec<Peer>,
    /// The masters.
    pub masters: Vec<Master>,
    /// Requests for promises that may still be on their way.
    pub requests: Vec<Reign>,
    /// Reigns whose calls, heartbeats and answers may still be on their way.
    pub reigns: Vec<Begun>,
    /// What was ever committed.
    pub committed: Committed,
    /// What was broken. Nothing happens after that.
    pub harm: Option<Harm>,
    /// Appends so far.
    pub appended: u8,
    /// Crashes so far.
    pub crashes: u8,
    /// Identities that were drawn anew so far.
    pub lives: u8,
    /// The copy of a master's directory.
    pub copied: Option<(usize, Own)>,
}

/// One step. Secondaries are meant by their index in [`State::peers`], masters by 0 and 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the sentences name the fields")]
pub enum Action {
    /// A master that has looked around asks for promises.
    Ask { master: usize, epoch: Epoch },
    /// A request for a promise arrives. The answer reaches the master if it still asks.
    Promise { peer: usize, reign: Reign },
    /// A master has received the answers of this set and begins over this log.
    Begin { master: usize, heard: Set, log: Log },
    /// A master appends an entry.
    Append { master: usize },
    /// A heartbeat of a reign arrives.
    Heartbeat { peer: usize, reign: Reign },
    /// A call with these entries of a reign arrives. Its answer is on its way.
    Call { peer: usize, reign: Reign, first: Seq, last: Seq },
    /// The same with a slow disk: the call is admitted and waits ...
    Admit { peer: usize, reign: Reign, first: Seq, last: Seq },
    /// ... until it is stored and answered.
    Store { peer: usize },
    /// A master has received acknowledgements and counts entries as committed.
    Count { reign: Reign, place: Seq },
    /// A master hears of a greater reign.
    StepDown { master: usize },
    /// A master crashes. This log is found on its disk when it restarts.
    Crash { master: usize, log: Log },
    /// A secondary crashes and restarts.
    CrashSecondary { peer: usize },
    /// A master that asks, or stands by, has taken over a better log or a piece of it.
    Fetch { master: usize, log: Log },
    /// An operator copies a master's directory.
    BackUp { master: usize },
    /// An operator stops the master and puts the copy back.
    PutBack { master: usize },
}

impl State {
    /// Nothing has happened.
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
            masters: (0..setup.masters.len()).map(|index| Master::new(Id::new(index, 0))).collect(),
            requests: Vec::new(),
            reigns: Vec::new(),
            committed: Committed::default(),
            harm: None,
            appended: 0,
            crashes: 0,
            lives: 0,
            copied: None,
        }
    }

    /// Where a reign stands in [`State::reigns`].
    pub fn index_of(&self, reign: Reign) -> Option<usize> {
        self.reigns.iter().position(|begun| begun.reign == reign)
    }

    /// Some master believes to reign in it.
    pub fn is_led(&self, reign: Reign) -> bool {
        self.masters.iter().any(|master| master.leads(reign))
    }

    /// The reign of a master that believes to reign.
    pub fn reign_of(&self, master: usize) -> Option<&Begun> {
        self.reigns.iter().find(|begun| self.masters[master].leads(begun.reign))
    }

    /// All sets of answers that a master may have received.
    pub fn answered(&self, master: usize) -> impl Iterator<Item = Set> {
        let answers = self.peers.iter().map(|peer| peer.answers[master].is_some());
        let all: Set = answers.enumerate().map(|(index, is)| Set::from(is) << index).sum();
        (0..1 << self.peers.len()).filter(move |set| set & !all == 0)
    }

    /// The answers of a set of secondaries to a master.
    pub fn heard(&self, master: usize, set: Set) -> Vec<Position> {
        let members = self.peers.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
        members.filter_map(|(_, peer)| peer.answers[master]).collect()
    }

    /// Why a master that asks may begin with these answers.
    pub fn grounds(&self, master: usize, set: Set, setup: &Setup) -> Option<Grounds> {
        let Master { own, phase: Phase::Asking(epoch) } = &self.masters[master] else {
            return None;
        };
        may_begin(own, *epoch, &self.heard(master, set), setup)
    }

    /// How far a master may count its entries as committed if every answer has arrived.
    pub fn countable(&self, index: usize, setup: &Setup) -> Seq {
        let begun = &self.reigns[index];
        let answer = |peer: &Peer| {
            let is_greater = peer.copy.promised.epoch > begun.reign.epoch;
            match setup.fault {
                Some(Fault::GreaterEpochCounted) if is_greater => peer.copy.log.last_seq(),
                _ => peer.acked[index],
            }
        };
        begun.countable(&self.peers.iter().map(answer).collect::<Vec<_>>(), setup)
    }

    /// The state after a step.
    pub fn after(&self, action: Action, setup: &Setup) -> State {
        let mut next = self.clone();
        match action {
            Action::Ask { master, epoch } => next.ask(master, epoch),
            Action::Promise { peer, reign } => next.promise(peer, reign, setup),
            Action::Begin { master, log, .. } => next.begin(master, log, setup),
            Action::Append { master } => next.append(master),
            Action::Heartbeat { peer, reign } => next.heartbeat(peer, reign, setup),
            Action::Call { peer, reign, first, last } => next.call(peer, reign, first, last, setup),
            Action::Admit { peer, reign, first, last } => {
                next.peers[peer].waiting = Some((reign, first, last));
            }
            Action::Store { peer } => next.store(peer, setup),
            Action::Count { reign, place } => next.count(reign, place),
            Action::StepDown { master } => next.step_down(master),
            Action::Crash { master, log } => next.crash(master, log, setup),
            Action::CrashSecondary { peer } => next.crash_secondary(peer, setup),
            Action::Fetch { master, log } => next.masters[master].own.log = log,
            Action::BackUp { master } => next.back_up(master),
            Action::PutBack { master } => next.put_back(master, setup),
        }
        next.tidy(setup);
        next
    }

    /// An epoch is written down only when its reign begins.
    fn ask(&mut self, master: usize, epoch: Epoch) {
        self.stop(master);
        self.masters[master].phase = Phase::Asking(epoch);
        self.requests.push(Reign { epoch, id: self.masters[master].own.id });
    }

    fn promise(&mut self, peer: usize, reign: Reign, setup: &Setup) {
        if setup.fault != Some(Fault::AckedAfterALaterPromise) {
            // All that was admitted before is stored before the promise is answered.
            self.store(peer, setup);
        }
        let answer = self.peers[peer].copy.promise(reign, setup);
        let asking = self.masters.iter().position(|master| master.asks_for(reign));
        if let Some(master) = asking {
            self.peers[peer].answers[master] = answer;
        }
    }

    /// The log and the reign are on the master's disk before anything is sent in the reign.
    fn begin(&mut self, master: usize, log: Log, setup: &Setup) {
        let Master { own, phase: Phase::Asking(epoch) } = self.masters[master] else { return };
        let reign = Reign { epoch, id: own.id };
        let begun = Begun { reign, start: log.last_seq(), log, committed: 0 };
        self.harm = self.harm.or(self.committed.harm_of_beginning(&begun, &self.reigns));
        self.stop(master);
        let log_epoch = if setup.is_first(epoch) { own.log_epoch } else { epoch };
        self.masters[master].own = Own { id: own.id, reigned: epoch, log_epoch, log };
        self.masters[master].phase = Phase::Reigning(epoch);
        self.reigns.push(begun);
    }

    fn append(&mut self, master: usize) {
        let leader = self.masters[master];
        if let Some(begun) = self.reigns.iter_mut().find(|begun| leader.leads(begun.reign)) {
            begun.log.push(begun.reign);
            self.appended += 1;
        }
    }

    fn heartbeat(&mut self, peer: usize, reign: Reign, setup: &Setup) {
        let Some(index) = self.index_of(reign) else { return };
        let before = self.peers[peer].copy.log;
        let answer = self.peers[peer].copy.heartbeat(&self.reigns[index].herald(), setup);
        self.settle(peer, index, before, answer);
    }

    fn call(&mut self, peer: usize, reign: Reign, first: Seq, last: Seq, setup: &Setup) {
        let Some(index) = self.index_of(reign) else { return };
        let begun = self.reigns[index];
        let copy = &mut self.peers[peer].copy;
        let before = copy.log;
        let answer = copy.call(&begun.herald(), &begun.piece(first, last), setup);
        self.settle(peer, index, before, answer);
    }

    /// The waiting call is stored and answered. The promise is checked once more.
    fn store(&mut self, peer: usize, setup: &Setup) {
        let Some((reign, first, last)) = self.peers[peer].waiting.take() else { return };
        if setup.fault != Some(Fault::AckedAfterALaterPromise) {
            return self.call(peer, reign, first, last, setup);
        }
        let Some(index) = self.index_of(reign) else { return };
        let begun = self.reigns[index];
        let copy = &mut self.peers[peer].copy;
        let before = copy.log;
        let answer = copy.take(&begun.herald(), &begun.piece(first, last), setup);
        self.settle(peer, index, before, answer.unwrap_or_else(|answer| answer));
    }

    /// A message of a reign has changed a copy: the answer is on its way, and the harm is noted.
    fn settle(&mut self, peer: usize, index: usize, before: Log, answer: Answer) {
        let Peer { copy, acked, .. } = &mut self.peers[peer];
        let epoch = self.reigns[index].reign.epoch;
        let dropped = self.committed.harm_of_dropping(epoch, &before, &copy.log);
        let diverged = (answer == Answer::Diverged).then_some(Harm::Diverged);
        self.harm = self.harm.or(dropped).or(diverged);
        if let Answer::Acked(place) = answer {
            acked[index] = acked[index].max(place);
        }
    }

    fn count(&mut self, reign: Reign, place: Seq) {
        let Some(index) = self.index_of(reign) else { return };
        self.reigns[index].committed = place;
        self.harm = self.harm.or(self.committed.count(&self.reigns[index], &self.reigns));
    }

    /// A deposed master keeps its identity and its log, in memory too.
    fn step_down(&mut self, master: usize) {
        if let Some(log) = self.reign_of(master).map(|begun| begun.log) {
            self.masters[master].own.log = log;
        }
        self.stop(master);
    }

    fn crash(&mut self, master: usize, log: Log, setup: &Setup) {
        self.crashes += 1;
        self.stop(master);
        if setup.masters[master] {
            self.masters[master].own.log = log;
        } else {
            let id = self.draw_id(master);
            self.masters[master] = Master::new(id);
        }
    }

    fn draw_id(&mut self, master: usize) -> Id {
        self.lives += 1;
        Id::new(master, self.lives)
    }

    /// Answers to what the master has asked find nobody.
    fn stop(&mut self, master: usize) {
        self.masters[master].phase = Phase::Idle;
        self.peers.iter_mut().for_each(|peer| peer.answers[master] = None);
    }

    fn crash_secondary(&mut self, peer: usize, setup: &Setup) {
        self.crashes += 1;
        let Peer { copy, waiting, .. } = &mut self.peers[peer];
        *waiting = None;
        if !setup.disks {
            *copy = Secondary::default();
        } else if setup.fault == Some(Fault::PromiseNotPersisted) {
            copy.promised = Reign::default();
        }
    }

    fn back_up(&mut self, master: usize) {
        let mut own = self.masters[master].own;
        own.log = self.reign_of(master).map_or(own.log, |begun| begun.log);
        self.copied = Some((master, own));
    }

    fn put_back(&mut self, master: usize, setup: &Setup) {
        let Some((_, own)) = self.copied.take() else { return };
        self.crashes += 1;
        self.stop(master);
        self.masters[master].own = own;
        if setup.backup == Backup::WithoutItsId {
            self.masters[master].own.id = self.draw_id(master);
        }
    }
}

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
