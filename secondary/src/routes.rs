//! What a secondary answers to which request.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::access::{Access, Who};
use common::client::check_base_url;
use common::entries::Epoch;
use common::epochs;
use common::follow::{self, Followers, Source};
use common::http::{Handler, Reply, Request, Response, Stats};
use common::json::read_object;
use common::metrics::Counts;
use common::openapi;
use common::reading;
use common::store::StoreError;
use common::wire::{
    self, Caller, EXPECTED_MSG, Heartbeat, OriginalAck, Promise, Replicate, SecondaryHealth,
    Standing, Told,
};
use serde_json::json;

use crate::faults::FaultInjector;
use crate::metrics;
use crate::replica::{Outcome, Replica};
use crate::settings::Settings;
use crate::standbys::Standbys;

const READ: &str = "GET, HEAD";

/// The part of the API that only a secondary has.
const OPENAPI: &str = include_str!("openapi.json");

/// Answers requests from a copy of the log.
#[derive(Debug)]
pub struct Routes {
    replica: Replica,
    faults: FaultInjector,
    /// `/chaos` is there.
    chaos: bool,
    /// Calls in the original's form are taken beside those of a master of ours.
    takes_original: bool,
    followers: Followers,
    standbys: Standbys,
    access: Access,
    /// Calls of a master, by result.
    calls: Counts,
    openapi: String,
}

impl Routes {
    /// Routes to this replica; so many clients may follow the log, and `access` says who may ask.
    pub fn new(replica: Replica, own: &Settings, followers: usize, access: Access) -> Routes {
        Routes {
            replica,
            faults: FaultInjector::new(own.delay_ms),
            chaos: own.chaos == 1,
            takes_original: own.accept_original == 1,
            followers: Followers::new(followers),
            standbys: Standbys::default(),
            access,
            calls: Counts::new(&["duplicate", "failed", "ok", "refused"]),
            openapi: openapi::document(OPENAPI),
        }
    }

    fn answer(&self, request: &Request, http: Stats) -> Response {
        let body = request.body.as_slice();
        let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
        match (request.path.as_str(), method) {
            ("/health", "GET") => self.health(self.access.trusts(request)),
            ("/ready", "GET") => self.ready(),
            ("/metrics", "GET") => {
                let refused = self.access.refused();
                metrics::answer(&self.replica, &self.calls, &self.followers, http, refused)
            }
            ("/openapi.json", "GET") => {
                Response::text(200, "application/json", self.openapi.as_str())
            }
            ("/entries", "GET") => self.entries(&request.query),
            ("/messages", "POST") => self.elsewhere(),
            ("/replicate", "POST") => self.replicate(body),
            ("/heartbeat", "POST") => self.heartbeat(body),
            ("/promise", "POST") => self.promise(body),
            ("/chaos", "GET") if self.chaos => Response::json(200, &self.faults.faults()),
            ("/chaos", "PUT") if self.chaos => self.change_faults(body),
            ("/chaos", _) if self.chaos => Response::method_not_allowed("GET, HEAD, PUT"),
            ("/replicate" | "/heartbeat" | "/promise", _) => Response::method_not_allowed("POST"),
            ("/messages", _) => Response::method_not_allowed("GET, HEAD, POST"),
            ("/health" | "/ready" | "/metrics" | "/openapi.json" | "/entries", _) => {
                Response::method_not_allowed(READ)
            }
            (path, _) if path.starts_with("/messages/") => Response::method_not_allowed(READ),
            _ => Response::not_found(),
        }
    }

    /// Whoever could forge a master's call or an answer by what the standing says is not told it.
    fn health(&self, is_trusted: bool) -> Response {
        let standing = is_trusted.then(|| self.told(self.replica.standing()));
        let reason = self.replica.read_only();
        let health = SecondaryHealth {
            status: "ok".into(),
            count: self.replica.count(),
            delay_ms: self.faults.faults().delay_ms,
            read_only: reason.is_some(),
            reason,
            standing,
        };
        Response::json(200, &health)
    }

    fn ready(&self) -> Response {
        match self.replica.not_ready_reason() {
            None => Response::json(200, &json!({ "status": "ready" })),
            Some(reason) => Response::not_ready(&reason),
        }
    }

    /// Where a message is to go: to the master that is heard.
    fn elsewhere(&self) -> Response {
        let heard = self.replica.standing().hears.filter(|heard| !heard.is_candidate);
        let url = heard.as_ref().map(|heard| heard.url.trim_end_matches('/'));
        // It becomes a header, and a caller may write anything.
        let master = url.filter(|url| check_base_url(url).is_ok());
        let detail = match (&heard, master) {
            (_, Some(url)) => format!("{url} reigns"),
            (Some(_), None) => "the master gives no URL".into(),
            (None, None) => "no master is heard".into(),
        };
        let error = "a secondary takes no messages";
        let body = json!({ "error": error, "detail": detail, "stored": false, "master": master });
        match master {
            Some(url) => {
                let place = format!("{url}/messages");
                Response::json(307, &body).with_header("Location", place)
            }
            None => Response::json(503, &body).with_header("Retry-After", "1"),
        }
    }

