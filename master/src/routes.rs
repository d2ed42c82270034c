//! What the master answers to which request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::access::{Access, Who};
use common::client::{Answer, check_base_url};
use common::entries::{Draft, Seq};
use common::follow::{self, Followers};
use common::http::{Handler, Reply, Request, Response, Room, Stats};
use common::json::read_object;
use common::logging::excerpt;
use common::openapi;
use common::reading;
use common::store::StoreError;
use common::wire::{EXPECTED_MSG, Heard};
use log::{debug, info, warn};
use serde_json::json;

use crate::bodies::{AckState, Created, MasterHealth, PostMessage, ReplicationFailed};
use crate::concern::Concern;
use crate::events;
use crate::outcome::{Missing, NotAppended, Outcome, ReadOnly, Stored};
use crate::page;
use crate::scrape;
use crate::state::{Options, Replication};
use crate::succession::Succession;

/// The preference for an answer that does not grow with the log.
const MINIMAL: &str = "return=minimal";

/// How long a secondary may take to say or change its faults.
const CHAOS_TIMEOUT: Duration = Duration::from_secs(2);

/// The part of the API that only the master has.
const OPENAPI: &str = include_str!("openapi.json");

const READ: &str = "GET, HEAD";

/// Answers requests to the master.
#[derive(Debug)]
pub struct Routes {
    succession: Arc<Succession>,
    wtimeout: Duration,
    followers: Followers,
    access: Access,
    openapi: String,
}

impl Routes {
    /// Routes to the replication that reigns; `wtimeout` is for requests with a `w` that do not say,
    /// so many clients may follow the log, and `access` says who may ask.
    pub fn new(
        succession: Arc<Succession>,
        wtimeout: Duration,
        followers: usize,
        access: Access,
    ) -> Routes {
        let (followers, openapi) = (Followers::new(followers), openapi::document(OPENAPI));
        Routes { succession, wtimeout, followers, access, openapi }
    }

    fn answer(&self, request: &Request, http: Stats) -> Response {
        let replication = &self.succession.current();
        let path = request.path.as_str();
        let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
        match (path, method) {
            ("/", "GET") => page::answer(),
            ("/health", "GET") => health(replication, self.access.trusts(request)),
            // The page of another master asks it whether this one is there.
            ("/ready", "GET") => ready(replication).for_any_origin(),
            ("/metrics", "GET") => {
                let is_trusted = self.access.trusts(request);
                scrape::answer(replication, &self.followers, http, &self.access, is_trusted)
            }
            ("/openapi.json", "GET") => {
                Response::text(200, "application/json", self.openapi.as_str())
            }
            ("/" | "/health" | "/ready" | "/metrics" | "/openapi.json" | "/events", _) => {
                Response::method_not_allowed(READ)
            }
            ("/messages", _) => Response::method_not_allowed("GET, HEAD, POST"),
            _ if path.starts_with("/secondaries/") => {
                chaos(&replication.options, path, method, request)
            }
            _ if path.starts_with("/messages/") => Response::method_not_allowed(READ),
            _ => Response::not_found(),
        }
    }

    fn post(&self, request: &mut Request, reply: Reply) {
        let start = Instant::now();
        let replication = self.succession.current();
        let nodes = replication.urls().len() + 1;
        let (draft, concern) = match parse(request, nodes, self.wtimeout) {
            Ok(parsed) => parsed,
            Err(refusal) => return reply.send(refusal),
        };
        // The request may wait for long.
        request.body = Vec::new();
        // RFC 7240.
        let preferences = request.header("Prefer").unwrap_or("").split([',', ';']);
        let minimal = preferences.map(str::trim).any(|one| one.eq_ignore_ascii_case(MINIMAL));
        if is_crowded(request.room, concern, nodes, minimal) {
            return reply.refuse_busy();
        }
        replication.write(&draft, concern, reply, |replication, reply, outcome| {
            let msg = excerpt(&draft.message);
            let duration = start.elapsed();
            reply.send(conclude(replication, outcome, concern, minimal, &msg, duration));
        });
    }
}

