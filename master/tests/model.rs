//! scratch
use takeover_model::explore::explore;
use takeover_model::faults::Fault;
use takeover_model::setup::*;

#[test]
fn scratch() {
    let var = |n: &str, d: u8| std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    let on = |n| var(n, 0) == 1;
    let fault = std::env::var("F").ok().and_then(|f| Fault::ALL.into_iter().find(|x| format!("{x:?}") == f));
    let setup = Setup {
        masters: match var("DIR", 3) { 0 => &[false, false], 1 => &[true, false], 4 => &[true], 5 => &[false], _ => &[true, true] },
        disks: var("DISKS", 1) == 1,
        fault,
        recovery: [Recovery::Quorum, Recovery::Auto, Recovery::Any][var("REC", 0) as usize],
        backup: [Backup::None, Backup::WithItsId, Backup::WithoutItsId][var("BACK", 0) as usize],
        levelling: on("LEVEL"), places_are_told: on("TOLD"), slow_disk: on("SLOW") || fault == Some(Fault::AckedAfterALaterPromise), late_fetch: on("LATE"),
        ..Setup::new(var("N", 2) as usize, var("E", 3), var("M", 2), var("C", 1))
    };
    let report = explore(&setup);
    println!("{report}\n{:?}", report.seen);
}
