//! What a node prints, and whether anybody reads it.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What a node has printed, shared with the threads that read it.
#[derive(Debug, Clone, Default)]
pub struct Printed {
    lines: Arc<Mutex<Vec<String>>>,
    reading: Arc<Mutex<Reading>>,
}

/// Whether anybody reads what a node prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    #[default]
    All,
    /// The pipe stays open and fills up.
    Paused,
    /// The pipe is closed after the next line.
    Closed,
}

impl Printed {
    pub fn push(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads from now on, or does not.
    pub fn set_reading(&self, reading: Reading) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    fn reading(&self) -> Reading {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a pipe to its end.
    pub fn read(self, pipe: impl Read + Send + 'static) {
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { return };
                self.push(String::from_utf8_lossy(&line).into_owned());
                while self.reading() == Reading::Paused {
                    thread::sleep(Duration::from_millis(5));
                }
                if self.reading() == Reading::Closed {
                    return;
                }
            }
        });
    }
}
