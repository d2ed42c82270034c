//! What the master answers to which request.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::client::{Answer, Client};
use common::entries::{Draft, Seq};
use common::follow::{self, Followers};
use common::http::{Handler, Reply, Request, Response, Stats};
use common::json::read_object;
use common::logging::excerpt;
use common::openapi;
use common::reading;
use common::store::StoreError;
use common::wire::EXPECTED_MSG;
use log::{debug, info, warn};
use serde_json::json;

use crate::bodies::{AckState, Created, MasterHealth, PostMessage, ReplicationFailed};
use crate::concern::Concern;
use crate::events;
use crate::metrics::Metrics;
use crate::scrape;
use crate::state::{NotAppended, ReadOnly, Replication};
use crate::write::{Missing, Outcome, Stored};

/// The preference for an answer that does not grow with the log.
const MINIMAL: &str = "return=minimal";

/// How long a secondary may take to say or change its faults.
const CHAOS_TIMEOUT: Duration = Duration::from_secs(2);

/// The live page.
const PAGE: &str = include_str!("page/index.html");

/// The part of the API that only the master has.
const OPENAPI: &str = include_str!("openapi.json");

const READ: &str = "GET, HEAD";

/// Answers requests to the master.
#[derive(Debug)]
pub struct Routes {
    replication: Arc<Replication>,
    wtimeout: Duration,
    followers: Followers,
    openapi: String,
}

impl Routes {
    /// Routes to this replication; `wtimeout` is for requests with a `w` that do not say, and so
    /// many clients may follow the log.
    pub fn new(replication: Arc<Replication>, wtimeout: Duration, followers: usize) -> Routes {
        let (followers, openapi) = (Followers::new(followers), openapi::document(OPENAPI));
        Routes { replication, wtimeout, followers, openapi }
    }

    fn answer(&self, request: &Request, http: Stats) -> Response {
        let path = request.path.as_str();
        match (path, request.method.as_str()) {
            ("/", "GET" | "HEAD") => Response::text(200, "text/html; charset=utf-8", PAGE),
            ("/health", "GET" | "HEAD") => self.health(),
            ("/ready", "GET" | "HEAD") => self.ready(),
            ("/metrics", "GET" | "HEAD") => {
                scrape::answer(&self.replication, &self.followers, http)
            }
            ("/openapi.json", "GET" | "HEAD") => {
                Response::text(200, "application/json", self.openapi.as_str())
            }
            ("/" | "/health" | "/ready" | "/metrics" | "/openapi.json" | "/events", _) => {
                Response::method_not_allowed(READ)
            }
            ("/messages", _) => Response::method_not_allowed("GET, HEAD, POST"),
            (_, method) if path.starts_with("/secondaries/") => self.chaos(path, method, request),
            _ if path.starts_with("/messages/") => Response::method_not_allowed(READ),
            _ => Response::not_found(),
        }
    }

    /// Passes on what concerns a secondary's faults: a page cannot reach it by the name that the
    /// master knows.
    fn chaos(&self, path: &str, method: &str, request: &Request) -> Response {
        let mut paths = self.replication.urls().iter().enumerate();
        let Some((_, url)) = paths.find(|(index, _)| path == format!("/secondaries/{index}/chaos"))
        else {
            return Response::not_found();
        };
        let client = Client::new(url, CHAOS_TIMEOUT);
        let answer = match method {
            "GET" | "HEAD" => client.get("/chaos"),
            "PUT" => client.put("/chaos", &request.body),
            _ => return Response::method_not_allowed("GET, HEAD, PUT"),
        };
        match answer {
            Ok(Answer { status: status @ (200 | 400 | 404), body }) => {
                Response::text(status, "application/json", body)
            }
            Ok(Answer { status, .. }) => Response::error(502, &format!("{url} answered {status}")),
            Err(error) => Response::error(502, &format!("{url} did not answer: {error}")),
        }
    }

