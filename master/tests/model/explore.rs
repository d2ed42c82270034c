//! Visits every state of a configuration, the nearest first.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::setup::Setup;
use crate::tell;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// States that were visited.
    pub states: usize,
    /// Steps that were taken from them.
    pub steps: usize,
    /// The number of steps of the longest run.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// The first property that was broken, and a shortest run that breaks it, in words.
    pub broken: Option<(&'static str, Vec<String>)>,
    /// What happened of what must happen in some run.
    pub seen: Vec<&'static str>,
}

/// Visits every state, or those up to the first harm.
pub fn explore(setup: &Setup) -> Report {
    let begin = Instant::now();
    let checker = setup.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut report = Report {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        time: begin.elapsed(),
        broken: None,
        seen: Vec::new(),
    };
    for (name, path) in checker.discoveries() {
        if setup.property(name).expectation == Expectation::Sometimes {
            report.seen.push(name);
        } else {
            report.broken = Some((name, tell::run(path)));
        }
    }
    report
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { states, steps, depth, time, broken, .. } = self;
        let seconds = time.as_secs_f64();
        write!(f, "{states} states, {steps} steps, depth {depth}, {seconds:.1} s")?;
        if let Some((name, run)) = broken {
            write!(f, "\n  broken: {name}")?;
            for (number, step) in run.iter().enumerate() {
                write!(f, "\n  {:2}. {step}", number + 1)?;
            }
        }
        Ok(())
    }
}
