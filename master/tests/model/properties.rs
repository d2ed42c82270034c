//! What must hold in every state, and what must happen in some.

use stateright::Property;

use crate::cluster::State;
use crate::harm::Harm;
use crate::master::Grounds;
use crate::setup::Setup;

/// A name, and whether it is so in a state.
type Named = (&'static str, fn(&Setup, &State) -> bool);

/// All of this must hold in every state.
const ALWAYS: [Named; 5] = [
    ("no entry committed in a reign is missing from a later reign's log", |_, state| {
        state.harm != Some(Harm::Lost)
    }),
    ("no two reigns commit different entries at one place", |_, state| {
        state.harm != Some(Harm::Forked)
    }),
    ("a reign has one log", |_, state| state.harm != Some(Harm::TwoLogs)),
    ("no copy of a reign drops what this reign or an earlier one has committed", |_, state| {
        state.harm != Some(Harm::Dropped)
    }),
    ("no copy is contradicted at a place that it was told to be committed", |_, state| {
        state.harm != Some(Harm::Diverged)
    }),
];

/// A master begins a reign after one of another master.
pub const TAKEOVER: &str = "a takeover";
/// A master begins on its own directory with fewer promises than for a takeover.
pub const RETURN: &str = "a return to the own directory";
/// A copy must drop an entry.
pub const DROP: &str = "a copy that must drop an entry";
/// Entries of a reign are committed after a takeover.
pub const COMMIT: &str = "a commit after a takeover";

/// All of this must happen somewhere: otherwise the rest would prove nothing.
const SOMETIMES: [Named; 4] = [
    (TAKEOVER, |_, state| state.reigns.iter().any(|it| it.reign.id != state.reigns[0].reign.id)),
    (RETURN, returns),
    (DROP, |_, state| must_drop(state)),
    (COMMIT, |_, state| {
        let mut reigns = state.reigns.iter().filter(|begun| begun.committed > begun.start);
        reigns.any(|begun| begun.log.iter().any(|entry| entry.id != begun.reign.id))
    }),
];

/// The properties of a configuration.
pub fn of(setup: &Setup) -> Vec<Property<Setup>> {
    let always = ALWAYS.map(|(name, holds)| Property::always(name, holds));
    let sometimes = SOMETIMES.map(|(name, happens)| Property::sometimes(name, happens));
    let sometimes = sometimes.into_iter().filter(|_| setup.fault.is_none());
    always.into_iter().chain(sometimes).collect()
}

fn returns(setup: &Setup, state: &State) -> bool {
    (0..state.masters.len()).any(|master| {
        let mut sets = state.answered(master);
        sets.any(|heard| state.grounds(master, heard, setup) == Some(Grounds::OwnDirectory))
    })
}

fn must_drop(state: &State) -> bool {
    state.reigns.iter().any(|begun| {
        let copies = state.peers.iter().map(|peer| &peer.copy);
        let mut followers = copies.filter(|copy| copy.promised == begun.reign);
        followers.any(|copy| copy.log.iter().zip(begun.log.iter()).any(|(a, b)| a != b))
    })
}
