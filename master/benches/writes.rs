//! How much the lines are worth: the same clients, the same secondaries, and two masters in turn.
//!
//! `cargo build --release && cargo bench -p master --bench writes`. All
//! nodes are processes of their own. The first master is ours. The second one does what the
//! original's shape asks for, literally: each request spawns a scoped thread per secondary, each
//! thread makes one call with one message. It lives in this file and has the same HTTP layer and
//! the same client, so that the difference is the lines and nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{env, thread};

use common::client::Client;
use common::entries::Message;
use common::http::{Limits, Listener, Reply, Request, Response, Server};

const CLIENTS: usize = 64;
const MESSAGE_BYTES: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;

fn main() {
    if let Ok(secondaries) = env::var("NAIVE_MASTER_OF") {
        return naive_master(&secondaries);
    }
    let mut ratios = Vec::new();
    println!("{CLIENTS} clients, {MESSAGE_BYTES}-byte messages, 2 secondaries, short answers");
    for round in 1..=ROUNDS {
        let (ours, naive) = (rate(Kind::Ours), rate(Kind::Naive));
        ratios.push(ours / naive);
        println!(
            "round {round}: lines {ours:.0} POST/s, a pair of calls per request {naive:.0} POST/s, \
             ratio {:.1}",
            ours / naive
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.1}", ratios[ROUNDS / 2]);
}

#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Naive,
}

/// A process that is killed when it is no longer needed.
struct Node {
    child: Child,
    url: String,
}

impl Node {
    fn start(command: &mut Command) -> Node {
        command.env("PORT", "0").env("LOG_LEVEL", "info").stdout(Stdio::piped());
        let mut child = command.spawn().expect("the node's binary must have been built");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let ready = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("ready addr=")?.1.to_string()))
            .expect("the node must get ready");
        thread::spawn(move || lines.for_each(drop));
        Node { child, url: format!("http://{ready}") }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rate(kind: Kind) -> f64 {
    let master = env!("CARGO_BIN_EXE_master");
    let secondary = Path::new(master).with_file_name("secondary");
    let secondaries: Vec<Node> =
        (0..2).map(|_| Node::start(&mut Command::new(&secondary))).collect();
    let urls: Vec<&str> = secondaries.iter().map(|node| node.url.as_str()).collect();
    let master = match kind {
        Kind::Ours => Node::start(Command::new(master).env("SECONDARIES", urls.join(","))),
        Kind::Naive => {
            let this = env::current_exe().expect("a running program has a path");
            Node::start(Command::new(this).env("NAIVE_MASTER_OF", urls.join(",")))
        }
    };
    let counts = drive(master.url.trim_start_matches("http://"));
    if let Kind::Ours = kind {
        assert_equal_logs(&[&master, &secondaries[0], &secondaries[1]]);
    }
    counts as f64 / MEASURED.as_secs_f64()
}

/// Posts that were answered 201 while it was measured.
fn drive(address: &str) -> usize {
    let barrier = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        let client = || {
            let mut stream = TcpStream::connect(address).expect("the master listens");
            stream.set_nodelay(true).expect("a connected socket takes options");
            let body = format!("{{\"msg\":\"{}\"}}", "x".repeat(MESSAGE_BYTES));
            let request = format!(
                "POST /messages HTTP/1.1\r\nHost: bench\r\nPrefer: return=minimal\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            barrier.wait();
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < WARM_UP + MEASURED {
                let measured = start.elapsed() > WARM_UP;
                post(&mut stream, request.as_bytes());
                count += usize::from(measured);
            }
            count
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("a client fails loudly")).sum()
    })
}

fn post(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).expect("the master reads");
    let (mut answer, mut length) = ([0; 4096], 0);
    loop {
        let count = stream.read(&mut answer[length..]).expect("the master answers");
        assert!(count > 0, "the master closed the connection");
        length += count;
        // A short answer ends with its only closing brace at the end of a line of JSON.
        if answer[..length].ends_with(b"}") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer[..length]);
    assert!(text.starts_with("HTTP/1.1 201"), "{text}");
}

fn assert_equal_logs(nodes: &[&Node]) {
    let log = |node: &&Node| {
        let client = Client::new(&node.url, Duration::from_secs(10));
        client.get("/messages").expect("the node answers").body
    };
    let logs: Vec<Vec<u8>> = nodes.iter().map(log).collect();
    assert!(logs.windows(2).all(|pair| pair[0] == pair[1]), "the logs differ");
}

/// A master in the original's shape, literally.
fn naive_master(secondaries: &str) {
    let clients: Vec<Client> =
        secondaries.split(',').map(|url| Client::new(url, Duration::from_secs(30))).collect();
    let limits =
        Limits { max_in_flight: 1024, max_body_bytes: 1 << 20, timeout: Duration::from_secs(60) };
    let listener = Listener::bind("127.0.0.1", 0).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let log = std::sync::Mutex::new(Vec::<Message>::new());
    let handler = move |request: &Request, reply: Reply| {
        let post: common::wire::PostMessage =
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
