//! The process log on stdout: one event a line, in the past tense, with keys.
//!
//! A thread of its own writes the lines, so a reader that stops reading does not stop the node:
//! lines beyond [`MAX_PENDING_LINES`] are dropped, and their number stands in their place.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{panic, thread};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use log::{LevelFilter, Log, Metadata, Record, SetLoggerError, debug};
use simplelog::{ConfigBuilder, SharedLogger, WriteLogger};
use time::macros::format_description;

use crate::entries::Message;
use crate::seldom::Seldom;

/// The most lines that wait for the reader of stdout.
pub const MAX_PENDING_LINES: usize = 8192;

/// The pause between two writes: lines that come meanwhile are written together.
const GATHER: Duration = Duration::from_millis(5);

/// The most characters of a message in a log line.
const EXCERPT_CHARS: usize = 80;

static LINES: OnceLock<Sender<Line>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Line {
    Text(Vec<u8>),
    Flush(Sender<()>),
}

/// Starts the log; each line carries the node's name. Fails when logging was started before.
pub fn start(level: LevelFilter, node_name: &str) -> Result<(), SetLoggerError> {
    let (sender, lines) = bounded(MAX_PENDING_LINES);
    let config = ConfigBuilder::new()
        .set_time_format_custom(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        // The libraries' own lines are of no use to an operator.
        .add_filter_ignore_str("tiny_http")
        .add_filter_ignore_str("ureq")
        .build();
    let writer = LineWriter { lines: sender.clone(), line: Vec::new() };
    let (name, inner) = (node_name.to_string(), WriteLogger::new(level, config, writer));
    log::set_boxed_logger(Box::new(Named { name, inner }))?;
    log::set_max_level(level);
    let _ = LINES.set(sender);
    // Without the thread all lines are dropped in the end, and the node still works.
    let _ = thread::Builder::new().name("log-writer".into()).spawn(move || write(&lines));
    Ok(())
}

/// Tells panics of unnamed threads once in a while, in the log: tiny_http's threads panic whenever a
/// client resets its connection early.
pub fn tame_panics() {
    static UNNAMED: Seldom = Seldom::new(Duration::from_secs(10));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| match thread::current().name() {
        Some(_) => usual(panic),
        None => {
            if let Some(times) = UNNAMED.count() {
                debug!("panicked times={times} panic={:?}", panic.to_string());
            }
        }
    }));
}

/// Waits until all lines logged so far are written, at most twice `timeout`.
pub fn flush(timeout: Duration) {
    let (done, is_done) = bounded(1);
    if let Some(lines) = LINES.get()
        && lines.send_timeout(Line::Flush(done), timeout).is_ok()
    {
        let _ = is_done.recv_timeout(timeout);
    }
}

/// The beginning of what a stranger has sent.
pub fn beginning(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The beginning of a message as JSON, with every control character escaped.
pub fn excerpt(message: &Message) -> String {
    let json = message.json();
    let mut text = json[1..json.len() - 1].chars();
    let mut excerpt = String::with_capacity(EXCERPT_CHARS + 8);
    excerpt.push('"');
    for c in text.by_ref().take(EXCERPT_CHARS) {
        if c.is_control() { excerpt.extend(c.escape_unicode()) } else { excerpt.push(c) }
    }
    excerpt + if text.next().is_some() { "…\"" } else { "\"" }
}

/// Writes all pending lines at once, then pauses: one write and one wake-up for many lines.
fn write(lines: &Receiver<Line>) {
    let mut stdout = io::stdout().lock();
    let mut text = Vec::new();
    while let Ok(line) = lines.recv() {
        let dropped = DROPPED.swap(0, Relaxed);
        if dropped > 0 {
            text = format!("… {dropped} lines dropped: nobody was reading\n").into_bytes();
        }
        let mut flushed = Vec::new();
        for line in std::iter::once(line).chain(lines.try_iter()) {
            match line {
                Line::Text(line) => text.extend_from_slice(&line),
                Line::Flush(done) => flushed.push(done),
            }
        }
        // When stdout is closed there is nobody to tell.
        let _ = stdout.write_all(&text).and_then(|()| stdout.flush());
        text.clear();
        flushed.iter().for_each(|done| _ = done.try_send(()));
        thread::sleep(GATHER);
    }
}

/// A logger that puts the node's name before every line of simplelog.
struct Named {
    name: String,
    inner: Box<WriteLogger<LineWriter>>,
}

impl Log for Named {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.inner.level()
    }

    fn log(&self, record: &Record<'_>) {
        let text = format_args!("[{}] {}", self.name, record.args());
        self.inner.log(&Record::builder().metadata(record.metadata().clone()).args(text).build());
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// A writer that joins the pieces of a line, which simplelog writes one by one.
struct LineWriter {
    lines: Sender<Line>,
    line: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            let line = Line::Text(std::mem::take(&mut self.line));
            if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
                DROPPED.fetch_add(1, Relaxed);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_escaped_and_cut() {
        assert_eq!(excerpt(&Message::new("hi\n\u{9b}")), r#""hi\n\u{9b}""#);
        let long = excerpt(&Message::new(&"é".repeat(100)));
        assert_eq!(long.chars().filter(|c| *c == 'é').count(), EXCERPT_CHARS);
        assert!(long.ends_with("é…\""), "{long}");
        let exact = excerpt(&Message::new(&"x".repeat(EXCERPT_CHARS)));
        assert!(!exact.contains('…'), "{exact}");
    }

    #[test]
    fn unread_lines_are_dropped_and_counted() {
        // Goal: a full channel blocks nobody, and every dropped line is counted.
        let (lines, _unread) = bounded(2);
        let mut writer = LineWriter { lines, line: Vec::new() };
        DROPPED.store(0, Relaxed);
        for _ in 0..5 {
            writer.write_all(b"half a ").unwrap();
            writer.write_all(b"line\n").unwrap();
        }
        assert_eq!(DROPPED.load(Relaxed), 3);
    }
}
