//! Secondaries in the original's form, in that of its README, and in that of its later version.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake::{Fake, Received, respond};

/// What it answers to a request that is right, when it holds this log; nothing where it knows no
/// such call.
pub type Manner = fn(&str, &[String]) -> Option<Value>;

/// It knows no places, one entry a call, and appends whatever it gets.
pub struct Original {
    pub fake: Fake,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    log: Mutex<Vec<String>>,
    refuses: AtomicBool,
    calls: AtomicUsize,
}

impl Original {
    /// The original itself. Its calls take these delays in turn, in milliseconds, before they
    /// append.
    pub fn start(delays: &'static [u64]) -> Original {
        Original::with(delays, original)
    }

    /// One that answers in another manner.
    pub fn with(delays: &'static [u64], manner: Manner) -> Original {
        let state: Arc<State> = Arc::default();
        let own = Arc::clone(&state);
        let fake = Fake::start(move |request, stream| own.answer(request, stream, delays, manner));
        Original { fake, state }
    }

    pub fn url(&self) -> String {
        self.fake.url()
    }

    pub fn log(&self) -> Vec<String> {
        self.state.log().clone()
    }

    /// Answers 500 to calls and takes nothing, or no longer so.
    pub fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, SeqCst);
    }

    /// Is restarted: it holds nothing.
    pub fn forget(&self) {
        self.state.log().clear();
    }

    /// Takes an entry from somebody else.
    pub fn append(&self, message: &str) {
        self.state.log().push(message.into());
    }

    /// How often this was asked for.
    pub fn count(&self, what: &str) -> usize {
        self.fake.received().iter().filter(|request| request.what == what).count()
    }
}

impl State {
    fn log(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(
        &self,
        request: &Received,
        stream: &mut TcpStream,
        delays: &[u64],
        manner: Manner,
    ) -> io::Result<()> {
        if request.is_replicate() {
            let delay = delays[self.calls.fetch_add(1, SeqCst) % delays.len()];
            thread::sleep(Duration::from_millis(delay));
            if self.refuses.load(SeqCst) {
                return respond(stream, 500, "Internal Server Error");
            }
        }
        let mut log = self.log();
        if request.is_replicate() {
            let Some(message) = request.json()["msg"].as_str().map(str::to_string) else {
                let error = r#"{"error":"Expected JSON with string field 'msg'"}"#;
                return respond(stream, 400, error);
            };
            log.push(message);
        }
        match manner(&request.what, &log) {
            Some(answer) => respond(stream, 200, &answer.to_string()),
            None => respond(stream, 404, "<!doctype html>\n<title>404 Not Found</title>\n"),
        }
    }
}

/// As the original answers.
pub fn original(what: &str, log: &[String]) -> Option<Value> {
    match what {
        "GET /health" => Some(json!({ "status": "ok", "count": log.len(), "delay_ms": 0 })),
        "POST /replicate" => Some(json!({ "status": "ok", "idx": log.len() - 1 })),
        _ => readme(what, log),
    }
}

/// As the original's README says: no more than that.
pub fn readme(what: &str, log: &[String]) -> Option<Value> {
    match what {
        "GET /messages" => Some(json!({ "messages": log })),
        "POST /replicate" => Some(json!({ "status": "ok" })),
        _ => None,
    }
}

/// The later version: entries have places, and one that comes before its predecessor is held, and
/// hidden until that comes.
pub fn later() -> (Fake, Arc<Mutex<BTreeMap<u64, String>>>) {
    let log: Arc<Mutex<BTreeMap<u64, String>>> = Arc::default();
    let own = Arc::clone(&log);
    let fake = Fake::start(move |request, stream| {
        let mut log = own.lock().unwrap_or_else(PoisonError::into_inner);
        if !request.is_replicate() {
            let shown: Vec<&String> = (1..).map_while(|place| log.get(&place)).collect();
            let health = json!({ "status": "ok", "count": shown.len(), "delay_ms": 0 });
            return match request.what.as_str() {
                "GET /health" => respond(stream, 200, &health.to_string()),
                "GET /messages" => respond(stream, 200, &json!({ "messages": shown }).to_string()),
                _ => respond(stream, 404, "Not Found"),
            };
        }
        let call = request.json();
        let (Some(seq), Some(message)) = (call["seq"].as_u64(), call["msg"].as_str()) else {
            return respond(stream, 400, "seq and msg");
        };
        log.entry(seq).or_insert_with(|| message.to_string());
        respond(stream, 200, &json!({ "status": "ok", "seq": seq }).to_string())
    });
    (fake, log)
}
