//! The log: entries in one order, each with its place and the epoch it was appended in.
//!
//! A message is turned into JSON text once, when it arrives; these bytes serve every answer and
//! every call to a secondary. They lie in segments one behind the other, separated by commas, so
//! a range of the log is already the inside of a JSON array.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::chunk::Chunk;
use crate::whole::Whole;

/// A segment is closed when it holds this many bytes. A reader keeps whole segments, so this is
/// also what an append may have to copy while somebody reads.
const SEGMENT_BYTES: usize = 64 * 1024;

/// The place of an entry in the log: 1 for the first. 0 says "nothing yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first entry.
    pub const NONE: Seq = Seq(0);

    /// No log gets this far; a peer that names a later place is mistaken.
    pub const MOST: Seq = Seq(1 << 60);

    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }

    /// The place before this one; there is none before 0.
    #[must_use]
    pub fn previous(self) -> Seq {
        Seq(self.0.saturating_sub(1))
    }
}

impl<'de> Deserialize<'de> for Seq {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seq, D::Error> {
        Whole::deserialize(deserializer).map(|Whole(number)| Seq(number))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The reign of one master, greater than any before it. 0 marks entries that no numbering master
/// has appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No clock gets this far; a peer that names a later epoch is mistaken.
    pub const MOST: Epoch = Epoch(1 << 60);
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        Whole::deserialize(deserializer).map(|Whole(number)| Epoch(number))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text of an entry, kept as the JSON string that it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    json: String,
}

impl Message {
    /// The message with this text. Two messages are equal when their texts are.
    pub fn new(text: &str) -> Message {
        // Most texts need no escapes.
        let mut json = Vec::with_capacity(text.len() + 16);
        serde_json::to_writer(&mut json, text).expect("any text is a JSON string");
        Message { json: String::from_utf8(json).expect("JSON is UTF-8") }
    }

    /// Its JSON, quotes included.
    pub fn json(&self) -> &str {
        &self.json
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Message;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Message, E> {
                Ok(Message::new(text))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// An entry on its way into a log: a message, and the idempotency key it was posted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The message.
    pub message: Message,
    /// The key, if the client gave one.
    pub key: Option<Arc<str>>,
}

impl From<Message> for Draft {
    fn from(message: Message) -> Draft {
        Draft { message, key: None }
    }
}

/// The idempotency keys of the last entries that have one, as many as are kept.
#[derive(Debug)]
struct Keys {
    most: usize,
    by_key: HashMap<Arc<str>, Seq>,
    by_seq: BTreeMap<Seq, Arc<str>>,
}

impl Keys {
    fn insert(&mut self, seq: Seq, key: Arc<str>) {
        self.by_key.insert(Arc::clone(&key), seq);
        self.by_seq.insert(seq, key);
        while self.by_seq.len() > self.most {
            let Some((seq, key)) = self.by_seq.pop_first() else { return };
            // The same key may have been used again since.
            if self.by_key.get(&key) == Some(&seq) {
                self.by_key.remove(&key);
            }
        }
    }
}

/// Why numbered entries were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAccepted {
    /// The entries before them are missing.
    Gap,
    /// The log holds something else at this place.
    Diverged(Seq),
}

/// What accepting has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Entries that were not there before.
    pub new: u64,
}

/// Neighbouring entries, copied out of a log to be written to a disk.
#[derive(Debug)]
pub struct Batch {
    first: Seq,
    text: Vec<u8>,
    /// The epoch and the key of each, and where its JSON ends in `text`.
    entries: Vec<(Epoch, Option<Arc<str>>, usize)>,
}

impl Batch {
    /// The place of the last one, or of the one before the first if there are none.
    pub fn last(&self) -> Seq {
        Seq(self.first.0 + self.entries.len() as u64).previous()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Place, epoch, key and JSON of each.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, Epoch, Option<&str>, &[u8])> {
        let starts = std::iter::once(0).chain(self.entries.iter().map(|(_, _, end)| *end));
        let entries = (self.first.0..).map(Seq).zip(starts).zip(&self.entries);
        entries.map(|((seq, start), (epoch, key, end))| {
            (seq, *epoch, key.as_deref(), &self.text[start..*end])
        })
    }
}

/// Entries in one order.
///
/// Invariants, which the methods keep and assert:
/// - places are 1, 2, 3, … without a gap; [`Log::last_seq`] is the number of entries;
/// - an entry never changes and never goes away;
/// - every entry has the epoch it was appended in.
#[derive(Debug)]
pub struct Log {
    segments: Vec<Arc<Segment>>,
    keys: Keys,
    /// The epoch of each entry, as runs: from this place on, until the next run, this epoch.
    epochs: Vec<(Seq, Epoch)>,
    last: Seq,
    bytes: u64,
}

/// Neighbouring entries: `"first","second",`
#[derive(Debug, Clone)]
struct Segment {
    first: Seq,
    text: Vec<u8>,
    /// Where each entry's JSON ends in `text`; a comma follows.
    ends: Vec<u32>,
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Segment {
    fn last(&self) -> Seq {
        Seq(self.first.0 + self.ends.len() as u64 - 1)
    }

    /// Where the JSON of this entry lies.
    fn range(&self, seq: Seq) -> Range<usize> {
        let index = usize::try_from(seq.0 - self.first.0).expect("a segment fits into memory");
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize + 1 };
        start..self.ends[index] as usize
    }
}

impl Log {
    /// An empty log that keeps the idempotency keys of the last `most_keys` entries with a key.
    pub fn new(most_keys: usize) -> Log {
        let keys = Keys { most: most_keys, by_key: HashMap::new(), by_seq: BTreeMap::new() };
        Log { segments: Vec::new(), keys, epochs: Vec::new(), last: Seq::NONE, bytes: 0 }
    }

