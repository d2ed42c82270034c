//! The model of the takeover (its front page is `model/lib.rs`): in none of all states of a small
//! cluster a committed entry is lost; each mistake that is put in is found; and the configurations
//! that may lose entries are shown to do so. `--nocapture` prints the figures and the runs.

use takeover_model::explore::{Report, explore};
use takeover_model::faults::Fault;
use takeover_model::properties::{COMMIT, DROP, RETURN, TAKEOVER};
use takeover_model::setup::{Backup, Recovery, Setup};

/// So many secondaries, reigns, appends and crashes.
const fn bounds(secondaries: usize, epochs: u8, messages: u8, crashes: u8) -> Setup {
    Setup::new(secondaries, epochs, messages, crashes)
}

const DIRECTORIES: Setup = bounds(2, 3, 2, 1);
const FOUR_REIGNS: Setup = bounds(2, 4, 2, 0);
const IN_MEMORY: Setup = Setup { masters: &[false, false], ..bounds(2, 3, 2, 1) };
const ONE_OF_EACH: Setup = Setup { masters: &[true, false], ..bounds(2, 3, 2, 0) };
const SLOW_DISK: Setup = Setup { slow_disk: true, ..bounds(2, 3, 2, 0) };
const LEVELLING: Setup = Setup { levelling: true, places_are_told: true, ..bounds(2, 2, 2, 1) };
const LATE_FETCH: Setup = Setup { late_fetch: true, ..bounds(2, 3, 2, 0) };
const RESTORED: Setup = Setup { backup: Backup::WithoutItsId, ..bounds(2, 2, 2, 1) };
const ALONE: Setup = Setup { masters: &[true], recovery: Recovery::Auto, ..bounds(2, 3, 2, 2) };
const ALONE_WITH_FORGETFUL: Setup = Setup { disks: false, ..ALONE };

/// Every state is free of harm, and all of this happens in some.
fn assert_safe(name: &str, setup: Setup, happens: &[&str]) {
    let report = show(name, &setup);
    assert!(report.broken.is_none(), "{name} is not safe");
    for what in happens {
        assert!(report.seen.contains(what), "{name}: {what} does not happen");
    }
}

/// Some run ends in harm.
fn assert_loses(name: &str, setup: Setup) {
    let report = show(name, &setup);
    assert!(report.broken.is_some(), "{name}: no harm is found");
}

fn show(name: &str, setup: &Setup) -> Report {
    let report = explore(setup);
    println!("{name}: {report}");
    report
}

/// Tests of configurations that are safe.
macro_rules! safe {
    ($($(#[$attribute:meta])* $name:ident: $setup:expr => $happens:expr;)*) => {
        $(#[test] $(#[$attribute])* fn $name() {
            assert_safe(stringify!($name), $setup, &$happens);
        })*
    };
}

/// Tests of configurations that lose entries.
macro_rules! losing {
    ($($name:ident: $setup:expr;)*) => {
        $(#[test] fn $name() {
            assert_loses(stringify!($name), $setup);
        })*
    };
}

safe! {
    masters_with_directories: DIRECTORIES => [TAKEOVER, RETURN, DROP, COMMIT];
    masters_with_directories_in_four_reigns: FOUR_REIGNS => [TAKEOVER, RETURN, COMMIT];
    masters_in_memory: IN_MEMORY => [TAKEOVER, COMMIT];
    a_master_with_and_one_without_directory: ONE_OF_EACH => [TAKEOVER, RETURN, COMMIT];
    three_secondaries: bounds(3, 2, 2, 1) => [TAKEOVER, DROP, COMMIT];
    three_secondaries_in_three_reigns: bounds(3, 3, 1, 0) => [TAKEOVER];
    calls_that_wait_for_a_slow_disk: SLOW_DISK => [TAKEOVER, RETURN, COMMIT];
    a_standby_that_levels_its_log: LEVELLING => [TAKEOVER, RETURN, DROP, COMMIT];
    a_log_that_is_fetched_late: LATE_FETCH => [TAKEOVER, RETURN, COMMIT];
    a_restored_directory_without_its_identity: RESTORED => [TAKEOVER, RETURN, DROP, COMMIT];
    one_master_that_begins_with_whoever_answers: ALONE => [RETURN, DROP];
    one_master_and_forgetful_secondaries: ALONE_WITH_FORGETFUL => [RETURN, DROP];
}

