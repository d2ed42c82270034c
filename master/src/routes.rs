//! What the master answers to which request.

use std::sync::Arc;
use std::time::Instant;

use common::http::{Handler, Reply, Request, Response};
use common::logging::excerpt;
use common::wire::{
    self, Created, EXPECTED_MSG, MasterHealth, PostMessage, ReplicationFailed, SecondaryStatus,
};
use log::{info, warn};
use serde_json::json;

use crate::replication::{Replication, Written};

/// The preference for an answer that does not grow with the log.
const MINIMAL: &str = "return=minimal";

/// Answers requests to the master.
#[derive(Debug)]
pub struct Routes {
    replication: Arc<Replication>,
}

impl Routes {
    /// Routes to this replication.
    pub fn new(replication: Arc<Replication>) -> Routes {
        Routes { replication }
    }

    fn answer(&self, request: &Request) -> Response {
        if let Some(seq) = request.path.strip_prefix("/messages/") {
            return match request.method.as_str() {
                "GET" | "HEAD" => wire::message(&self.replication.lock().log, seq),
                _ => wire::method_not_allowed("GET, HEAD"),
            };
        }
        match (request.path.as_str(), request.method.as_str()) {
            ("/messages", "GET" | "HEAD") => wire::messages(&self.replication.lock().log),
            ("/health", "GET" | "HEAD") => self.health(),
            ("/messages", _) => wire::method_not_allowed("GET, HEAD, POST"),
            ("/health", _) => wire::method_not_allowed("GET, HEAD"),
            _ => wire::not_found(),
        }
    }

    fn health(&self) -> Response {
        let state = self.replication.lock();
        let last_seq = state.log.last_seq();
        let statuses = state.lines.iter().map(|line| {
            let acked_seq = line.acked_seq();
            let lag_entries = last_seq.0 - acked_seq.0;
            let last_error = line.last_error().map(str::to_string);
            (line.url().to_string(), SecondaryStatus { acked_seq, lag_entries, last_error })
        });
        let health = MasterHealth {
            status: "ok".into(),
            secondaries: self.replication.urls(),
            count: last_seq.0,
            epoch: state.lines.epoch(),
            last_seq,
            fenced_by: state.lines.fenced_by(),
            secondary_statuses: statuses.collect(),
        };
        drop(state);
        Response::json(200, &health)
    }

    fn post(&self, request: &Request, reply: Reply) {
        let start = Instant::now();
        let minimal = prefers_minimal(request);
        let Ok(PostMessage { msg }) = wire::read_object(&request.body) else {
            return reply.send(Response::error(400, EXPECTED_MSG));
        };
        self.replication.write(&msg, |replication, written| {
            let duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let response = match &written {
                Written::Acknowledged { seq, acks } => {
                    info!("appended seq={seq} msg={} duration_ms={duration_ms}", excerpt(&msg));
                    let (acks, w, seq) = (acks.clone(), acks.len() + 1, *seq);
                    created(replication, &Created { acks, duration_ms, w, seq }, minimal)
                }
                Written::Unacknowledged { seq, failed, acks } => {
                    let detail = failed.detail.clone().unwrap_or_default();
                    warn!(
                        "appended without all acks seq={seq} msg={} secondary={} detail={detail:?} \
                         duration_ms={duration_ms}",
                        excerpt(&msg),
                        failed.secondary,
                    );
                    let error = format!("Replication to {} failed", failed.secondary);
                    let (seq, acks) = (*seq, acks.clone());
                    let body = ReplicationFailed { error, detail, seq, stored: true, acks };
                    Response::json(502, &body)
                }
                Written::Fenced(epoch) => {
                    let error = format!("Epoch {epoch} has begun: this master is read-only");
                    Response::json(503, &json!({ "error": error, "stored": false }))
                }
            };
            reply.send(response);
        });
    }
}

/// The answer 201: the original's, which carries the whole log, or the short one of a client that
/// prefers it (RFC 7240).
fn created(replication: &Replication, created: &Created, minimal: bool) -> Response {
    let response = if minimal {
        Response::json(201, created).with_header("Preference-Applied", MINIMAL)
    } else {
        // `{"messages":[…]` and `{"acks":…}` become one object.
        let mut rest = serde_json::to_vec(created).expect("a wire body has only string keys");
        rest[0] = b',';
        Response::chunks(201, wire::messages_object(&replication.lock().log, &rest))
    };
    response.with_header("Location", format!("/messages/{}", created.seq))
}

/// Whether the client prefers an answer without the log.
fn prefers_minimal(request: &Request) -> bool {
    let preferences = request.header("Prefer").unwrap_or("");
    preferences.split([',', ';']).any(|one| one.trim().eq_ignore_ascii_case(MINIMAL))
}

impl Handler for Routes {
    fn handle(&self, request: &Request, reply: Reply) {
        match (request.path.as_str(), request.method.as_str()) {
            ("/messages", "POST") => self.post(request, reply),
            _ => reply.send(self.answer(request)),
        }
    }
}