    fn health(&self) -> Response {
        let state = self.replication.lock();
        let (last_seq, lines) = (state.log.last_seq(), &state.lines);
        let statuses = state.statuses(Instant::now()).into_iter();
        let statuses = statuses.map(|(url, status)| (url.to_string(), status));
        let read_only = state.read_only();
        let health = MasterHealth {
            status: "ok".into(),
            secondaries: self.replication.urls().to_vec(),
            count: lines.stored_seq().0,
            epoch: lines.epoch(),
            last_seq,
            committed_seq: lines.committed_seq(),
            read_only: read_only.is_some(),
            reason: read_only.map(|why| why.to_string()),
            secondary_statuses: statuses.collect(),
        };
        drop(state);
        Response::json(200, &health)
    }

    fn ready(&self) -> Response {
        let state = self.replication.lock();
        if state.recovering {
            return Response::not_ready("recovering");
        }
        match state.read_only() {
            Some(why) => Response::not_ready(&why.to_string()),
            None => Response::json(200, &json!({ "status": "ready" })),
        }
    }

    fn post(&self, request: &Request, reply: Reply) {
        let start = Instant::now();
        let minimal = prefers_minimal(request);
        let (draft, concern) = match self.parse(request) {
            Ok(parsed) => parsed,
            Err(refusal) => return reply.send(refusal),
        };
        self.replication.write(&draft, concern, |replication, outcome| {
            let duration = start.elapsed();
            log_outcome(&draft, &outcome, duration);
            count(&replication.metrics, &outcome, duration);
            let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            let response = match outcome {
                Outcome::Acknowledged(Stored { seq, duplicate, mut acks, .. }) => {
                    acks.retain(|ack| ack.ack == AckState::Ok);
                    let w = concern.acks_needed(replication.urls().len()) + 1;
                    let created_now = Created { acks, duration_ms, w, seq, duplicate };
                    created(replication, &created_now, minimal)
                }
                Outcome::Unacknowledged { stored, node, why } => {
                    Response::json(502, &unacknowledged(concern, stored, &node, &why))
                }
                Outcome::NotAppended(NotAppended::KeyReused(seq)) => {
                    let error = "This Idempotency-Key was used with another message";
                    let body = json!({ "error": error, "seq": seq, "stored": false });
                    Response::json(422, &body)
                }
                Outcome::NotAppended(NotAppended::LogFull) => Response::refused(507, "log full"),
                Outcome::NotAppended(NotAppended::ReadOnly(why)) => refused(&why),
                Outcome::DiskFailed(seq, error) => {
                    let body = json!({
                        "error": "The master's disk has failed",
                        "detail": error.problem,
                        "seq": seq,
                        "stored": "unknown",
                    });
                    Response::json(disk_status(&error), &body)
                }
            };
            reply.send(response);
        });
    }

    fn parse(&self, request: &Request) -> Result<(Draft, Concern), Response> {
        let Ok(post) = read_object::<PostMessage>(&request.body) else {
            return Err(Response::error(400, EXPECTED_MSG));
        };
        let refuse = |error: String| Response::refused(400, &error);
        let nodes = self.replication.urls().len() + 1;
        let (w, wtimeout) = (post.w.as_ref(), post.wtimeout.as_ref());
        let concern = Concern::parse(w, wtimeout, nodes, self.wtimeout).map_err(refuse)?;
        let key = match request.header("Idempotency-Key") {
            None => None,
            Some(key) if is_key(key) => Some(key.into()),
            Some(_) => {
                return Err(refuse("Idempotency-Key must be 1 to 255 visible characters".into()));
            }
        };
        Ok((Draft { message: post.msg, key }, concern))
    }
}

fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

fn refused(why: &ReadOnly) -> Response {
    let (status, error) = match why {
        ReadOnly::NoQuorum { .. } => (503, "no quorum, master is read-only"),
        ReadOnly::Fenced(_) => (503, "fenced, master is read-only"),
        ReadOnly::Barred(_) => (503, "diverged, master is read-only"),
        ReadOnly::DiskFailed(error) => {
            (disk_status(error), "the disk has failed, master is read-only")
        }
    };
    let body = json!({ "error": error, "detail": why.to_string(), "stored": false });
    let response = Response::json(status, &body);
    if status == 503 { response.with_header("Retry-After", "1") } else { response }
}

