//! The text of `GET /metrics` of a secondary.

use std::iter;

use common::follow::Followers;
use common::http::{Response, Stats};
use common::metrics::{Counts, Exposition, NodeFigures};

use crate::replica::Replica;

/// The answer to `GET /metrics`; `calls` are the master's calls, by result.
pub fn answer(replica: &Replica, calls: &Counts, followers: &Followers, http: Stats) -> Response {
    let (log_bytes, accepted) = replica.figures();
    let node = NodeFigures {
        role: "secondary",
        last_seq: replica.position().last_seq,
        log_bytes,
        max_log_bytes: replica.max_log_bytes(),
        read_only: replica.read_only().is_some(),
        followers: (followers.count(), followers.most()),
        http,
    };
    let mut out = Exposition::default();
    node.write(&mut out, iter::empty());
    out.counter("entries_accepted", "Entries taken into the copy since the start")
        .sample(&[], accepted);
    let mut received = out.counter("calls_received", "Calls of a master, by result");
    for (result, count) in calls.iter() {
        received.sample(&[("result", result)], count);
    }
    let is_ready = f64::from(replica.not_ready_reason().is_none());
    out.gauge("ready", "1 while the copy is level with its master, as far as it knows")
        .sample(&[], is_ready);
    out.into_response()
}
