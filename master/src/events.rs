//! The state of the cluster as a stream of events: `GET /events`, which the live page reads.
//!
//! Each watcher's thread looks every 100 ms and sends an event when something has changed,
//! so a watcher costs the same however fast the log grows.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::entries::{Epoch, Log, Seq};
use common::follow::{self, Followers};
use common::http::Reply;
use serde::Serialize;

use crate::bodies::SecondaryStatus;
use crate::state::{Replication, State};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// The longest time without an event.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The number of last entries in an event.
const TAIL: u64 = 30;

/// The most characters of a message in an event.
const SHOWN_CHARS: usize = 120;

/// The most bytes of a message's JSON that are copied out of the log: enough for those characters.
const LOOKED_AT_BYTES: usize = 8 * SHOWN_CHARS;

#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(flatten)]
    picture: &'a Picture,
    /// Milliseconds since 1970.
    now: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Picture {
    epoch: Epoch,
    last_seq: Seq,
    committed_seq: Seq,
    /// Entries that can be read.
    count: u64,
    recovering: bool,
    read_only: bool,
    reason: Option<String>,
    nodes: usize,
    appends: u64,
    latency: Latency,
    followers: usize,
    secondaries: Vec<Secondary>,
    tail: VecDeque<Shown>,
    timelines: Vec<Timed>,
}

/// Durations of POSTs that were answered 201, since the start.
#[derive(Debug, PartialEq, Serialize)]
struct Latency {
    /// Upper bounds in seconds.
    le: &'static [f64],
    /// The number of POSTs up to each bound, and last the number of all.
    counts: Vec<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Secondary {
    url: String,
    #[serde(flatten)]
    status: SecondaryStatus,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Shown {
    seq: Seq,
    msg: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Timed {
    seq: Seq,
    w: usize,
    answered_ms: Option<f64>,
    ok: bool,
    acks: Vec<Option<f64>>,
}

/// Registers a watcher with the timeline as long as it lives.
struct Watcher<'a>(&'a Replication);

impl<'a> Watcher<'a> {
    fn new(replication: &'a Replication) -> Watcher<'a> {
        replication.lock().timeline.watch();
        Watcher(replication)
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.0.lock().timeline.unwatch();
    }
}

/// Answers `GET /events`.
pub fn answer(reply: Reply, replication: &Replication, followers: &Followers) {
    let _seat = match followers.sit() {
        Ok(seat) => seat,
        Err(refusal) => return reply.send(refusal),
    };
    let Some(mut stream) = follow::begin(reply) else { return };
    let _watcher = Watcher::new(replication);
    let (mut told, mut told_at) = (None, Instant::now());
    let mut tail = VecDeque::new();
    while !stream.is_stopping() {
        let picture = take(replication, &mut tail, followers.count());
        if told.as_ref() != Some(&picture) || told_at.elapsed() >= SIGN_OF_LIFE {
            if stream.send(&event(&picture)).is_err() {
                break;
            }
            (told, told_at) = (Some(picture), Instant::now());
        }
        thread::sleep(INTERVAL);
    }
}

fn event(picture: &Picture) -> Vec<u8> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since_1970.map_or(0, |time| time.as_millis() as u64);
    let json = serde_json::to_vec(&Event { picture, now });
    [b"data: ", json.expect("an event has only string keys").as_slice(), b"\n\n"].concat()
}

/// The state now. `tail` holds the entries of the last picture, and becomes those of this one.
fn take(replication: &Replication, tail: &mut VecDeque<Shown>, followers: usize) -> Picture {
    let now = Instant::now();
    let state = replication.lock();
    let new = new_entries(&state, tail.back().map_or(Seq::NONE, |shown| shown.seq));
    let (lines, read_only) = (&state.lines, state.read_only());
    let (epoch, last_seq, committed_seq) = (lines.epoch(), lines.last_seq(), lines.committed_seq());
    let (recovering, count) = (state.recovering, lines.stored_seq().0);
    let (statuses, timelines) = (state.statuses(now), timelines(&state));
    drop(state);
    tail.extend(new.into_iter().map(|(seq, json)| Shown { seq, msg: cut(&json) }));
    tail.drain(..tail.len().saturating_sub(TAIL as usize));
    let created = &replication.metrics.created;
    let secondaries = statuses
        .into_iter()
        .map(|(url, mut status)| {
            // The passing of time alone is not a change.
            status.lag_seconds = status.lag_seconds.floor();
            Secondary { url: url.to_string(), status }
        })
        .collect();
    Picture {
        epoch,
        last_seq,
        committed_seq,
        count,
        recovering,
        read_only: read_only.is_some(),
        reason: read_only.map(|why| why.to_string()),
        nodes: replication.urls().len() + 1,
        appends: replication.metrics.appends.load(Relaxed),
        latency: Latency { le: created.bounds(), counts: created.cumulative() },
        followers,
        secondaries,
        tail: tail.clone(),
        timelines,
    }
}

/// The beginnings of the JSON of the last entries after this one.
fn new_entries(state: &State, after: Seq) -> Vec<(Seq, Vec<u8>)> {
    let last = state.lines.stored_seq().0;
    let first = (after.0 + 1).max((last + 1).saturating_sub(TAIL));
    (first..=last).map(|seq| (Seq(seq), beginning(&state.log, Seq(seq)).to_vec())).collect()
}

fn beginning(log: &Log, seq: Seq) -> &[u8] {
    let json = log.json(seq);
    &json[..json.len().min(LOOKED_AT_BYTES)]
}

/// The first characters of a message, from the beginning of its JSON.
fn cut(json: &[u8]) -> String {
    let whole = serde_json::from_slice::<String>(json).ok();
    // The JSON may end inside a character or an escape; the longest escape has twelve bytes.
    let parsed = whole.or_else(|| {
        (json.len().saturating_sub(12)..=json.len())
            .rev()
            .find_map(|end| serde_json::from_slice::<String>(&[&json[..end], b"\""].concat()).ok())
    });
    let text = parsed.unwrap_or_default();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn timelines(state: &State) -> Vec<Timed> {
    let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
    let timed = state.timeline.recent().map(|timed| Timed {
        seq: timed.seq,
        w: timed.w,
        answered_ms: timed.answered.map(|(time, _)| ms(time)),
        ok: timed.answered.is_some_and(|(_, ok)| ok),
        acks: timed.acks.iter().map(|ack| ack.map(ms)).collect(),
    });
    timed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_at_a_character() {
        assert_eq!(cut(b"\"a\\nb\""), "a\nb");
        for text in ["\u{1F600}", "\u{1}", "\"", "é", "x"] {
            for offset in 0..20 {
                let text = "y".repeat(offset) + &text.repeat(2_000);
                let json = serde_json::to_vec(&text).unwrap();
                let shown = cut(&json[..LOOKED_AT_BYTES]);
                let expected: String = text.chars().take(SHOWN_CHARS).collect();
                assert_eq!(shown, format!("{expected}…"));
            }
        }
    }
}
