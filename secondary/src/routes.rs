//! What a secondary answers to which request.

use std::thread;
use std::time::Duration;

use common::entries::{Epoch, Seq};
use common::http::{Handler, Reply, Request, Response};
use common::reading;
use common::store::StoreError;
use common::wire::{self, EXPECTED_MSG, Heartbeat, OriginalAck, Replicate, SecondaryHealth};
use serde_json::json;

use crate::faults::FaultInjector;
use crate::replica::{Outcome, Replica};

const READ: &str = "GET, HEAD";

/// Answers requests from a copy of the log.
#[derive(Debug)]
pub struct Routes {
    replica: Replica,
    faults: FaultInjector,
    /// `/chaos` is there.
    chaos: bool,
}

impl Routes {
    /// Routes to this replica, by way of these faults; `chaos` says whether they can be changed.
    pub fn new(replica: Replica, faults: FaultInjector, chaos: bool) -> Routes {
        Routes { replica, faults, chaos }
    }

    fn answer(&self, request: &Request) -> Response {
        let body = request.body.as_slice();
        match (request.path.as_str(), request.method.as_str()) {
            ("/health", "GET" | "HEAD") => self.health(),
            ("/ready", "GET" | "HEAD") => self.ready(),
            ("/entries", "GET" | "HEAD") => self.entries(&request.query),
            ("/replicate", "POST") => self.replicate(body),
            ("/heartbeat", "POST") => self.heartbeat(body),
            ("/chaos", "GET" | "HEAD") if self.chaos => Response::json(200, &self.faults.faults()),
            ("/chaos", "PUT") if self.chaos => self.change_faults(body),
            ("/chaos", _) if self.chaos => wire::method_not_allowed("GET, HEAD, PUT"),
            ("/replicate" | "/heartbeat", _) => wire::method_not_allowed("POST"),
            ("/health" | "/ready" | "/entries", _) => wire::method_not_allowed(READ),
            (path, method) if path == "/messages" || path.starts_with("/messages/") => match method
            {
                "GET" | "HEAD" => self
                    .replica
                    .read(|log, last, committed| reading::answer(request, log, last, committed)),
                _ => wire::method_not_allowed(READ),
            },
            _ => wire::not_found(),
        }
    }

    fn health(&self) -> Response {
        let position = self.replica.position();
        let disk_failed = self.replica.disk_failed();
        let health = SecondaryHealth {
            status: "ok".into(),
            count: position.last_seq.0,
            delay_ms: self.faults.faults().delay_ms,
            read_only: disk_failed.is_some(),
            reason: disk_failed.map(|error| format!("the disk has failed: {error}")),
            position: Some(position),
        };
        Response::json(200, &health)
    }

    fn ready(&self) -> Response {
        match self.replica.lag() {
            None => Response::json(200, &json!({ "status": "ready" })),
            Some(reason) => wire::not_ready(&reason),
        }
    }

    /// What a recovering master reads: the entries from a place on, in the form of a call.
    fn entries(&self, query: &str) -> Response {
        let from = query.strip_prefix("from=").and_then(|from| from.parse().ok()).map(Seq);
        self.replica.read(|log, last, _| match from {
            Some(from) if from > Seq::NONE && from <= last => wire::entries(log, from, last),
            _ => Response::error(400, "from must be the place of an entry"),
        })
    }

    fn heartbeat(&self, body: &[u8]) -> Response {
        match wire::read_object::<Heartbeat>(body) {
            Ok(heartbeat) if heartbeat.epoch <= Epoch::MOST => match self.replica.hear(heartbeat) {
                Ok(position) => Response::json(200, &position),
                Err(error) => disk_failed(&error),
            },
            _ => Response::error(400, "Expected JSON with epoch, last_seq, committed_seq"),
        }
    }

    fn replicate(&self, body: &[u8]) -> Response {
        let Ok(call) = wire::read_object::<Replicate>(body) else {
            return Response::error(400, EXPECTED_MSG);
        };
        let faults = self.faults.faults();
        thread::sleep(Duration::from_millis(faults.delay_ms));
        if self.faults.strikes(faults.error_rate) {
            return Response::error(500, "CHAOS: nothing was stored");
        }
        let outcome = self.replica.receive(call);
        if self.faults.strikes(faults.error_after_store) {
            return Response::error(500, "CHAOS: an error after storing");
        }
        match outcome {
            Outcome::Acknowledged(ack) => Response::json(200, &ack),
            Outcome::AppendedUnnumbered { idx } => {
                Response::json(200, &OriginalAck { status: "ok".into(), idx })
            }
            Outcome::Refused(refusal) => Response::json(409, &refusal),
            Outcome::Full => Response::refused(507, "The log is full"),
            Outcome::DiskFailed(error) => disk_failed(&error),
            Outcome::Malformed => Response::error(400, EXPECTED_MSG),
        }
    }

    fn change_faults(&self, body: &[u8]) -> Response {
        match self.faults.change(body) {
            Ok(faults) => {
                log::info!("changed faults to {faults:?}");
                Response::json(200, &faults)
            }
            Err(problem) => Response::error(400, &problem),
        }
    }
}

fn disk_failed(error: &StoreError) -> Response {
    let status = if error.is_full { 507 } else { 500 };
    Response::error(status, &format!("The disk has failed: {error}"))
}

impl Handler for Routes {
    fn handle(&self, request: &Request, reply: Reply) {
        reply.send(self.answer(request));
    }
}
