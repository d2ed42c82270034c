//! When a master may begin a reign, and over which log. Pure: answers in, decisions out.
//!
//! Only secondaries promise; masters come and go. With n secondaries a majority of the n + 1 nodes
//! are q = ⌊(n + 1) / 2⌋ + 1, and an entry is *committed* when the reigning master and q − 1
//! secondaries hold it.
//!
//! - A **takeover** needs the promises of n − q + 2 secondaries: any q − 1 have one of them in
//!   common. So the new master hears of every committed entry, and no former master can commit
//!   another one.
//! - A master that starts **on its own directory** needs only q − 1, if each of them followed it last
//!   and has promised nothing to another one since: all that it has acknowledged is on its disk, and
//!   nobody else can have reigned.
//! - A **first reign**, of a cluster whose secondaries have never heard of a master, begins with
//!   those that answer. A secondary that has ever heard of another master
//!   [refuses](Reign::first) it.
//!
//! The log of the greatest [`Rank`] among those that promised and the own one has every committed
//! entry. The own log of a first reign ranks last in a takeover: perhaps nobody has followed it.
//! Original secondaries promise nothing and are not counted. A silent secondary is counted, and one
//! that answers but shows no log: it may be one of ours.

use common::entries::{Epoch, Seq};
use common::reign::{Facts, MasterId, Rank, Reign};
use common::wire::{Heard, Standing};

use crate::concern::majority;
use crate::lines::Found;

/// With how many secondaries a reign may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// With enough promises; a first reign with those that answer.
    Auto,
    /// With enough promises, a first reign too.
    Quorum,
    /// With those that answer in time: entries that a majority has acknowledged may be lost.
    Any,
}

/// A master that wants to begin a reign.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its identity.
    pub id: MasterId,
    /// Its base URL.
    pub url: &'a str,
    /// What it knows of its own log.
    pub facts: Facts,
    /// The last entry of its own log.
    pub last_seq: Seq,
    /// With how many secondaries it begins.
    pub recovery: Recovery,
    /// An operator has told it to begin, whoever reigns.
    pub takeover: bool,
    /// It has waited for `RECOVERY_TIMEOUT_MS`.
    pub is_late: bool,
    /// It has heard of a reign since it waits: it begins no first one.
    pub has_heard: bool,
}

/// What a candidate does after a look at its secondaries.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Another master reigns, or is about to: it stands by.
    StandBy(Heard),
    /// It waits and looks again, for this reason.
    Wait(String),
    /// It asks for promises.
    Ask {
        /// Nobody has ever reigned.
        is_first: bool,
    },
}

impl Candidate<'_> {
    /// Whether this master has reigned with its log before.
    fn has_reigned(&self) -> bool {
        self.facts.promised.epoch > Epoch::default() && self.facts.promised.master == self.id
    }

    /// The rank of its own log beside those of these secondaries, which promise.
    pub fn rank(&self, found: &[Found]) -> Rank {
        match self.is_own(found) {
            true => Rank { log_epoch: self.facts.promised.epoch, last_seq: self.last_seq },
            false => self.facts.rank(self.last_seq),
        }
    }

    /// What to do, when the secondaries with these URLs have answered so.
    pub fn look(&self, urls: &[String], found: &[Found]) -> Next {
        if let Some((one, other)) = twins(urls, found) {
            return Next::Wait(format!("{one} and {other} lead to the same process"));
        }
        let is_other = |heard: &&Heard| heard.is_other(self.id, self.url);
        let living = ours(found).filter_map(|it| it.hears.as_ref().filter(is_other));
        let living = living.min_by_key(|heard| heard.is_candidate);
        let free = ours(found).filter(|it| it.hears.as_ref().filter(is_other).is_none()).count();
        if let Some(heard) = living.filter(|_| !self.takeover && free < needed(found)) {
            return Next::StandBy(heard.clone());
        }
        let is_first = self.is_first(found);
        if self.is_enough(found, is_first) {
            return Next::Ask { is_first };
        }
        let missing = urls.iter().zip(found).filter(|(_, found)| !matches!(found, Found::Ours(_)));
        let missing: Vec<&str> = missing.map(|(url, _)| url.as_str()).collect();
        Next::Wait(match missing.is_empty() {
            true => "the secondaries have promised to another master".into(),
            false => format!("no answer from {}", missing.join(", ")),
        })
    }

    /// Whether nobody who has answered knows of a reign.
    pub fn is_first(&self, found: &[Found]) -> bool {
        let knows_nobody = |it: &Standing| {
            let promised = Reign { epoch: it.position.epoch, master: it.master };
            promised.epoch == Epoch::default()
                || (promised.is_first() && promised.master == self.id)
        };
        let is_new = self.facts.promised.epoch == Epoch::default() && !self.has_heard;
        is_new && ours(found).all(knows_nobody)
    }

    /// Whether these secondaries, which promise or would do so, are enough to begin with. Their
    /// standings are those before the promise.
    pub fn is_enough(&self, found: &[Found], is_first: bool) -> bool {
        let has_answer = ours(found).next().is_some();
        let is_settled = !found.contains(&Found::Nothing) || (self.is_late && has_answer);
        match self.recovery {
            Recovery::Any if self.is_late => return true,
            Recovery::Auto | Recovery::Any if is_first => return is_settled,
            _ => {}
        }
        self.is_own(found) || ours(found).count() >= needed(found)
    }

    /// Whether everything that this master has acknowledged is in its log, and nobody else can have
    /// reigned since.
    fn is_own(&self, found: &[Found]) -> bool {
        let followers = ours(found).filter(|it| it.follows == Some(self.id)).count();
        self.has_reigned()
            && followers >= others_in_quorum(found)
            && ours(found).all(|it| it.committed_seq <= self.last_seq)
    }
}

