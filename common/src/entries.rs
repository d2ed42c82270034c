//! The log: entries in one order, each with a place and the epoch in which it was appended.
//!
//! A **place** is the number of an entry: 1 for the first, then 2, 3, … without a gap. An **epoch**
//! is the reign of one master. Place and epoch together name an entry for ever.
//!
//! A log can grow in two ways. A master *appends*: the entry gets the next place. A secondary
//! *accepts* entries that have their places already: a gap is refused, and so is an entry that
//! differs from the one held at its place. Nothing is ever overwritten. Entries at the end that no
//! majority holds can be *dropped*, when a new master's log does not have them.
//!
//! A message becomes JSON text once, when it arrives. The log keeps this text in **segments**:
//! entry behind entry, separated by commas. So a range of the log is already the inside of a JSON
//! array, and answers and calls are made of it without encoding anything again. Readers share the
//! segments with the log; an append copies the last segment if a reader still holds it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::chunk::Chunk;
use crate::json::whole;

/// A segment is closed when it holds this many bytes: an append copies at most about as much.
const SEGMENT_BYTES: usize = 64 * 1024;

/// What an entry takes beside its JSON: a comma, and the place where it ends.
const ENTRY_BYTES: usize = 1 + size_of::<u32>();

/// The place of an entry in the log: 1 for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(#[serde(deserialize_with = "whole")] pub u64);

impl Seq {
    /// Before the first entry.
    pub const NONE: Seq = Seq(0);

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

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The reign of one master, greater than any before it. Epoch 0 marks the entries of an original
/// master, which knows no epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(#[serde(deserialize_with = "whole")] pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text of an entry, as a JSON string. Equal texts have equal JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    /// The message with this text.
    pub fn new(text: &str) -> Message {
        Message(serde_json::to_string(text).expect("any text is a JSON string"))
    }

    /// The JSON, quotes included.
    pub fn json(&self) -> &str {
        &self.0
    }

    /// The bytes that an entry with this message takes in a log.
    pub fn bytes_in_log(&self) -> u64 {
        (self.0.len() + ENTRY_BYTES) as u64
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        String::deserialize(deserializer).map(|text| Message::new(&text))
    }
}

/// An entry on its way into a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The message.
    pub message: Message,
    /// The idempotency key, if the client gave one.
    pub key: Option<Arc<str>>,
}

impl From<Message> for Draft {
    fn from(message: Message) -> Draft {
        Draft { message, key: None }
    }
}

/// The idempotency keys of the last `most` entries that have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Keys {
    most: usize,
    by_key: HashMap<Arc<str>, Seq>,
    by_seq: BTreeMap<Seq, Arc<str>>,
}

impl Keys {
    /// Forgets the keys of the entries from this one on.
    fn drop_from(&mut self, first: Seq) {
        for (seq, key) in self.by_seq.split_off(&first) {
            if self.by_key.get(&key) == Some(&seq) {
                self.by_key.remove(&key);
            }
        }
    }

    fn insert(&mut self, seq: Seq, key: Arc<str>) {
        self.by_key.insert(Arc::clone(&key), seq);
        self.by_seq.insert(seq, key);
        while self.by_seq.len() > self.most {
            let Some((seq, key)) = self.by_seq.pop_first() else { return };
            // A later entry may have the same key.
            if self.by_key.get(&key) == Some(&seq) {
                self.by_key.remove(&key);
            }
        }
    }
}

/// Why numbered entries were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAccepted {
    /// Entries before the first are missing.
    Gap,
    /// The log holds another entry at this place.
    Diverged(Seq),
}

/// A copy of neighbouring entries, to be written to a disk.
#[derive(Debug)]
pub struct Batch {
    first: Seq,
    text: Vec<u8>,
    /// Epoch and key of each entry, and the range of its JSON in `text`.
    entries: Vec<(Epoch, Option<Arc<str>>, Range<usize>)>,
}

impl Batch {
    /// The first place.
    pub fn first(&self) -> Seq {
        self.first
    }

    /// The last place, or the one before the batch if the batch is empty.
    pub fn last(&self) -> Seq {
        Seq(self.first.0 + self.entries.len() as u64).previous()
    }

    /// Place, epoch, key and JSON of each entry.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, Epoch, Option<&str>, &[u8])> {
        let numbered = (self.first.0..).map(Seq).zip(&self.entries);
        numbered.map(|(seq, (epoch, key, range))| {
            (seq, *epoch, key.as_deref(), &self.text[range.clone()])
        })
    }
}

