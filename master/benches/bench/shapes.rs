//! Two other masters to compare with, which live in this program.
//!
//! The *floor* has the shape of ours and nothing else: a thread per connection, one batch at a time
//! to each of two secondaries, a client answered when both have acknowledged; bare sockets, no HTTP
//! library, no log to be read. The *pair* is the original's shape, literally: each request
//! spawns a scoped thread per secondary, each thread makes one call with one message; it has our
//! HTTP layer and our client, so that the difference is the lines and nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, Thread};
use std::time::Duration;

use common::client::Client;
use common::entries::Message;
use common::http::{Limits, Listener, Reply, Request, Response, Server};

use crate::post::whole;

/// Plays the role that this process was started in.
pub fn play(role: &str, of: &str) {
    match role {
        "floor-master" => floor_master(of),
        "floor-secondary" => floor_secondary(),
        "pair-master" => pair_master(of),
        other => panic!("{other} is not a role"),
    }
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    println!("ready addr={}", listener.local_addr().expect("it is bound"));
    listener
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("descriptors can be had");
    stream.set_nodelay(true).expect("a connected socket takes options");
    stream
}

/// Stores what arrives and acknowledges each batch.
fn floor_secondary() {
    let mut stream = accept(&listen());
    let (mut log, mut length) = (Vec::new(), [0; 4]);
    while stream.read_exact(&mut length).is_ok() {
        let mut batch = vec![0; u32::from_le_bytes(length) as usize];
        stream.read_exact(&mut batch).expect("a batch is whole");
        log.push(batch);
        stream.write_all(b"k").expect("the master reads");
    }
}

#[derive(Default)]
struct Floor {
    state: Mutex<FloorState>,
    appended: Condvar,
    acked: [AtomicU64; 2],
}

#[derive(Default)]
struct FloorState {
    log: Vec<Vec<u8>>,
    /// Who waits for which entry, in the order of the entries.
    waiting: Vec<(u64, Thread)>,
}

impl Floor {
    fn lock(&self) -> MutexGuard<'_, FloorState> {
        self.state.lock().expect("nobody panics")
    }

    fn acked(&self) -> u64 {
        self.acked[0].load(SeqCst).min(self.acked[1].load(SeqCst))
    }
}

fn floor_master(of: &str) {
    let floor: &Floor = Box::leak(Box::default());
    for (line, url) in of.split(',').enumerate() {
        let address = url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).expect("the secondary listens");
        stream.set_nodelay(true).expect("a connected socket takes options");
        thread::spawn(move || carry(floor, line, stream));
    }
    let listener = listen();
    loop {
        let stream = accept(&listener);
        thread::spawn(move || serve(floor, stream));
    }
}

fn carry(floor: &Floor, line: usize, mut stream: TcpStream) {
    let mut sent = 0;
    loop {
        let more = |state: &mut FloorState| state.log.len() == sent;
        let state = floor.appended.wait_while(floor.lock(), more).expect("nobody panics");
        let mut batch = vec![0; 4];
        state.log[sent..].iter().for_each(|message| batch.extend_from_slice(message));
        sent = state.log.len();
        drop(state);
        let length = u32::try_from(batch.len() - 4).expect("a batch is small");
        batch[..4].copy_from_slice(&length.to_le_bytes());
        stream.write_all(&batch).expect("the secondary reads");
        stream.read_exact(&mut [0]).expect("the secondary acknowledges");
        floor.acked[line].store(sent as u64, SeqCst);
        let acked = floor.acked();
        let mut state = floor.lock();
        let settled = state.waiting.partition_point(|(seq, _)| *seq <= acked);
        let woken: Vec<_> = state.waiting.drain(..settled).collect();
        drop(state);
        woken.iter().for_each(|(_, thread)| thread.unpark());
    }
}

fn serve(floor: &Floor, mut stream: TcpStream) {
    let (mut read, mut piece) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        read.extend_from_slice(&piece[..count]);
        let Some((_, length)) = whole(&read) else { continue };
        if read.len() < length {
            continue;
        }
        let mut state = floor.lock();
        state.log.push(std::mem::take(&mut read));
        let seq = state.log.len() as u64;
        state.waiting.push((seq, thread::current()));
        drop(state);
        floor.appended.notify_all();
        while floor.acked() < seq {
            thread::park();
        }
        let body = format!("{{\"seq\":{seq}}}");
        let length = body.len();
        let answer = format!("HTTP/1.1 201 Created\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).is_err() {
            break;
        }
    }
}

fn pair_master(secondaries: &str) {
    let clients: Vec<Client> =
        secondaries.split(',').map(|url| Client::new(url, Duration::from_secs(30))).collect();
    let limits =
        Limits { max_in_flight: 1024, max_body_bytes: 1 << 20, timeout: Duration::from_secs(60) };
    let listener = Listener::bind("127.0.0.1", 0).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let log = Mutex::new(Vec::<Message>::new());
    let handler = move |request: &Request, reply: Reply| {
        let post: master::bodies::PostMessage =
            serde_json::from_slice(&request.body).expect("the clients send JSON");
        let body = format!("{{\"msg\":{}}}", post.msg.json());
        log.lock().expect("nobody panics").push(post.msg);
        thread::scope(|scope| {
            for client in &clients {
                let body = &body;
                scope.spawn(move || {
                    let answer = client.post("/replicate", body.as_bytes()).expect("it is there");
                    assert_eq!(answer.status, 200);
                });
            }
        });
        reply.send(Response::json(201, &serde_json::json!({ "acks": clients.len() })));
    };
    let _server = Server::start(listener, limits, handler).expect("threads can be had");
    println!("ready addr={address}");
    loop {
        thread::park();
    }
}