/// The index and the standing of the one with the log of the greatest rank, if that is greater than
/// this rank.
pub fn best(found: &[Found], own: Rank) -> Option<(usize, &Standing)> {
    let ranked = found.iter().enumerate().filter_map(|(index, found)| match found {
        Found::Ours(standing) => Some((index, standing)),
        _ => None,
    });
    let best = ranked.max_by_key(|(_, standing)| standing.position.rank());
    best.filter(|(_, standing)| standing.position.rank() > own)
}

/// The greatest epoch that any of them has heard of.
pub fn greatest_epoch(found: &[Found]) -> Epoch {
    ours(found).map(|standing| standing.position.epoch).max().unwrap_or_default()
}

fn ours(found: &[Found]) -> impl Iterator<Item = &Standing> {
    found.iter().filter_map(|found| match found {
        Found::Ours(standing) => Some(standing),
        _ => None,
    })
}

/// The number of secondaries that can promise.
fn able(found: &[Found]) -> usize {
    found.iter().filter(|found| !matches!(found, Found::Original(Some(_)))).count()
}

/// The number of promises that a takeover needs.
fn needed(found: &[Found]) -> usize {
    let n = able(found);
    (n + 2 - majority(n + 1)).min(n)
}

/// The number of secondaries in a majority that has the master.
fn others_in_quorum(found: &[Found]) -> usize {
    majority(able(found) + 1) - 1
}

/// Two URLs that lead to one process.
fn twins<'a>(urls: &'a [String], found: &[Found]) -> Option<(&'a str, &'a str)> {
    let instance = |found: &Found| match found {
        Found::Ours(standing) => Some(standing.position.instance.clone()),
        _ => None,
    };
    let instances: Vec<_> = found.iter().map(instance).collect();
    (0..instances.len()).find_map(|later| {
        let earlier =
            instances[..later].iter().position(|it| it.is_some() && *it == instances[later]);
        earlier.map(|earlier| (urls[earlier].as_str(), urls[later].as_str()))
    })
}

#[cfg(test)]
mod tests {
    use common::wire::Position;

    use super::*;

    const ME: MasterId = MasterId(1);
    const OTHER: MasterId = MasterId(2);