    /// The entry that was posted with this idempotency key, if the key is still kept.
    pub fn find_key(&self, key: &str) -> Option<Seq> {
        self.keys.by_key.get(key).copied()
    }

    /// The keys of these entries, for those that have one which is still kept.
    pub fn keys(&self, range: RangeInclusive<Seq>) -> impl Iterator<Item = (Seq, &Arc<str>)> {
        self.keys.by_seq.range(range).map(|(seq, key)| (*seq, key))
    }

    /// The place of the last entry, which is also how many there are.
    pub fn last_seq(&self) -> Seq {
        self.last
    }

    /// The epoch of the last entry.
    pub fn last_epoch(&self) -> Epoch {
        self.epoch_of(self.last)
    }

    /// The epoch of the entry at this place; 0 before the first.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn epoch_of(&self, seq: Seq) -> Epoch {
        assert!(seq <= self.last, "epoch of entry {seq} asked, the last is {}", self.last);
        let runs = self.epochs.partition_point(|(first, _)| *first <= seq);
        runs.checked_sub(1).map_or(Epoch::default(), |run| self.epochs[run].1)
    }

    /// The last place of the run of entries with the same epoch that `seq` belongs to.
    pub fn end_of_epoch_run(&self, seq: Seq) -> Seq {
        let run = self.epochs.partition_point(|(first, _)| *first <= seq);
        self.epochs.get(run).map_or(self.last, |(first, _)| first.previous())
    }

