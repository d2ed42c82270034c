//! The state of the cluster as a stream of events: `GET /events`, which the live page reads.
//!
//! Each watcher's thread looks every 100 ms and sends an event when something has changed,
//! so a watcher costs the same however fast the log grows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::entries::Seq;
use common::follow::{self, Followers};
use common::http::Reply;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bodies::SecondaryStatus;
use crate::state::{Phase, Replication, State};

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

/// An entry in an event.
#[derive(Debug, Serialize)]
struct Shown {
    seq: Seq,
    msg: String,
}

/// Answers `GET /events`.
pub fn answer(reply: Reply, replication: &Replication, followers: &Followers) {
    let _seat = match followers.sit() {
        Ok(seat) => seat,
        Err(refusal) => return reply.send(refusal),
    };
    let Some(mut stream) = follow::begin(reply) else { return };
    let _watching = replication.lock().timeline.watch();
    let (mut told, mut told_at) = (Value::Null, Instant::now());
    let mut tail = VecDeque::new();
    while !stream.is_stopping() {
        let picture = take(replication, &mut tail, followers.count());
        if told != picture || told_at.elapsed() >= SIGN_OF_LIFE {
            let mut event = picture.clone();
            event["now"] = since_1970(SystemTime::now()).into();
            if stream.send(format!("data: {event}\n\n").as_bytes()).is_err() {
                break;
            }
            (told, told_at) = (picture, Instant::now());
        }
        thread::sleep(INTERVAL);
    }
}

/// In milliseconds.
fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// The state now. `tail` holds the entries of the last picture, and becomes those of this one.
fn take(replication: &Replication, tail: &mut VecDeque<Shown>, followers: usize) -> Value {
    let state = replication.lock();
    let new = new_entries(&state, tail.back().map_or(Seq::NONE, |shown| shown.seq));
    let reason = state.read_only().map(|why| why.to_string());
    let (statuses, timelines) = (state.statuses(Instant::now()), timelines(&state));
    let mut picture = json!({
        "epoch": state.lines.reign().epoch,
        "last_seq": state.lines.last_seq(),
        "committed_seq": state.lines.committed_seq(),
        // Entries that can be read.
        "count": state.lines.stored_seq(),
        "recovering": matches!(state.phase, Phase::Waiting { master: None, .. }),
        "stands_by": matches!(state.phase, Phase::Waiting { master: Some(_), .. }),
        // Which master reigns, and if it is this one, since when, in milliseconds since 1970.
        "master": state.master(),
        "url": replication.options.url,
        "reigns_since": state.reigns_since.map(since_1970),
        "standbys": state.standbys(),
        "dropped_entries": state.dropped,
        "read_only": reason.is_some(),
        "reason": reason,
        "nodes": replication.urls().len() + 1,
        "followers": followers,
        "timelines": timelines,
    });
    drop(state);
    tail.extend(new.into_iter().map(|(seq, json)| Shown { seq, msg: cut(&json) }));
    tail.drain(..tail.len().saturating_sub(TAIL as usize));
    picture["tail"] = json!(tail);
    picture["appends"] = replication.metrics.appends.load(Relaxed).into();
    // POSTs that were answered 201, since the start: upper bounds of their durations in seconds,
    // the number of POSTs up to each bound, and last the number of all.
    let created = &replication.metrics.created;
    picture["latency"] = json!({ "le": created.bounds(), "counts": created.cumulative() });
    let secondary = |(url, mut status): (Arc<str>, SecondaryStatus)| {
        // The passing of time alone is not a change.
        status.lag_seconds = status.lag_seconds.floor();
        let mut secondary = json!(status);
        secondary["url"] = json!(url);
        secondary
    };
    picture["secondaries"] = statuses.into_iter().map(secondary).collect();
    picture
}

/// The beginnings of the JSON of the last entries after this one.
fn new_entries(state: &State, after: Seq) -> Vec<(Seq, Vec<u8>)> {
    let last = state.lines.stored_seq().0;
    let first = (after.0 + 1).max((last + 1).saturating_sub(TAIL));
    let beginning = |seq| {
        let json = state.log.json(Seq(seq));
        (Seq(seq), json[..json.len().min(LOOKED_AT_BYTES)].to_vec())
    };
    (first..=last).map(beginning).collect()
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

/// The last appends, with times in milliseconds.
fn timelines(state: &State) -> Value {
    let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
    let timed = state.timeline.recent().map(|timed| {
        json!({
            "seq": timed.seq,
            "w": timed.w,
            "answered_ms": timed.answered.map(|(time, _)| ms(time)),
            "ok": timed.answered.is_some_and(|(_, ok)| ok),
            "acks": timed.acks.iter().map(|ack| ack.map(ms)).collect::<Vec<_>>(),
        })
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