/// The same with one mistake.
const fn with(fault: Fault, setup: Setup) -> Setup {
    Setup { fault: Some(fault), ..setup }
}

// Each mistake is found within bounds that are safe without it, as the tests above show.
losing! {
    one_promise_too_few: with(Fault::OnePromiseTooFew, DIRECTORIES);
    own_directory_hears_nobody: with(Fault::OwnDirectoryHearsNobody, FOUR_REIGNS);
    last_promise_was_mine: with(Fault::LastPromiseWasMine, FOUR_REIGNS);
    rank_by_last_entry: with(Fault::RankByLastEntry, FOUR_REIGNS);
    no_barrier: with(Fault::NoBarrier, FOUR_REIGNS);
    old_tail_kept: with(Fault::OldTailKept, DIRECTORIES);
    promise_not_persisted: with(Fault::PromiseNotPersisted, DIRECTORIES);
    equal_epochs_taken_for_one: with(Fault::EqualEpochsTakenForOne, FOUR_REIGNS);
    greater_epoch_counted: with(Fault::GreaterEpochCounted, DIRECTORIES);
    acked_after_a_later_promise: with(Fault::AckedAfterALaterPromise, SLOW_DISK);
    reached_before_the_start: with(Fault::ReachedBeforeTheStart, FOUR_REIGNS);
    own_vote_before_the_disk: with(Fault::OwnVoteBeforeTheDisk, DIRECTORIES);
}

// What the README says may lose entries.
losing! {
    any_recovery: Setup { recovery: Recovery::Any, ..DIRECTORIES };
    two_masters_that_begin_with_whoever_answers: Setup { recovery: Recovery::Auto, ..DIRECTORIES };
    one_master_in_memory_that_begins_with_whoever_answers: Setup { masters: &[false], ..ALONE };
    two_masters_and_forgetful_secondaries: Setup { disks: false, ..DIRECTORIES };
    a_restored_directory_with_its_identity:
        Setup { backup: Backup::WithItsId, places_are_told: true, ..DIRECTORIES };
}

// Farther: `make model`.
safe! {
    #[ignore = "takes minutes"]
    far_two_crashes: bounds(2, 3, 2, 2) => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_two_crashes_in_memory:
        Setup { crashes: 2, ..IN_MEMORY } => [TAKEOVER, RETURN, COMMIT];
    #[ignore = "takes minutes"]
    far_one_of_each: Setup { crashes: 1, ..ONE_OF_EACH } => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_three_messages: bounds(2, 3, 3, 1) => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_four_reigns: bounds(2, 4, 2, 1) => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_three_secondaries: bounds(3, 3, 2, 0) => [TAKEOVER, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_three_secondaries_and_a_crash: bounds(3, 3, 1, 1) => [TAKEOVER];
    #[ignore = "takes minutes"]
    far_slow_disk: Setup { crashes: 1, ..SLOW_DISK } => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_levelling: Setup { epochs: 3, ..LEVELLING } => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_late_fetch: Setup { late_fetch: true, ..FOUR_REIGNS } => [TAKEOVER, RETURN, COMMIT];
    #[ignore = "takes minutes"]
    far_late_fetch_and_a_crash:
        Setup { crashes: 1, ..LATE_FETCH } => [TAKEOVER, RETURN, DROP, COMMIT];
    #[ignore = "takes minutes"]
    far_restored: Setup { epochs: 3, messages: 1, ..RESTORED } => [TAKEOVER, RETURN];
    #[ignore = "takes minutes"]
    far_alone: Setup { epochs: 4, ..ALONE_WITH_FORGETFUL } => [RETURN, DROP];
}