    /// Appends an entry at the end and returns its place: what a master does.
    pub fn append(&mut self, epoch: Epoch, draft: &Draft) -> Seq {
        let seq = self.last.next();
        if self.epochs.last().is_none_or(|(_, last)| *last != epoch) {
            self.epochs.push((seq, epoch));
        }
        let full = self.segments.last().is_none_or(|s| s.text.len() >= SEGMENT_BYTES);
        if full {
            self.segments.push(Arc::new(Segment {
                first: seq,
                text: Vec::new(),
                ends: Vec::new(),
            }));
        }
        let segment = self.segments.last_mut().expect("one was just made if there was none");
        // Copies the segment if a reader holds it, and only then.
        let segment = Arc::make_mut(segment);
        segment.text.extend_from_slice(draft.message.json.as_bytes());
        let end =
            u32::try_from(segment.text.len()).expect("a segment and a message are below 4 GiB");
        segment.ends.push(end);
        segment.text.push(b',');
        self.last = seq;
        self.bytes += draft.message.json.len() as u64 + 1;
        if let Some(key) = &draft.key {
            self.keys.insert(seq, Arc::clone(key));
        }
        assert_eq!(segment.last(), seq, "segments and places must agree");
        seq
    }

    /// Accepts entries that have been given their places already, `first` onwards: what a
    /// secondary does. Those that are there already must be the same.
    ///
    /// # Errors
    /// [`NotAccepted`], and then nothing has changed.
    pub fn accept(
        &mut self,
        epoch: Epoch,
        first: Seq,
        drafts: &[Draft],
    ) -> Result<Accepted, NotAccepted> {
        if first > self.last.next() {
            return Err(NotAccepted::Gap);
        }
        assert!(first > Seq::NONE, "an entry cannot be accepted at place {first}");
        let known = (self.last.next().0 - first.0).min(drafts.len() as u64);
        let (known, new) = drafts.split_at(usize::try_from(known).expect("at most a length"));
        for (seq, draft) in (first.0..).map(Seq).zip(known) {
            let differs = self.json(seq) != draft.message.json.as_bytes();
            if differs || self.epoch_of(seq) != epoch {
                return Err(NotAccepted::Diverged(seq));
            }
        }
        new.iter().for_each(|draft| _ = self.append(epoch, draft));
        Ok(Accepted { new: new.len() as u64 })
    }