/// Entries in one order.
///
/// Invariants, which the methods keep and assert:
/// - places are 1, 2, 3, … without a gap; [`Log::last_seq`] is the number of entries;
/// - an entry never changes, and goes away only with all entries after it;
/// - every entry has the epoch it was appended in.
#[derive(Debug, Clone, Default)]
pub struct Log {
    segments: Vec<Arc<Segment>>,
    keys: Keys,
    /// The epochs as runs, by the first place of each run of entries with the same epoch.
    epochs: BTreeMap<Seq, Epoch>,
    last: Seq,
    bytes: u64,
}

/// Neighbouring entries: `"first","second",`
#[derive(Debug, Clone)]
struct Segment {
    first: Seq,
    text: Vec<u8>,
    /// The end of each entry's JSON in `text`; a comma follows.
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

    /// The range of the entry's JSON in `text`.
    fn range(&self, seq: Seq) -> Range<usize> {
        let index = usize::try_from(seq.0 - self.first.0).expect("a segment fits into memory");
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize + 1 };
        start..self.ends[index] as usize
    }

    /// The bytes that it takes.
    fn bytes(&self) -> u64 {
        (self.text.len() + size_of_val(&*self.ends)) as u64
    }

    fn push(&mut self, json: &str) {
        self.text.extend_from_slice(json.as_bytes());
        self.ends.push(u32::try_from(self.text.len()).expect("no message has 4 GiB"));
        self.text.push(b',');
    }
}

impl Log {
    /// An empty log that keeps the idempotency keys of the last `most_keys` entries with a key.
    pub fn new(most_keys: usize) -> Log {
        Log { keys: Keys { most: most_keys, ..Keys::default() }, ..Log::default() }
    }

    /// The number of idempotency keys that are kept.
    pub fn most_keys(&self) -> usize {
        self.keys.most
    }

    /// The entry that was posted with this idempotency key, if the key is still kept.
    pub fn find_key(&self, key: &str) -> Option<Seq> {
        self.keys.by_key.get(key).copied()
    }

    /// The idempotency keys of these entries that are still kept.
    pub fn keys(&self, range: RangeInclusive<Seq>) -> impl Iterator<Item = (Seq, &Arc<str>)> {
        self.keys.by_seq.range(range).map(|(seq, key)| (*seq, key))
    }

