//! Clients that write for as long as a test does its worst.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::history::Writer;
use super::http::{Answer, Connection};
use super::node::Node;
use super::{SOON, wait_until};

const WRITERS: usize = 8;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a writer that knows two masters waits for the answer of one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Eight clients. Each posts message after message, with a key until it is acknowledged, to the
/// first master that takes it.
#[derive(Debug)]
pub struct Clients {
    masters: Vec<SocketAddr>,
    /// What the body of each request holds beside the message.
    concern: Value,
    /// When which master has acknowledged something.
    acknowledged: Mutex<Vec<(Instant, SocketAddr)>>,
}

impl Clients {
    /// Clients of this master alone, who ask for the acknowledgement of every node.
    pub fn of_one(master: SocketAddr) -> Clients {
        Clients { masters: vec![master], concern: json!({}), acknowledged: Mutex::default() }
    }

    /// Clients of these masters, whichever reigns, who ask for a majority.
    pub fn of_any(masters: &[SocketAddr]) -> Clients {
        let concern = json!({ "w": "majority", "wtimeout": 2000 });
        Clients { masters: masters.to_vec(), concern, acknowledged: Mutex::default() }
    }

    /// When which master has acknowledged something so far.
    pub fn acknowledged(&self) -> Vec<(Instant, SocketAddr)> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the clients have been told of so many more messages by this master.
    pub fn wait_for_acks(&self, master: &Node, more: usize) {
        let by = || self.acknowledged().iter().filter(|(_, by)| *by == master.addr()).count();
        let before = by();
        wait_until("some more entries", SOON, || match by() {
            now if now >= before + more => Ok(()),
            now => Err(now),
        });
    }

    /// Lets the clients write while `faults` does its worst, and returns what they were told.
    pub fn under(&self, faults: impl FnOnce()) -> Vec<Writer> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let stop = &stop;
            let writers: Vec<_> =
                (0..WRITERS).map(|n| scope.spawn(move || self.write(n, stop))).collect();
            // The writers end, whatever happens.
            let stopping = Stopping(stop);
            faults();
            drop(stopping);
            writers.into_iter().map(|writer| writer.join().expect("a writer failed")).collect()
        })
    }

    /// Posts message after message until told to stop.
    fn write(&self, number: usize, stop: &AtomicBool) -> Writer {
        let (mut writer, mut line) = (Writer::default(), Line { clients: self, at: 0, open: None });
        for count in 0.. {
            let message = format!("writer {number} message {count}");
            let key = format!("Idempotency-Key: w{number}-{count}");
            let mut body = self.concern.clone();
            body["msg"] = message.as_str().into();
            let (body, mut acknowledged) = (body.to_string(), None);
            // The last one is not given up before the faults are over and it has had its chance.
            let give_up = Instant::now() + SOON;
            while acknowledged.is_none() && Instant::now() < give_up {
                match line.post(&key, &body) {
                    Some(answer) if answer.status == 201 => {
                        acknowledged = answer.json()["seq"].as_u64();
                    }
                    _ => thread::sleep(PAUSE),
                }
            }
            writer.posted.push((message, acknowledged));
            if stop.load(SeqCst) {
                break;
            }
        }
        writer
    }
}

/// Lets clients of one master write while `faults` does its worst, and returns what they were told.
pub fn under(addr: SocketAddr, faults: impl FnOnce()) -> Vec<Writer> {
    Clients::of_one(addr).under(faults)
}

/// Tells the writers to stop when it is dropped.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The connection of one client to the master that it believes to reign.
struct Line<'a> {
    clients: &'a Clients,
    at: usize,
    open: Option<Connection>,
}

impl Line<'_> {
    /// Posts, and turns to another master when this one is gone or names another.
    fn post(&mut self, key: &str, body: &str) -> Option<Answer> {
        let masters = &self.clients.masters;
        let addr = masters[self.at];
        let open = || match masters.len() {
            1 => Connection::open(addr),
            _ => Connection::open_for(addr, PATIENCE),
        };
        let answer = self.open.take().map_or_else(open, Ok).and_then(|mut open| {
            let headers = [key, "Prefer: return=minimal"];
            let answer = open.try_send("POST", "/messages", &headers, body)?;
            self.open = Some(open);
            Ok(answer)
        });
        let Ok(answer) = answer else {
            self.turn_to((self.at + 1) % masters.len());
            return None;
        };
        match answer.status {
            201 => {
                let mut all = self.clients.acknowledged.lock();
                let all = all.as_mut().unwrap_or_else(|poisoned| poisoned.get_mut());
                all.push((Instant::now(), addr));
            }
            307 => {
                let to = answer.header("Location").expect("307 says where");
                let named = |addr: &SocketAddr| to == format!("http://{addr}/messages");
                let at = masters.iter().position(named);
                self.turn_to(at.unwrap_or_else(|| panic!("307 to {to}, of {masters:?}")));
            }
            502 => {}
            503 => self.turn_to((self.at + 1) % masters.len()),
            status => panic!("{status} for {body}: {}", answer.text()),
        }
        Some(answer)
    }

    fn turn_to(&mut self, master: usize) {
        if master != self.at {
            (self.at, self.open) = (master, None);
        }
    }
}