    fn candidate() -> Candidate<'static> {
        Candidate {
            id: ME,
            url: "me",
            facts: Facts::default(),
            last_seq: Seq(0),
            recovery: Recovery::Auto,
            takeover: false,
            is_late: false,
            has_heard: false,
        }
    }

    fn on_own_directory(last: u64) -> Candidate<'static> {
        let promised = Reign { epoch: Epoch(5), master: ME };
        let facts = Facts { promised, log_epoch: Epoch(5), ..Facts::default() };
        Candidate { facts, last_seq: Seq(last), ..candidate() }
    }

    /// A secondary that has followed this master in epoch 5 and holds so many entries.
    fn standing(last: u64, follows: Option<MasterId>) -> Standing {
        let epoch = if last == 0 && follows.is_none() { Epoch(0) } else { Epoch(5) };
        let instance = format!("{:x}", common::random::random());
        let position = Position {
            last_seq: Seq(last),
            last_epoch: epoch,
            epoch,
            log_epoch: Some(epoch),
            instance,
        };
        Standing { follows, ..position.into() }
    }

    fn found(last: u64, follows: Option<MasterId>) -> Found {
        Found::Ours(standing(last, follows))
    }

    fn hearing(url: &str) -> Found {
        let hears = Some(Heard { master: OTHER, url: url.into(), is_candidate: false });
        Found::Ours(Standing { hears, ..standing(3, Some(OTHER)) })
    }

    fn look(candidate: Candidate<'_>, found: &[Found]) -> Next {
        let urls: Vec<String> = (1..=found.len()).map(|n| format!("s{n}")).collect();
        candidate.look(&urls, found)
    }

    const ORIGINAL: Found = Found::Original(Some(Seq(0)));
    const FIRST_REIGN: Next = Next::Ask { is_first: true };
    const LATER_REIGN: Next = Next::Ask { is_first: false };

    fn waits(next: &Next, word: &str) -> bool {
        matches!(next, Next::Wait(why) if why.contains(word))
    }

    #[test]
    fn quorums_of_takeovers_and_majorities_intersect() {
        for n in 0..=9 {
            let found = vec![Found::Nothing; n];
            let (takeover, others) = (needed(&found), others_in_quorum(&found));
            assert!(takeover <= n && (n == 0 || takeover + others > n), "{n}");
            assert!(n == 0 || 2 * takeover > n, "two takeovers with {n}");
        }
        let of = |n| needed(&vec![Found::Nothing; n]);
        assert_eq!([of(0), of(1), of(2), of(3), of(4)], [0, 1, 2, 2, 3]);
    }

    #[test]
    fn a_takeover_needs_a_quorum_of_promises() {
        let (one, two) = (found(3, Some(OTHER)), found(2, Some(OTHER)));
        assert!(waits(&look(candidate(), &[one.clone(), Found::Nothing]), "no answer from s2"));
        assert!(waits(&look(candidate(), &[one.clone(), Found::Refused]), "no answer from s2"));
        assert_eq!(look(candidate(), &[one.clone(), two.clone()]), LATER_REIGN);
        assert_eq!(look(candidate(), &[one.clone(), two, Found::Nothing]), LATER_REIGN);
        assert_eq!(look(candidate(), &[one.clone(), ORIGINAL]), LATER_REIGN);
        let other = Found::Original(None);
        assert!(waits(&look(candidate(), &[one.clone(), other]), "s2"), "a proxy before ours");
        let any = Candidate { recovery: Recovery::Any, ..candidate() };
        let late = Candidate { is_late: true, ..any };
        assert!(waits(&look(any, &[one.clone(), Found::Nothing]), "s2"));
        assert_eq!(look(late, &[one, Found::Nothing]), LATER_REIGN);
    }

    #[test]
    fn an_own_directory_needs_followers_only() {
        let (mine, others) = (found(3, Some(ME)), found(3, None));
        assert_eq!(look(on_own_directory(3), &[mine.clone(), Found::Nothing]), LATER_REIGN);
        assert!(waits(&look(on_own_directory(3), &[others, Found::Nothing]), "s2"));
        assert!(waits(&look(on_own_directory(3), &[Found::Nothing, Found::Nothing]), "s1, s2"));
        // The directory is an old copy.
        let known = Found::Ours(Standing { committed_seq: Seq(4), ..standing(4, Some(ME)) });
        assert!(waits(&look(on_own_directory(3), &[known, Found::Nothing]), "s2"));
        let only = |found| look(on_own_directory(3), &[found]);
        assert_eq!(only(ORIGINAL), LATER_REIGN);
        assert!(waits(&only(Found::Original(None)), "s1"), "it may be a proxy before one of ours");
        assert!(waits(&only(Found::Refused), "s1"), "it may be one of ours");
        // Another master's directory, promoted.
        let foreign = Candidate { id: MasterId(7), ..on_own_directory(3) };
        assert!(waits(&look(foreign, &[mine, Found::Nothing]), "s2"));
    }

    #[test]
    fn a_first_reign_begins_when_all_have_answered() {
        let blank = found(0, None);
        for answered in [Found::Refused, ORIGINAL, Found::Original(None)] {
            assert_eq!(look(candidate(), &[blank.clone(), answered.clone()]), FIRST_REIGN);
            assert_eq!(look(candidate(), &[answered]), FIRST_REIGN);
        }
        assert!(waits(&look(candidate(), &[blank.clone(), Found::Nothing]), "s2"));
        let late = Candidate { is_late: true, ..candidate() };
        assert_eq!(look(late, &[blank.clone(), Found::Nothing]), FIRST_REIGN);
        assert!(waits(&look(late, &[Found::Nothing, Found::Nothing]), "s1, s2"), "who knows");
        let strict = Candidate { recovery: Recovery::Quorum, ..late };
        assert!(waits(&look(strict, &[blank.clone(), Found::Refused]), "s2"));
        assert_eq!(look(strict, &[blank.clone(), found(0, None)]), FIRST_REIGN);
        assert_eq!(look(on_own_directory(0), &[blank, found(0, None)]), LATER_REIGN);
        assert_eq!(look(candidate(), &[]), FIRST_REIGN);
        // It has stood by, and both are restarted at once.
        let knowing = Candidate { has_heard: true, ..candidate() };
        assert!(waits(&look(knowing, &[Found::Refused, Found::Refused]), "s1, s2"));
        // A promise of the first try, in which the other one was silent.
        let mut promised = standing(0, None);
        (promised.position.epoch, promised.master) = (Reign::first(ME).epoch, ME);
        assert_eq!(
            look(candidate(), &[Found::Ours(promised.clone()), Found::Refused]),
            FIRST_REIGN
        );
        promised.master = OTHER;
        assert!(waits(&look(candidate(), &[Found::Ours(promised), Found::Refused]), "s2"));
    }

    #[test]
    fn beside_a_living_master_it_stands_by() {
        let heard = Heard { master: OTHER, url: "m".into(), is_candidate: false };
        let all = [hearing("m"), hearing("m")];
        assert_eq!(look(candidate(), &all), Next::StandBy(heard.clone()));
        let promised = Heard { master: MasterId(3), is_candidate: true, ..heard.clone() };
        let promised_to =
            || Found::Ours(Standing { hears: Some(promised.clone()), ..standing(3, None) });
        assert_eq!(look(candidate(), &[promised_to(), hearing("m")]), Next::StandBy(heard.clone()));
        let both = [promised_to(), promised_to()];
        assert_eq!(look(candidate(), &both), Next::StandBy(promised.clone()));
        assert_eq!(look(candidate(), &[hearing("m"), found(3, None)]), Next::StandBy(heard));
        assert_eq!(look(candidate(), &[hearing("me"), hearing("me")]), LATER_REIGN, "it was here");
        let told = Candidate { takeover: true, ..candidate() };
        assert_eq!(look(told, &all), LATER_REIGN);
        let three = [hearing("m"), found(3, None), found(3, None)];
        assert_eq!(look(candidate(), &three), LATER_REIGN, "a minority hears it");
    }

    #[test]
    fn one_process_under_two_names_is_refused() {
        let one = found(0, None);
        assert!(waits(&look(candidate(), &[one.clone(), one]), "s1 and s2"));
    }

    #[test]
    fn the_best_log_has_the_latest_reign() {
        let ranked = |log_epoch, last| {
            let position =
                Position { log_epoch: Some(Epoch(log_epoch)), ..standing(last, None).position };
            Found::Ours(Standing { position, ..standing(last, None) })
        };
        let found = [ranked(5, 9), ranked(6, 2), Found::Nothing, ranked(6, 3)];
        let own = |log_epoch, last| Rank { log_epoch: Epoch(log_epoch), last_seq: Seq(last) };
        assert_eq!(best(&found, own(6, 2)).map(|(index, _)| index), Some(3));
        assert_eq!(best(&found, own(6, 3)).map(|(index, _)| index), None);
    }
}