/// Counts and logs the outcome of a POST, and makes the answer to it.
fn conclude(
    replication: &Replication,
    outcome: Outcome,
    concern: Concern,
    minimal: bool,
    msg: &str,
    duration: Duration,
) -> Response {
    let metrics = &replication.metrics;
    let (seconds, ms) = (duration.as_secs_f64(), duration.as_millis() as u64);
    match outcome {
        Outcome::Acknowledged(Stored { seq, duplicate, mut acks, .. }) => {
            metrics.created.observe(seconds);
            metrics.duplicates.fetch_add(duplicate.into(), Relaxed);
            let event = if duplicate { "recognised a duplicate" } else { "appended" };
            info!("{event} seq={seq} msg={msg} duration_ms={ms}");
            acks.retain(|ack| ack.ack == AckState::Ok);
            let w = concern.acks_needed(replication.urls().len()) + 1;
            let created = Created { acks, duration_ms: ms, w, seq, duplicate };
            created_answer(replication, &created, minimal)
        }
        Outcome::Unacknowledged { stored, node, why } => {
            metrics.failed.observe(seconds);
            let failed = unacknowledged(concern, stored, &node, &why);
            warn!(
                "appended without all acks seq={} msg={msg} secondary={node} detail={:?} \
                 duration_ms={ms}",
                failed.seq,
                why.to_string(),
            );
            Response::json(502, &failed)
        }
        Outcome::DiskFailed(seq, StoreError { problem, is_full }) => {
            metrics.failed.observe(seconds);
            metrics.refused.add("disk");
            warn!("appended without storing seq={seq} msg={msg} error={problem:?}");
            let error = "The master's disk has failed";
            let body =
                json!({ "error": error, "detail": problem, "seq": seq, "stored": "unknown" });
            Response::json(if is_full { 507 } else { 500 }, &body)
        }
        Outcome::NotAppended(NotAppended::KeyReused(seq)) => {
            metrics.refused.add("key_reused");
            debug!("refused a reused key seq={seq} msg={msg}");
            let error = "This Idempotency-Key was used with another message";
            Response::json(422, &json!({ "error": error, "seq": seq, "stored": false }))
        }
        Outcome::NotAppended(NotAppended::LogFull) => {
            metrics.refused.add("log_full");
            debug!("refused a message reason=\"log full\"");
            Response::refused(507, "log full")
        }
        Outcome::NotAppended(NotAppended::ReadOnly(why)) => read_only(replication, &why),
    }
}

/// The refusal of a message that cannot be appended now.
fn read_only(replication: &Replication, why: &ReadOnly) -> Response {
    let (reason, status, error) = match why {
        ReadOnly::NoQuorum { .. } => ("read_only", 503, "no quorum"),
        ReadOnly::Waiting(..) | ReadOnly::Fenced(..) => ("read_only", 503, "not reigning"),
        ReadOnly::DiskFailed(error) if error.is_full => ("disk", 507, "the disk has failed"),
        ReadOnly::DiskFailed(_) => ("disk", 500, "the disk has failed"),
    };
    replication.metrics.refused.add(reason);
    if status == 503 && !matches!(why, ReadOnly::NoQuorum { .. }) {
        return elsewhere(why, "/messages");
    }
    let detail = why.to_string();
    debug!("refused a message reason={detail:?}");
    let error = format!("{error}, master is read-only");
    let body = json!({ "error": error, "detail": detail, "stored": false });
    let response = Response::json(status, &body);
    if status == 503 { response.with_header("Retry-After", "1") } else { response }
}

/// Whether there is no room for a request with this concern to a cluster of so many nodes. Its client
/// may take long to read an answer that is not `minimal`.
fn is_crowded(room: Room, concern: Concern, nodes: usize, minimal: bool) -> bool {
    let waits = concern.acks_needed(nodes - 1) > 0;
    let is_endless = waits && matches!(concern, Concern::Nodes { timeout: None, .. });
    match room {
        Room::Gone => waits || !minimal,
        Room::Scarce => is_endless,
        Room::Ample => false,
    }
}