    /// What a recovering master reads: the entries from a place on, in the form of a call.
    fn entries(&self, query: &str) -> Response {
        let from = match reading::first(query) {
            Ok(from) => from,
            Err(problem) => return Response::error(400, &problem),
        };
        self.replica.read(|log, last, _| {
            if from > last {
                return reading::no_entry();
            }
            let (body, _) = wire::replicate_body(log, Caller::default(), from, last);
            Response::text(200, "application/json", body)
        })
    }

    fn heartbeat(&self, body: &[u8]) -> Response {
        let heartbeat = match read_object::<Heartbeat>(body) {
            Ok(heartbeat) if heartbeat.is_possible() => heartbeat,
            _ => return Response::error(400, "Expected JSON with epoch, last_seq, committed_seq"),
        };
        if let Err(why) = epochs::check(heartbeat.greatest_epoch(), "a heartbeat") {
            return Response::error(400, &why);
        }
        if heartbeat.reign.epoch == Epoch::default() {
            self.standbys.note(&heartbeat.url, Instant::now());
        }
        match self.replica.heartbeat(heartbeat) {
            Ok(standing) => Response::json(200, &self.told(standing)),
            Err(error) => disk_failed(&error),
        }
    }

    /// The same with what only the routes know.
    fn told(&self, standing: Standing) -> Standing {
        let has_followers = self.followers.count() > 0;
        let told = Told { standbys: self.standbys.list(Instant::now()), ..*standing.told };
        Standing { has_followers, told: Box::new(told), ..standing }
    }

    fn promise(&self, body: &[u8]) -> Response {
        match read_object::<Promise>(body) {
            Ok(promise) if promise.is_possible() => {
                match epochs::check(promise.reign.epoch, "a promise that is asked for") {
                    Ok(()) => self.make_promise(promise),
                    Err(why) => Response::error(400, &why),
                }
            }
            _ => Response::error(400, "Expected JSON with epoch, master"),
        }
    }

    fn make_promise(&self, promise: Promise) -> Response {
        match self.replica.promise(promise) {
            Ok(Ok(standing)) => Response::json(200, &standing),
            Ok(Err(refusal)) => Response::json(409, &refusal),
            Err(error) => disk_failed(&error),
        }
    }

    fn replicate(&self, body: &[u8]) -> Response {
        let call = match read_object::<Replicate>(body) {
            Ok(call) => call,
            Err(why) => return Response::refused_because(400, EXPECTED_MSG, &why),
        };
        if let Some(refusal) = self.refuse(&call) {
            self.calls.add("refused");
            return refusal;
        }
        let faults = self.faults.faults();
        thread::sleep(Duration::from_millis(faults.delay_ms));
        if self.faults.strikes(faults.error_rate) {
            return Response::error(500, "CHAOS: nothing was stored");
        }
        let outcome = self.replica.receive(call);
        self.calls.add(match &outcome {
            Outcome::Acknowledged(ack) if ack.duplicate => "duplicate",
            Outcome::Acknowledged(_) | Outcome::AppendedUnnumbered { .. } => "ok",
            Outcome::Refused(_) | Outcome::Malformed => "refused",
            Outcome::Full | Outcome::DiskFailed(_) => "failed",
        });
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

    /// The refusal of a call that cannot come from the master of this secondary.
    fn refuse(&self, call: &Replicate) -> Option<Response> {
        match call {
            Replicate::Numbered(call) => {
                let checked = epochs::check(call.greatest_epoch(), "a call");
                checked.err().map(|why| Response::error(400, &why))
            }
            Replicate::Original(_) if !self.takes_original && self.replica.is_driven() => {
                let error = "The master of this secondary numbers its entries: \
                             ACCEPT_ORIGINAL=1 takes others all the same";
                Some(Response::refused(409, error))
            }
            Replicate::Original(_) => None,
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

/// Who may ask for what.
fn who_may(head: &Request) -> Who {
    match (head.path.as_str(), head.method.as_str()) {
        ("/health" | "/ready" | "/metrics" | "/openapi.json", _) => Who::Anybody,
        (path, "GET" | "HEAD") if path == "/messages" || path.starts_with("/messages/") => {
            Who::Reader
        }
        ("/messages", _) => Who::Writer,
        (path, _) if path.starts_with("/messages/") => Who::Reader,
        _ => Who::Node,
    }
}

fn disk_failed(error: &StoreError) -> Response {
    let status = if error.is_full { 507 } else { 500 };
    Response::error(status, &format!("The disk has failed: {error}"))
}

impl Handler for Routes {
    fn admit(&self, head: &Request, peer: SocketAddr) -> Result<(), Response> {
        self.access.admit(head, who_may(head), peer)
    }

    /// A master's calls wait for a disk at most.
    fn is_brief(&self, head: &Request) -> bool {
        let path = head.path.as_str();
        let is_call = matches!(path, "/replicate" | "/heartbeat" | "/promise" | "/entries");
        is_call || matches!(path, "/health" | "/ready" | "/metrics")
    }

    fn handle(&self, request: &mut Request, reply: Reply) {
        match (request.path.as_str(), request.method.as_str()) {
            (path, "GET" | "HEAD") if path == "/messages" || path.starts_with("/messages/") => {
                follow::answer(request, reply, &self.replica, &self.followers);
            }
            (_, method) => {
                let answer = self.answer(request, reply.stats());
                reply.send(if method == "OPTIONS" { answer.for_options() } else { answer });
            }
        }
    }
}
