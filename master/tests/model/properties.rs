//! The properties, in words.

use stateright::Property;

use crate::cluster::State;
use crate::harm::Harm;
use crate::log::Log;
use crate::master::Grounds;
use crate::setup::Setup;

/// Nothing of this may ever fail.
pub const KEPT: &str = "no entry committed in a reign is missing from a later reign's log";
pub const ONE_HISTORY: &str = "no two reigns commit different entries at one place";
pub const ONE_LOG: &str = "a reign has one log";
pub const NOT_DROPPED: &str = "no secondary drops what is committed";
pub const NOT_DIVERGED: &str = "no secondary is contradicted at a place that it was told to be committed";

/// All of this must happen in some run: otherwise the model proves nothing.
pub const TAKEOVER: &str = "a master takes over from another";
pub const OWN_DIRECTORY: &str = "a master begins on its own directory with fewer than for a takeover";
pub const HEALED: &str = "a secondary must drop an entry";
pub const GOES_ON: &str = "a commit after a takeover";

pub fn of(setup: &Setup) -> Vec<Property<Setup>> {
    let mut properties = vec![
        Property::always(KEPT, |_, state: &State| state.harm != Some(Harm::Lost)),
        Property::always(ONE_HISTORY, |_, state: &State| state.harm != Some(Harm::Forked)),
        Property::always(ONE_LOG, |_, state: &State| state.harm != Some(Harm::TwoLogs)),
        Property::always(NOT_DROPPED, |_, state: &State| state.harm != Some(Harm::Dropped)),
        Property::always(NOT_DIVERGED, |_, state: &State| state.harm != Some(Harm::Diverged)),
    ];
    if setup.fault.is_none() {
        properties.extend([
            Property::sometimes(TAKEOVER, |_, state: &State| takes_over(state)),
            Property::sometimes(OWN_DIRECTORY, |setup, state: &State| returns(setup, state)),
            Property::sometimes(HEALED, |_, state: &State| must_drop(state)),
            Property::sometimes(GOES_ON, |_, state: &State| goes_on(state)),
        ]);
    }
    properties
}

fn takes_over(state: &State) -> bool {
    state.reigns.iter().any(|begun| begun.reign.id != state.reigns[0].reign.id)
}

fn returns(setup: &Setup, state: &State) -> bool {
    let sets = 0..1 << state.peers.len();
    sets.into_iter().any(|set| {
        let heard = |master| state.heard(master, set).len() == set.count_ones() as usize;
        let grounds = |master| state.grounds(master, set, setup);
        (0..2).any(|master| heard(master) && grounds(master) == Some(Grounds::OwnDirectory))
    })
}

fn must_drop(state: &State) -> bool {
    let differ = |one: &Log, other: &Log| one.iter().zip(other.iter()).any(|(a, b)| a != b);
    state.reigns.iter().any(|begun| {
        let copies = state.peers.iter().map(|peer| &peer.copy);
        let mut followers = copies.filter(|copy| copy.promised == begun.reign);
        followers.any(|copy| differ(&copy.log, &begun.log))
    })
}

fn goes_on(state: &State) -> bool {
    state.reigns.iter().any(|begun| {
        begun.committed > begun.start && begun.log.iter().any(|entry| entry.id != begun.reign.id)
    })
}