/// The answer 201: the original's, which carries the whole log, or the short one of a client
/// that prefers it.
fn created_answer(replication: &Replication, created: &Created, minimal: bool) -> Response {
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

fn parse(
    request: &Request,
    nodes: usize,
    default_wtimeout: Duration,
) -> Result<(Draft, Concern), Response> {
    let read = read_object::<PostMessage>(&request.body);
    let post = read.map_err(|why| Response::refused_because(400, EXPECTED_MSG, &why))?;
    let (w, wtimeout) = (post.w.as_ref(), post.wtimeout.as_ref());
    let concern = Concern::parse(w, wtimeout, nodes, default_wtimeout)
        .map_err(|error| Response::refused(400, &error))?;
    let key = request.header("Idempotency-Key");
    let is_key = |key: &str| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if key.is_some_and(|key| !is_key(key)) {
        let error = "Idempotency-Key must be 1 to 255 visible characters";
        return Err(Response::refused(400, error));
    }
    Ok((Draft { message: post.msg, key: key.map(Into::into) }, concern))
}

/// Passes on what concerns a secondary's faults: a page cannot reach it by the name that the
/// master knows.
fn chaos(options: &Options, path: &str, method: &str, request: &Request) -> Response {
    let mut paths = options.secondaries.iter().enumerate();
    let Some((_, url)) = paths.find(|(index, _)| path == format!("/secondaries/{index}/chaos"))
    else {
        return Response::not_found();
    };
    let client = options.client(url, CHAOS_TIMEOUT);
    let answer = match method {
        "GET" => client.get("/chaos"),
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

/// Who may ask for what.
fn who_may(head: &Request) -> Who {
    let reads = matches!(head.method.as_str(), "GET" | "HEAD");
    match head.path.as_str() {
        "/" | "/health" | "/ready" | "/metrics" | "/openapi.json" => Who::Anybody,
        "/messages" if !reads => Who::Writer,
        "/messages" | "/events" => Who::Reader,
        path if path.starts_with("/messages/") => Who::Reader,
        path if path.starts_with("/secondaries/") && reads => Who::Reader,
        path if path.starts_with("/secondaries/") => Who::Tester,
        _ => Who::Node,
    }
}

/// Whoever could forge a master's call by its epoch is not told it.
fn health(replication: &Replication, is_trusted: bool) -> Response {
    let state = replication.lock();
    let statuses = state.statuses(Instant::now()).into_iter();
    let reason = state.read_only().map(|why| why.to_string());
    let health = MasterHealth {
        status: "ok".into(),
        secondaries: replication.urls().to_vec(),
        count: state.lines.stored_seq().0,
        epoch: is_trusted.then_some(state.lines.reign().epoch),
        last_seq: state.log.last_seq(),
        committed_seq: state.lines.committed_seq(),
        master: state.master().map(Into::into),
        standbys: state.standbys().into_iter().map(Into::into).collect(),
        dropped_entries: state.dropped,
        read_only: reason.is_some(),
        reason,
        secondary_statuses: statuses.map(|(url, it)| (url.to_string(), it)).collect(),
    };
    drop(state);
    Response::json(200, &health)
}

fn ready(replication: &Replication) -> Response {
    let state = replication.lock();
    match state.read_only() {
        Some(ReadOnly::Waiting(why, Some(Heard { url, .. }))) => {
            Response::json(503, &json!({ "status": why, "master": url }))
                .with_header("Retry-After", "1")
        }
        Some(why) => Response::not_ready(&why.to_string()),
        None => Response::json(200, &json!({ "status": "ready" })),
    }
}

/// Where a read is to go while another master reigns and this one stands by.
fn away(replication: &Replication, request: &Request) -> Option<Response> {
    let why = replication.lock().read_only().filter(|why| why.master().is_some())?;
    let target = match request.query.as_str() {
        "" => request.path.clone(),
        query => format!("{}?{query}", request.path),
    };
    matches!(why, ReadOnly::Waiting(..)).then(|| elsewhere(&why, &target))
}

/// Where the master is that reigns, or when to ask again.
fn elsewhere(why: &ReadOnly, target: &str) -> Response {
    let (error, master) = match why {
        ReadOnly::Fenced(..) => ("fenced, master is read-only", why.master()),
        _ => ("not reigning, master is read-only", why.master()),
    };
    debug!("refused a request reason={:?}", why.to_string());
    let body =
        json!({ "error": error, "detail": why.to_string(), "stored": false, "master": master });
    match (why, master) {
        // Whoever speaks as a master to a secondary could say anything.
        (ReadOnly::Waiting(..), Some(url)) if check_base_url(url).is_ok() => {
            Response::json(307, &body).with_header("Location", format!("{url}{target}"))
        }
        _ => Response::json(503, &body).with_header("Retry-After", "1"),
    }
}

fn unacknowledged(
    concern: Concern,
    stored: Stored,
    node: &str,
    why: &Missing,
) -> ReplicationFailed {
    let Stored { seq, duplicate, is_saved, is_committed: committed, acks } = stored;
    let stored = if is_saved { true.into() } else { "unknown".into() };
    let (mut error, mut detail) = (format!("Replication to {node} failed"), why.to_string());
    let mut acked_by = None;
    if let Concern::Nodes { w, timeout } = concern {
        let acked = acks.iter().filter(|ack| ack.ack == AckState::Ok);
        let acked: Vec<Arc<str>> = acked.map(|ack| Arc::clone(&ack.secondary)).collect();
        let (held, time) = (acked.len() + usize::from(is_saved), timeout.unwrap_or_default());
        error = format!("Write concern w={w} not satisfied");
        if !matches!(why, Missing::Fenced) {
            detail = format!("{held} of {w} nodes hold the entry after {} ms", time.as_millis());
        }
        acked_by = Some(acked);
    }
    ReplicationFailed { error, detail, seq, stored, committed, duplicate, acked_by, acks }
}

impl Handler for Routes {
    fn admit(&self, head: &Request, peer: SocketAddr) -> Result<(), Response> {
        self.access.admit(head, who_may(head), peer)
    }

    fn is_brief(&self, head: &Request) -> bool {
        match head.path.as_str() {
            "/health" | "/ready" | "/metrics" => true,
            // It is when nobody else is to hold the message.
            "/messages" => head.method == "POST",
            _ => false,
        }
    }

    fn handle(&self, request: &mut Request, reply: Reply) {
        match (request.path.as_str(), request.method.as_str()) {
            ("/messages", "POST") => self.post(request, reply),
            ("/events", "GET" | "HEAD") => {
                events::answer(reply, &self.succession.current(), &self.followers);
            }
            (path, "GET" | "HEAD") if path == "/messages" || path.starts_with("/messages/") => {
                let replication = self.succession.current();
                match away(&replication, request) {
                    Some(answer) => reply.send(answer),
                    None => follow::answer(request, reply, &*replication, &self.followers),
                }
            }
            (_, method) => {
                let answer = self.answer(request, reply.stats());
                reply.send(if method == "OPTIONS" { answer.for_options() } else { answer });
            }
        }
    }
}
