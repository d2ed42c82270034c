//! The text of `GET /metrics` of a secondary.

use common::follow::Followers;
use common::http::{Response, Stats};
use common::metrics::{Counts, Exposition};

use crate::replica::Replica;

/// The answer to `GET /metrics`; `calls` are the master's calls, by result, and `refused` the
/// requests that were not let in, by reason.
pub fn answer(
    replica: &Replica,
    calls: &Counts,
    followers: &Followers,
    http: Stats,
    refused: impl Iterator<Item = (&'static str, u64)>,
) -> Response {
    let (log_bytes, accepted, dropped) = replica.figures();
    let (last_seq, bytes) =
        (replica.standing().position.last_seq, (log_bytes, replica.max_log_bytes()));
    let is_read_only = replica.read_only().is_some();
    let mut out =
        Exposition::of_node("secondary", last_seq, bytes, is_read_only, followers, &http, refused);
    out.counter("entries_accepted", "Entries taken into the copy since the start")
        .sample(&[], accepted);
    out.counter("entries_dropped", "Entries that a new master's log did not have, since the start")
        .sample(&[], dropped);
    let mut received = out.counter("calls_received", "Calls of a master, by result");
    for (result, count) in calls.iter() {
        received.sample(&[("result", result)], count);
    }
    let is_ready = f64::from(replica.not_ready_reason().is_none());
    out.gauge("ready", "1 while the copy is level with its master, as far as it knows")
        .sample(&[], is_ready);
    out.into_response()
}