    /// The place of the last entry, which is also the number of entries.
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
        self.epochs.range(..=seq).next_back().map_or(Epoch::default(), |(_, epoch)| *epoch)
    }

    /// The last place of the run of entries with the same epoch that `seq` belongs to.
    pub fn end_of_epoch_run(&self, seq: Seq) -> Seq {
        self.epochs.range(seq.next()..).next().map_or(self.last, |(first, _)| first.previous())
    }

    /// Appends an entry at the end and returns its place, as a master does.
    pub fn append(&mut self, epoch: Epoch, draft: &Draft) -> Seq {
        let seq = self.last.next();
        if self.last_epoch() != epoch {
            self.epochs.insert(seq, epoch);
        }
        if self.segments.last().is_none_or(|segment| segment.text.len() >= SEGMENT_BYTES) {
            if let Some(closed) = self.segments.last_mut().map(Arc::make_mut) {
                closed.text.shrink_to_fit();
                closed.ends.shrink_to_fit();
            }
            let segment = Segment { first: seq, text: Vec::new(), ends: Vec::new() };
            self.segments.push(Arc::new(segment));
        }
        let segment = self.segments.last_mut().expect("one was just made if there was none");
        // Copies the segment if a reader holds it, and only then.
        let segment = Arc::make_mut(segment);
        segment.push(draft.message.json());
        assert_eq!(segment.last(), seq, "segments and places must agree");
        self.last = seq;
        self.bytes += draft.message.bytes_in_log();
        if let Some(key) = &draft.key {
            self.keys.insert(seq, Arc::clone(key));
        }
        seq
    }

    /// Accepts entries that have their places already, `first` onwards, as a secondary does.
    /// Returns how many of them are new. Entries that are held already must be the same.
    ///
    /// # Errors
    /// [`NotAccepted`], and then nothing has changed.
    pub fn accept(
        &mut self,
        epoch: Epoch,
        first: Seq,
        drafts: &[Draft],
    ) -> Result<u64, NotAccepted> {
        if first > self.last.next() {
            return Err(NotAccepted::Gap);
        }
        assert!(first > Seq::NONE, "an entry cannot be accepted at place {first}");
        if let Some(seq) = self.find_difference(epoch, first, drafts) {
            return Err(NotAccepted::Diverged(seq));
        }
        let known = usize::try_from(self.last.next().0 - first.0).unwrap_or(usize::MAX);
        let new = drafts.get(known..).unwrap_or_default();
        new.iter().for_each(|draft| _ = self.append(epoch, draft));
        Ok(new.len() as u64)
    }

    /// The first place at which the log holds another entry than these, which begin at `first`.
    pub fn find_difference(&self, epoch: Epoch, first: Seq, drafts: &[Draft]) -> Option<Seq> {
        let held = (first.0..=self.last.0).map(Seq).zip(drafts);
        let mut differing = held.filter(|(seq, draft)| {
            self.json(*seq) != draft.message.json().as_bytes() || self.epoch_of(*seq) != epoch
        });
        differing.next().map(|(seq, _)| seq)
    }

    /// Drops the entries from this place on.
    ///
    /// # Panics
    /// When the place is 0.
    pub fn drop_from(&mut self, first: Seq) {
        assert!(first > Seq::NONE, "there is no place 0");
        while let Some(segment) = self.segments.pop() {
            if segment.first < first {
                let mut kept = Segment { first: segment.first, text: Vec::new(), ends: Vec::new() };
                let last = segment.last().min(first.previous());
                kept.text.extend_from_slice(&segment.text[..=segment.range(last).end]);
                let count = usize::try_from(last.next().0 - segment.first.0);
                kept.ends.extend_from_slice(&segment.ends[..count.expect("a segment's length")]);
                self.bytes += kept.bytes();
                self.bytes -= segment.bytes();
                self.segments.push(Arc::new(kept));
                break;
            }
            self.bytes -= segment.bytes();
        }
        self.epochs.split_off(&first);
        self.keys.drop_from(first);
        self.last = self.last.min(first.previous());
    }

    /// The last of the first `most` entries that was not appended after this epoch.
    pub fn last_not_after(&self, epoch: Epoch, most: Seq) -> Seq {
        let mut last = most.min(self.last);
        while let Some((first, of_run)) = self.epochs.range(..=last).next_back() {
            if *of_run <= epoch {
                break;
            }
            last = first.previous();
        }
        last
    }

    /// The JSON of one entry.
    ///
    /// # Panics
    /// When there is no such entry.
    pub fn json(&self, seq: Seq) -> &[u8] {
        let last = self.last;
        assert!(seq > Seq::NONE && seq <= last, "entry {seq} asked, the last is {last}");
        let segment = &self.segments[self.segment_of(seq)];
        &segment.text[segment.range(seq)]
    }

    /// The entries of this range as chunks of one comma-separated text. The chunks hold no lock
    /// and stay as they are now.
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

    /// The last entry of a call that begins with `first`, ends at `until` and takes `most_bytes`
    /// at most. A call carries at least one entry.
    ///
    /// # Panics
    /// When there is no entry `first`.
    pub fn end_of_call(&self, first: Seq, until: Seq, most_bytes: usize) -> Seq {
        let (mut size, mut last) = (self.size_in_call(first), first);
        while last < until.min(self.last) {
            size += self.size_in_call(last.next());
            if size > most_bytes {
                break;
            }
            last = last.next();
        }
        last
    }

    /// The size of an entry in a call at most: JSON and comma; key with every character escaped,
    /// place and punctuation.
    fn size_in_call(&self, seq: Seq) -> usize {
        let key = self.keys.by_seq.get(&seq).map_or(0, |key| 2 * key.len() + 32);
        self.json(seq).len() + 1 + key
    }

    /// A copy of the entries from this place on, of about `most_bytes`; none if there are none.
    pub fn batch(&self, first: Seq, most_bytes: usize) -> Batch {
        let mut batch = Batch { first, text: Vec::new(), entries: Vec::new() };
        while batch.last() < self.last && batch.text.len() < most_bytes {
            let (seq, start) = (batch.last().next(), batch.text.len());
            batch.text.extend_from_slice(self.json(seq));
            let key = self.keys.by_seq.get(&seq).cloned();
            batch.entries.push((self.epoch_of(seq), key, start..batch.text.len()));
        }
        batch
    }

    /// The bytes that the entries from this place on take.
    pub fn bytes_from(&self, first: Seq) -> u64 {
        (first.0..=self.last.0).map(|seq| (self.json(Seq(seq)).len() + ENTRY_BYTES) as u64).sum()
    }

    /// The bytes that all entries take, but for their keys.
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
    fn entries_read_back_as_json_numbered_from_one() {
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
    fn a_log_takes_the_bytes_that_it_tells() {
        let mut log = log_of(&[]);
        for number in 0..100_000 {
            let text = "x".repeat(number % 7);
            log.append(ONE, &draft(&text));
        }
        let taken = |segment: &Arc<Segment>| segment.text.capacity() + 4 * segment.ends.capacity();
        let (last, closed) = log.segments.split_last().unwrap();
        let taken: usize = closed.iter().map(taken).sum();
        assert_eq!(taken as u64 + last.bytes(), log.bytes());
        assert_eq!(log.bytes_from(Seq(1)), log.bytes());
        assert_eq!(log.bytes_from(Seq(100_000)), Message::new("xxxx").bytes_in_log());
    }

    #[test]
    fn entries_at_the_end_can_be_dropped() {
        let texts: Vec<String> = (1..=5000).map(|n| format!("{n:>50}")).collect();
        for kept in [0, 1, 1000, 1205, 4999, 5000] {
            let (mut log, mut expected) = (Log::new(9), Log::new(9));
            for (seq, text) in (1..).zip(&texts) {
                let key = (seq % 1000 == 0).then(|| Arc::from(format!("k{seq}")));
                let entry = Draft { message: Message::new(text), key };
                let epoch = Epoch(seq / 1500);
                log.append(epoch, &entry);
                if seq <= kept {
                    expected.append(epoch, &entry);
                }
            }
            log.drop_from(Seq(kept + 1));
            for log in [&mut log, &mut expected] {
                log.append(Epoch(9), &Draft { message: Message::new("x"), key: Some("k".into()) });
            }
            assert_eq!(text(&log, 1..=5001), text(&expected, 1..=5001));
            assert_eq!((log.bytes(), log.last_seq()), (expected.bytes(), expected.last_seq()));
            assert_eq!((&log.epochs, &log.keys), (&expected.epochs, &expected.keys));
        }
    }

    #[test]
    fn the_last_entry_not_after_an_epoch_is_found() {
        let mut log = Log::new(0);
        [2, 2, 4, 4, 6].iter().for_each(|epoch| _ = log.append(Epoch(*epoch), &draft("x")));
        let last = |epoch, most| log.last_not_after(Epoch(epoch), Seq(most)).0;
        assert_eq!([last(1, 9), last(2, 9), last(3, 1), last(5, 9), last(7, 9)], [0, 2, 1, 4, 5]);
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
    fn a_reader_keeps_its_chunks_while_the_log_grows() {
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
        assert_eq!(log.accept(ONE, Seq(2), &drafts(&["b", "c"])), Ok(2));
        assert_eq!(log.accept(ONE, Seq(2), &drafts(&["b", "c"])), Ok(0));
        assert_eq!(log.accept(ONE, Seq(3), &drafts(&["c", "d"])), Ok(1));
        assert_eq!(log.accept(ONE, Seq(5), &[]), Ok(0));
        assert_eq!(text(&log, 1..=9), r#""a","b","c","d""#);
    }

    #[test]
    fn another_entry_at_a_place_is_refused() {
        // Goal: another message or another epoch is refused, and nothing changes.
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
    fn a_call_is_bounded_and_never_empty() {
        let log = log_of(&["aaaa", "bbbb", "cccc"]);
        let end = |first, until, most| log.end_of_call(Seq(first), Seq(until), most).0;
        assert_eq!(end(1, 3, 1), 1);
        assert_eq!(end(1, 3, 13), 1, "each entry takes 7 bytes");
        assert_eq!(end(1, 3, 14), 2);
        assert_eq!(end(1, 9, 99), 3);
        assert_eq!(end(1, 2, 99), 2);
        let mut keyed = Log::new(9);
        for _ in 0..9 {
            keyed.append(ONE, &Draft { message: Message::new(""), key: Some("k".into()) });
        }
        let last = keyed.end_of_call(Seq(1), Seq(9), 3 * 40);
        assert_eq!(last, Seq(3), "keys count too");
    }

    #[test]
    fn keys_are_found_until_enough_newer_ones_came() {
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
