//! Tells a run in words. A log is written as the reigns of its entries: `[1, 1, 3]`.

use stateright::Path;

use crate::cluster::{Action, State};
use crate::log::{Log, Reign, Seq};

/// Each step of a run as a sentence.
pub fn run(path: Path<State, Action>) -> Vec<String> {
    let steps = path.into_vec();
    let pairs = steps.iter().zip(steps.iter().skip(1));
    let told = pairs.filter_map(|((before, action), (after, _))| Some((before, (*action)?, after)));
    told.map(|(before, action, after)| step(before, action, after)).collect()
}

fn step(before: &State, action: Action, after: &State) -> String {
    match action {
        Action::Ask { master, epoch } => {
            format!("{} asks for promises to reign {epoch}", name(master))
        }
        Action::Promise { peer, reign } => format!("{} promises {}", s(before, peer), tell(reign)),
        Action::Begin { master, heard, log } => {
            let heard = (0..before.peers.len()).filter(|index| heard >> index & 1 == 1);
            let mut heard: Vec<String> = heard.map(|peer| s(before, peer)).collect();
            heard.sort_unstable();
            let heard = if heard.is_empty() { "nobody".into() } else { heard.join(" and ") };
            let reign = after.reigns.last().map(|begun| begun.reign).unwrap_or_default();
            format!(
                "{} has heard {heard} and begins reign {} over {}",
                name(master),
                reign.epoch,
                list(&log)
            )
        }
        Action::Append { master } => format!("{} appends an entry", name(master)),
        Action::Heartbeat { peer, reign } => {
            format!(
                "{} hears a heartbeat of {}{}",
                s(before, peer),
                tell(reign),
                now(before, after, peer)
            )
        }
        Action::Call { peer, reign, first, last } => {
            let now = now(before, after, peer);
            format!("{} takes {} of {}{now}", s(before, peer), entries(first, last), tell(reign))
        }
        Action::Admit { peer, reign, first, last } => {
            let which = entries(first, last);
            format!("{} admits {which} of {}, and its disk is slow", s(before, peer), tell(reign))
        }
        Action::Store { peer } => {
            format!(
                "{} has stored the call and acknowledges it{}",
                s(before, peer),
                now(before, after, peer)
            )
        }
        Action::Count { reign, place } => {
            format!("{} counts its log as committed up to {place}", tell_master(reign))
        }
        Action::StepDown { master } => {
            format!("{} hears of a greater reign and is deposed", name(master))
        }
        Action::Crash { master, log } => {
            format!("{} crashes and restarts with the log {}", name(master), list(&log))
        }
        Action::CrashSecondary { peer } => format!("{} restarts", s(before, peer)),
        Action::Fetch { master, log } => {
            format!("{} fetches a better log, and has {} of it", name(master), list(&log))
        }
        Action::BackUp { master } => format!("the directory of {} is copied", name(master)),
        Action::PutBack { master } => {
            format!("{} is stopped and restarts on the copy of its directory", name(master))
        }
    }
}

fn name(master: usize) -> String {
    format!("M{}", master + 1)
}

fn s(state: &State, peer: usize) -> String {
    format!("S{}", state.peers[peer].name.0)
}

fn tell(reign: Reign) -> String {
    format!("{}'s reign {}", name(reign.id.master()), reign.epoch)
}

fn tell_master(reign: Reign) -> String {
    format!("{} in reign {}", name(reign.id.master()), reign.epoch)
}

fn entries(first: Seq, last: Seq) -> String {
    if first == last { format!("entry {first}") } else { format!("entries {first} to {last}") }
}

/// The reign of each entry.
fn list(log: &Log) -> String {
    let epochs: Vec<String> = log.iter().map(|entry| entry.epoch.to_string()).collect();
    format!("[{}]", epochs.join(", "))
}

/// What a secondary holds, if a step has changed it.
fn now(before: &State, after: &State, peer: usize) -> String {
    let old = &before.peers[peer];
    let new = after.peers.iter().find(|peer| peer.name.0 == old.name.0).unwrap_or(old);
    if new.copy.log == old.copy.log {
        String::new()
    } else {
        format!(", holds {}", list(&new.copy.log))
    }
}
