//! What the master answers to which request.

use std::sync::Arc;
use std::time::Instant;

use common::entries::Seq;
use common::http::{Handler, Reply, Request, Response};
use common::logging::excerpt;
use common::wire::{self, AckStatus, EXPECTED_MSG, PostMessage, ReplicationFailed};
use log::{info, warn};
use serde_json::json;

use crate::replication::{Replication, Written};

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
        let last = state.log.last_seq();
        let statuses = state.lines.iter().map(|line| {
            let acked = line.acked_seq();
            let status = json!({
                "acked_seq": acked,
                "lag_entries": last.0 - acked.0,
                "last_error": line.last_error(),
            });
            (line.url().to_string(), status)
        });
        let health = json!({
            "status": "ok",
            "secondaries": self.replication.urls(),
            "count": last,
            "last_seq": last,
            "epoch": state.lines.epoch(),
            "fenced_by": state.lines.fenced_by(),
            "secondary_statuses": statuses.collect::<serde_json::Map<_, _>>(),
        });
        drop(state);
        Response::json(200, &health)
    }

    fn post(&self, body: &[u8], reply: Reply) {
        let start = Instant::now();
        let Ok(PostMessage { msg }) = serde_json::from_slice(body) else {
            return reply.send(Response::error(400, EXPECTED_MSG));
        };
        self.replication.write(&msg, |replication, written| {
            let duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let response = match &written {
                Written::Acknowledged { seq, acks } => {
                    info!("appended seq={seq} msg={} duration_ms={duration_ms}", excerpt(&msg));
                    created(replication, *seq, acks, duration_ms)
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

/// The original's 201, which carries the whole log.
fn created(replication: &Replication, seq: Seq, acks: &[AckStatus], duration_ms: u64) -> Response {
    let w = acks.len() + 1;
    let rest = json!({ "acks": acks, "duration_ms": duration_ms, "w": w, "seq": seq }).to_string();
    // `{"messages":[…]` and `{"acks":…}` become one object.
    let rest = format!(",{}", &rest[1..]);
    let chunks = wire::messages_object(&replication.lock().log, rest.as_bytes());
    Response::chunks(201, chunks).with_header("Location", format!("/messages/{seq}"))
}

impl Handler for Routes {
    fn handle(&self, request: &Request, reply: Reply) {
        match (request.path.as_str(), request.method.as_str()) {
            ("/messages", "POST") => self.post(&request.body, reply),
            _ => reply.send(self.answer(request)),
        }
    }
}
