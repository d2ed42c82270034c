//! Secondaries that are none: a few lines of TCP each, to answer what no secondary of ours would.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;

use super::http::Connection;

/// A request that a fake has received.
#[derive(Debug, Clone)]
pub struct Received {
    /// `POST /replicate`
    pub what: String,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a master sends JSON")
    }

    pub fn is_replicate(&self) -> bool {
        self.what == "POST /replicate"
    }
}

/// What a fake does with a request, on the connection it came from; after an error the connection
/// is closed.
type Behaviour = dyn Fn(&Received, &mut TcpStream) -> io::Result<()> + Send + Sync;

/// Serves on a port of its own until it is dropped.
pub struct Fake {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    behaviour: Box<Behaviour>,
    received: Mutex<Vec<Received>>,
    over: AtomicBool,
}

impl Fake {
    pub fn start<B>(behaviour: B) -> Fake
    where
        B: Fn(&Received, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let (received, over) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { behaviour: Box::new(behaviour), received, over });
        let serving = Arc::clone(&shared);
        thread::spawn(move || serving.accept(&listener));
        Fake { addr, shared }
    }

    /// Answers every `POST /replicate` with this, and `GET /health` like an original.
    pub fn answering(status: u16, body: &'static str) -> Fake {
        Fake::start(move |request, stream| match request.is_replicate() {
            true => respond(stream, status, body),
            false => healthy(request, 0, stream),
        })
    }

    /// Passes on requests to the node at this address, unless `answer` answers them itself.
    pub fn before<A>(addr: SocketAddr, answer: A) -> Fake
    where
        A: Fn(&Received) -> Option<(u16, &'static str)> + Send + Sync + 'static,
    {
        Fake::start(move |request, stream| {
            if let Some((status, body)) = answer(request) {
                return respond(stream, status, body);
            }
            let (method, path) = request.what.split_once(' ').expect("a method and a path");
            let body = std::str::from_utf8(&request.body).map_err(io::Error::other)?;
            let answer = Connection::open(addr)?.try_send(method, path, &[], body)?;
            respond(stream, answer.status, answer.text())
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it has received so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        // Ends the wait for the next connection.
        let _ = TcpStream::connect(self.addr);
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let (Ok(stream), false) = (stream, self.over.load(SeqCst)) else { return };
            let shared = Arc::clone(&self);
            // Ends when the master closes the connection, or ends.
            thread::spawn(move || shared.serve(stream));
        }
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut reader)? {
            self.received.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            (self.behaviour)(&request, &mut stream)?;
        }
        Ok(())
    }
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Received>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let what = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Received { what, body }))
}

/// Sends an answer and keeps the connection.
pub fn respond(stream: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes())
}

/// What an original answers to everything but calls: it is well, and has never heard of
/// heartbeats.
pub fn healthy(request: &Received, count: usize, stream: &mut TcpStream) -> io::Result<()> {
    if request.what != "GET /health" {
        return respond(stream, 404, "<!doctype html>\n<title>404 Not Found</title>\n");
    }
    let health = json!({ "status": "ok", "count": count, "delay_ms": 0 });
    respond(stream, 200, &health.to_string())
}

/// Resets the connection.
pub fn reset(stream: &mut TcpStream) -> io::Result<()> {
    SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// The answer of a secondary of ours to a call that it acknowledges.
pub fn ack(call: &Value, instance: &str) -> Value {
    let first = call["seq"].as_u64().expect("a master numbers its entries");
    let count = call["entries"].as_array().map_or(1, Vec::len) as u64;
    let seq = first + count - 1;
    json!({
        "status": "ok", "idx": seq - 1, "seq": seq, "last_seq": seq,
        "last_epoch": call["epoch"], "epoch": call["epoch"], "instance": instance,
    })
}

/// What a secondary of ours that holds nothing answers to everything but calls.
pub fn empty(request: &Received, stream: &mut TcpStream) -> io::Result<()> {
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let epoch = asked["epoch"].as_u64().unwrap_or_default();
    let standing = json!({ "last_seq": 0, "last_epoch": 0, "epoch": epoch, "instance": "a" });
    respond(stream, 200, &standing.to_string())
}
