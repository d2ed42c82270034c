//! Clients that write for as long as a test does its worst.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::history::{Append, History, Read, Told};
use super::http::{Answer, Connection, TIMEOUT};
use super::node::Node;
use super::{SOON, wait_until};

const WRITERS: usize = 8;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Eight clients. Each posts message after message, with a key until it is acknowledged, to the
/// first master that takes it.
#[derive(Debug)]
pub struct Clients {
    masters: Vec<SocketAddr>,
    /// What the body of each request holds beside the message.
    concern: Value,
    /// How long they wait for the answer of one master.
    patience: Duration,
    /// There is one more, who posts each message once and without a key.
    single: bool,
    /// When which master has acknowledged something.
    acknowledged: Mutex<Vec<(Instant, SocketAddr)>>,
}

impl Clients {
    /// Clients of this master alone, who ask for the acknowledgement of every node.
    pub fn of_one(master: SocketAddr) -> Clients {
        Clients::new(vec![master], json!({}), TIMEOUT)
    }

    /// Clients of these masters, whichever reigns, who ask for a majority.
    pub fn of_any(masters: &[SocketAddr]) -> Clients {
        let concern = json!({ "w": "majority", "wtimeout": 2000 });
        Clients::new(masters.to_vec(), concern, Duration::from_secs(5))
    }

    /// Clients of these masters who turn to another one soon, and one who tries only once.
    pub fn in_haste(masters: &[SocketAddr]) -> Clients {
        let concern = json!({ "w": "majority", "wtimeout": 500 });
        let clients = Clients::new(masters.to_vec(), concern, Duration::from_millis(800));
        Clients { single: true, ..clients }
    }

    fn new(masters: Vec<SocketAddr>, concern: Value, patience: Duration) -> Clients {
        Clients { masters, concern, patience, single: false, acknowledged: Mutex::default() }
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
    pub fn under(&self, faults: impl FnOnce()) -> History {
        self.beside(faults, |_| Vec::new())
    }

    /// The same beside readers, which return what they have read when they are told to stop.
    pub fn beside<R>(&self, faults: impl FnOnce(), readers: R) -> History
    where
        R: FnOnce(&AtomicBool) -> Vec<Read> + Send,
    {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let stop = &stop;
            let writers: Vec<_> =
                (0..WRITERS).map(|n| scope.spawn(move || self.write(n, stop))).collect();
            let single = self.single.then(|| scope.spawn(|| self.write_once(stop)));
            let reads = scope.spawn(|| readers(stop));
            // The clients end, whatever happens.
            let stopping = Stopping(stop);
            faults();
            drop(stopping);
            History {
                writers: writers.into_iter().map(joined).collect(),
                single: single.map(joined).unwrap_or_default(),
                reads: joined(reads),
            }
        })
    }

    /// Posts message after message until told to stop.
    fn write(&self, number: usize, stop: &AtomicBool) -> Vec<Append> {
        let (mut appends, mut line) = (Vec::new(), Line { clients: self, at: 0, open: None });
        for count in 0.. {
            let message = format!("writer {number} message {count}");
            let key = format!("Idempotency-Key: w{number}-{count}");
            let body = self.body(&message, &self.concern);
            let (begun, mut told) = (Instant::now(), Told::Unknown);
            // The last one is not given up before the faults are over and it has had its chance.
            let give_up = begun + SOON;
            while told == Told::Unknown && Instant::now() < give_up {
                match line.post(&[&key], &body) {
                    Some(answer) if answer.status == 201 => told = place(&answer),
                    _ => thread::sleep(PAUSE),
                }
            }
            appends.push(Append { message, begun, ended: Instant::now(), told });
            if stop.load(SeqCst) {
                break;
            }
        }
        appends
    }

    /// Posts message after message until told to stop, each once and without a key.
    fn write_once(&self, stop: &AtomicBool) -> Vec<Append> {
        let (mut appends, mut line) = (Vec::new(), Line { clients: self, at: 0, open: None });
        let concerns = [json!({ "w": 1 }), json!({}), self.concern.clone()];
        for (count, concern) in (0..).zip(concerns.iter().cycle()) {
            let message = format!("single message {count}");
            let (begun, answer) = (Instant::now(), line.post(&[], &self.body(&message, concern)));
            let told = match answer.as_ref().map(|answer| (answer.status, answer)) {
                Some((201, answer)) if concern["w"] != 1 => place(answer),
                Some((502, answer)) if answer.json()["committed"] == true => place(answer),
                Some((307 | 503, _)) => Told::Refused,
                _ => Told::Unknown,
            };
            appends.push(Append { message, begun, ended: Instant::now(), told });
            if stop.load(SeqCst) {
                break;
            }
            thread::sleep(PAUSE);
        }
        appends
    }

    fn body(&self, message: &str, concern: &Value) -> String {
        let mut body = concern.clone();
        body["msg"] = message.into();
        body.to_string()
    }
}

fn place(answer: &Answer) -> Told {
    answer.json()["seq"].as_u64().map_or(Told::Unknown, Told::Stored)
}

fn joined<T>(client: ScopedJoinHandle<'_, T>) -> T {
    client.join().expect("a client failed")
}

/// Lets clients of one master write while `faults` does its worst, and returns what they were told.
pub fn under(addr: SocketAddr, faults: impl FnOnce()) -> History {
    Clients::of_one(addr).under(faults)
}

/// Tells the clients to stop when it is dropped.
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
    fn post(&mut self, headers: &[&str], body: &str) -> Option<Answer> {
        let Clients { masters, patience, .. } = self.clients;
        let addr = masters[self.at];
        let open = || Connection::open_for(addr, *patience);
        let answer = self.open.take().map_or_else(open, Ok).and_then(|mut open| {
            let headers = [headers, &["Prefer: return=minimal"]].concat();
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