fn disk_status(error: &StoreError) -> u16 {
    if error.is_full { 507 } else { 500 }
}

fn unacknowledged(
    concern: Concern,
    stored: Stored,
    node: &str,
    why: &Missing,
) -> ReplicationFailed {
    let Stored { seq, duplicate, is_saved, acks } = stored;
    let stored = if is_saved { true.into() } else { "unknown".into() };
    let acked = acks.iter().filter(|ack| ack.ack == AckState::Ok);
    let acked_by: Vec<Arc<str>> = acked.map(|ack| Arc::clone(&ack.secondary)).collect();
    let (error, detail, acked_by) = match concern {
        Concern::AllOrFail => (format!("Replication to {node} failed"), why.to_string(), None),
        Concern::Nodes { w, timeout } => {
            let (held, ms) =
                (acked_by.len() + usize::from(is_saved), timeout.unwrap_or_default().as_millis());
            let detail = match why {
                Missing::Fenced => why.to_string(),
                _ => format!("{held} of {w} nodes hold the entry after {ms} ms"),
            };
            (format!("Write concern w={w} not satisfied"), detail, Some(acked_by))
        }
    };
    ReplicationFailed { error, detail, seq, stored, duplicate, acked_by, acks }
}

fn log_outcome(draft: &Draft, outcome: &Outcome, duration: Duration) {
    let (msg, ms) = (excerpt(&draft.message), duration.as_millis());
    match outcome {
        Outcome::Acknowledged(Stored { seq, duplicate: false, .. }) => {
            info!("appended seq={seq} msg={msg} duration_ms={ms}");
        }
        Outcome::Acknowledged(Stored { seq, .. }) => {
            info!("recognised a duplicate seq={seq} msg={msg} duration_ms={ms}");
        }
        Outcome::Unacknowledged { stored: Stored { seq, .. }, node, why } => {
            let detail = why.to_string();
            warn!(
                "appended without all acks seq={seq} msg={msg} secondary={node} detail={detail:?} \
                 duration_ms={ms}"
            );
        }
        Outcome::DiskFailed(seq, error) => {
            warn!("appended without storing seq={seq} msg={msg} error={:?}", error.problem);
        }
        Outcome::NotAppended(NotAppended::KeyReused(seq)) => {
            debug!("refused a reused key seq={seq} msg={msg}");
        }
        Outcome::NotAppended(NotAppended::LogFull) => {
            debug!("refused a message reason=\"log full\"");
        }
        Outcome::NotAppended(NotAppended::ReadOnly(why)) => {
            debug!("refused a message reason={:?}", why.to_string());
        }
    }
}

fn count(metrics: &Metrics, outcome: &Outcome, duration: Duration) {
    let seconds = duration.as_secs_f64();
    match outcome {
        Outcome::Acknowledged(stored) => {
            metrics.created.observe(seconds);
            if stored.duplicate {
                metrics.duplicates.fetch_add(1, Relaxed);
            }
        }
        Outcome::Unacknowledged { .. } => metrics.failed.observe(seconds),
        Outcome::DiskFailed(..) => {
            metrics.failed.observe(seconds);
            metrics.refused.add("disk");
        }
        Outcome::NotAppended(refused) => metrics.refused.add(match refused {
            NotAppended::ReadOnly(ReadOnly::DiskFailed(_)) => "disk",
            NotAppended::ReadOnly(_) => "read_only",
            NotAppended::LogFull => "log_full",
            NotAppended::KeyReused(_) => "key_reused",
        }),
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
        let state = replication.lock();
        let last = state.lines.stored_seq();
        Response::chunks(201, reading::messages_object(&state.log, Seq(1), last, &rest))
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
            ("/events", "GET" | "HEAD") => {
                events::answer(reply, &self.replication, &self.followers);
            }
            (path, "GET" | "HEAD") if path == "/messages" || path.starts_with("/messages/") => {
                follow::answer(request, reply, &*self.replication, &self.followers);
            }
            _ => {
                let http = reply.stats();
                reply.send(self.answer(request, http));
            }
        }
    }
}