    /// The JSON of one entry.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn json(&self, seq: Seq) -> &[u8] {
        assert!(
            seq > Seq::NONE && seq <= self.last,
            "entry {seq} asked, the last is {}",
            self.last
        );
        let segment = &self.segments[self.segment_of(seq)];
        &segment.text[segment.range(seq)]
    }

    /// The entries of this range as chunks of one comma-separated text. They stay as they are
    /// now, whatever is appended later, and hold no lock.
    pub fn chunks(&self, range: RangeInclusive<Seq>) -> Vec<Chunk> {
        let (mut seq, end) = (*range.start(), (*range.end()).min(self.last));
        let mut chunks = Vec::new();
        while seq <= end {
            let segment = &self.segments[self.segment_of(seq)];
            let last = segment.last().min(end);
            let comma = usize::from(last < end);
            let bytes = segment.range(seq).start..segment.range(last).end + comma;
            chunks.push(Chunk::Shared(Arc::clone(segment) as _, bytes));
            seq = last.next();
        }
        chunks
    }

    /// Writes the entries from `first` on, comma-separated, as long as they and what is sent of
    /// their keys stay within `most_bytes` and the place within `until`; one entry at the least.
    /// Returns the last place that was written.
    ///
    /// # Panics
    /// When there is no entry `first`.
    pub fn write_batch(&self, first: Seq, until: Seq, most_bytes: usize, out: &mut Vec<u8>) -> Seq {
        let (mut size, mut last) = (self.json(first).len() + self.key_bytes(first), first);
        out.extend_from_slice(self.json(first));
        while last < until.min(self.last) {
            let json = self.json(last.next());
            size += 1 + json.len() + self.key_bytes(last.next());
            if size > most_bytes {
                break;
            }
            out.push(b',');
            out.extend_from_slice(json);
            last = last.next();
        }
        last
    }

    /// What a key takes in a call at most: every character escaped, its place, punctuation.
    fn key_bytes(&self, seq: Seq) -> usize {
        self.keys.by_seq.get(&seq).map_or(0, |key| 2 * key.len() + 32)
    }

    /// A copy of the entries from this place on, of about `most_bytes`; none if there are none.
    pub fn batch(&self, first: Seq, most_bytes: usize) -> Batch {
        let mut batch = Batch { first, text: Vec::new(), entries: Vec::new() };
        while batch.last() < self.last && batch.text.len() < most_bytes {
            let seq = batch.last().next();
            batch.text.extend_from_slice(self.json(seq));
            let key = self.keys.by_seq.get(&seq).cloned();
            batch.entries.push((self.epoch_of(seq), key, batch.text.len()));
        }
        batch
    }

    /// Bytes that the messages take, as JSON.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn segment_of(&self, seq: Seq) -> usize {
        self.segments.partition_point(|segment| segment.first <= seq) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Epoch = Epoch(1);

    fn draft(text: &str) -> Draft {
        Message::new(text).into()
    }

    fn drafts(texts: &[&str]) -> Vec<Draft> {
        texts.iter().map(|text| draft(text)).collect()
    }

    fn text(log: &Log, range: RangeInclusive<u64>) -> String {
        let chunks = log.chunks(Seq(*range.start())..=Seq(*range.end()));
        let bytes: Vec<u8> = chunks.iter().flat_map(|c| c.bytes()).copied().collect();
        String::from_utf8(bytes).unwrap()
    }

    fn log_of(texts: &[&str]) -> Log {
        let mut log = Log::new(2);
        drafts(texts).iter().for_each(|draft| _ = log.append(ONE, draft));
        log
    }

    #[test]
    fn entries_are_numbered_from_one_and_read_back_as_json() {
        let log = log_of(&["a", "", "say \"hi\"\n\u{1F600}"]);
        assert_eq!(log.last_seq(), Seq(3));
        assert_eq!(text(&log, 1..=3), "\"a\",\"\",\"say \\\"hi\\\"\\n\u{1F600}\"");
        assert_eq!(text(&log, 2..=2), "\"\"");
        assert_eq!(text(&log, 3..=9), text(&log, 3..=3));
        assert_eq!(text(&log, 4..=9), "");
    }

    #[test]
    fn a_text_has_one_json_however_it_was_written() {
        let plain: Message = serde_json::from_str("\"A/\u{e9}\"").unwrap();
        let escaped: Message = serde_json::from_str("\"\\u0041\\/\\u00e9\"").unwrap();
        assert_eq!(plain, escaped);
        assert_eq!(plain, Message::new("A/\u{e9}"));
    }

    #[test]
    fn a_log_of_many_segments_reads_like_one_text() {
        let texts: Vec<String> = (0..5000).map(|n| format!("{n:>50}")).collect();
        let mut log = Log::new(2);
        texts.iter().for_each(|text| _ = log.append(ONE, &draft(text)));
        assert!(log.segments.len() > 3, "{} segments", log.segments.len());
        let all: Vec<String> =
            serde_json::from_str(&format!("[{}]", text(&log, 1..=5000))).unwrap();
        assert_eq!(all, texts);
        for seq in [1, 1260, 1261, 1262, 5000] {
            let expected = Message::new(&texts[seq - 1]);
            assert_eq!(log.json(Seq(seq as u64)), expected.json().as_bytes(), "entry {seq}");
        }
    }

    #[test]
    fn a_reader_keeps_what_it_has_seen_while_the_log_grows() {
        let mut log = log_of(&["a", "b"]);
        let before = log.chunks(Seq(1)..=Seq(2));
        log.append(ONE, &draft("c"));
        assert_eq!(before[0].bytes(), b"\"a\",\"b\"");
        assert_eq!(text(&log, 1..=3), "\"a\",\"b\",\"c\"");
    }

    #[test]
    fn numbered_entries_are_accepted_in_order_and_once() {
        let mut log = log_of(&["a"]);
        assert_eq!(log.accept(ONE, Seq(3), &drafts(&["c"])), Err(NotAccepted::Gap));
        assert_eq!(log.accept(ONE, Seq(2), &drafts(&["b", "c"])), Ok(Accepted { new: 2 }));
        assert_eq!(log.accept(ONE, Seq(2), &drafts(&["b", "c"])), Ok(Accepted { new: 0 }));
        assert_eq!(log.accept(ONE, Seq(3), &drafts(&["c", "d"])), Ok(Accepted { new: 1 }));
        assert_eq!(log.accept(ONE, Seq(5), &[]), Ok(Accepted { new: 0 }));
        assert_eq!(text(&log, 1..=9), r#""a","b","c","d""#);
    }

    #[test]
    fn another_message_or_another_epoch_at_a_place_is_refused_and_changes_nothing() {
        let mut log = log_of(&["a", "b"]);
        let diverged = Err(NotAccepted::Diverged(Seq(2)));
        assert_eq!(log.accept(ONE, Seq(2), &drafts(&["x", "c"])), diverged);
        assert_eq!(log.accept(Epoch(2), Seq(2), &drafts(&["b", "c"])), diverged);
        assert_eq!(log.last_seq(), Seq(2));
    }

    #[test]
    fn every_entry_keeps_its_epoch() {
        let mut log = log_of(&["a", "b"]);
        log.append(Epoch(7), &draft("c"));
        log.append(Epoch(0), &draft("d"));
        let epochs: Vec<u64> = (0..=4).map(|seq| log.epoch_of(Seq(seq)).0).collect();
        assert_eq!(epochs, [0, 1, 1, 7, 0]);
        let ends: Vec<u64> = (1..=4).map(|seq| log.end_of_epoch_run(Seq(seq)).0).collect();
        assert_eq!(ends, [2, 2, 3, 4]);
    }

    #[test]
    fn a_batch_is_bounded_and_never_empty() {
        let log = log_of(&["aaaa", "bbbb", "cccc"]);
        let batch = |first, until, most| {
            let mut out = b"[".to_vec();
            let last = log.write_batch(Seq(first), Seq(until), most, &mut out);
            (last.0, String::from_utf8(out).unwrap())
        };
        assert_eq!(batch(1, 3, 1), (1, r#"["aaaa""#.into()));
        assert_eq!(batch(1, 3, 12), (1, r#"["aaaa""#.into()));
        assert_eq!(batch(1, 3, 13), (2, r#"["aaaa","bbbb""#.into()));
        assert_eq!(batch(1, 9, 99), (3, r#"["aaaa","bbbb","cccc""#.into()));
        assert_eq!(batch(1, 2, 99), (2, r#"["aaaa","bbbb""#.into()));
        let mut keyed = Log::new(9);
        for _ in 0..9 {
            keyed.append(ONE, &Draft { message: Message::new(""), key: Some("k".into()) });
        }
        let last = keyed.write_batch(Seq(1), Seq(9), 3 * 40, &mut Vec::new());
        assert_eq!(last, Seq(3), "keys count too");
    }

    #[test]
    fn keys_are_found_until_as_many_newer_ones_have_come() {
        let mut log = log_of(&["a"]);
        let mut post = |text, key: &str| {
            log.append(ONE, &Draft { message: Message::new(text), key: Some(key.into()) })
        };
        assert_eq!((post("b", "k"), post("c", "l"), post("d", "k")), (Seq(2), Seq(3), Seq(4)));
        assert_eq!((log.find_key("k"), log.find_key("l")), (Some(Seq(4)), Some(Seq(3))));
        log.append(ONE, &Draft { message: Message::new("e"), key: Some("m".into()) });
        assert_eq!((log.find_key("l"), log.find_key("x")), (None, None));
        let kept: Vec<_> = log.keys(Seq(1)..=Seq(9)).map(|(s, k)| (s.0, k.as_ref())).collect();
        assert_eq!(kept, [(4, "k"), (5, "m")]);
    }
}
