//! The systems that ours is compared with: started, spoken to over plain sockets, ended.
//!
//! Each gets the same work in the form it is fastest at over one connection per client: Redis
//! `RPUSH` and `WAIT 2` in one write, etcd its gRPC `Put` (the JSON gateway would be unfair), NATS
//! a publication to a stream with three replicas, which answers with an acknowledgement.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::etcd::etcd;
use crate::load::Protocol;
use crate::nodes::{Cluster, Node, free_addresses, fresh_directory};

/// A system to compare with.
pub struct Peer {
    /// Its name in the table.
    pub name: &'static str,
    /// Which nodes have an append before it is answered.
    pub acks: &'static str,
    /// Where it is by then.
    pub kept: Kept,
    program: &'static str,
    start: fn(kept: Kept, message_bytes: usize) -> Cluster,
}

/// Where an append is when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In memory, or in a file that the operating system has not synced.
    Memory,
    /// In a file that is synced now and then.
    File,
    /// On the disk, synced.
    Disk,
}

const ALL: [Peer; 6] = [
    peer("Redis WAIT 2", "all", Kept::Memory, "redis-server", redis),
    peer("etcd, no fsync", "quorum", Kept::Memory, "etcd", etcd),
    peer("NATS R3 memory", "quorum", Kept::Memory, "nats-server", nats),
    peer("Redis appendfsync always, WAIT 2", "all", Kept::Disk, "redis-server", redis),
    peer("etcd", "quorum", Kept::Disk, "etcd", etcd),
    peer("NATS R3 file", "quorum", Kept::File, "nats-server", nats),
];

const fn peer(
    name: &'static str,
    acks: &'static str,
    kept: Kept,
    program: &'static str,
    start: fn(Kept, usize) -> Cluster,
) -> Peer {
    Peer { name, acks, kept, program, start }
}

/// Those of them that are installed; the others are named.
pub fn installed(which: impl Fn(&Peer) -> bool) -> impl Iterator<Item = &'static Peer> {
    ALL.iter().filter(move |peer| {
        let is_meant = which(peer);
        let is_installed = is_meant && Command::new(peer.program).arg("--version").output().is_ok();
        if is_meant && !is_installed {
            println!("skipped: {} is not installed", peer.name);
        }
        is_installed
    })
}

impl Peer {
    /// Starts three nodes of it.
    pub fn start(&self, message_bytes: usize) -> Cluster {
        (self.start)(self.kept, message_bytes)
    }
}

/// How long a cluster may take until it is ready.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until it is so.
pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < SOON, "not {what} within {SOON:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until one of these nodes is so, and returns its place.
pub fn wait_for_one(what: &str, nodes: &[Node], is_so: impl Fn(&Node) -> bool) -> usize {
    let mut found = None;
    wait_until(what, || {
        found = nodes.iter().position(&is_so);
        found.is_some()
    });
    found.expect("it was just found")
}

// Redis

struct Redis {
    request: Vec<u8>,
}

fn redis(kept: Kept, message_bytes: usize) -> Cluster {
    let directory = fresh_directory("redis");
    let addresses = free_addresses::<3>();
    let start = |number: usize| {
        let (address, own) = (addresses[number], directory.join(number.to_string()));
        fs::create_dir_all(&own).expect("the temporary directory can be written");
        let mut command = Command::new("redis-server");
        command.arg("--port").arg(address.port().to_string()).args(["--bind", "127.0.0.1"]);
        command.args(["--save", ""]).arg("--dir").arg(own);
        command.args(["--appendonly", if kept == Kept::Disk { "yes" } else { "no" }]);
        command.args(["--appendfsync", "always", "--repl-diskless-sync-delay", "0"]);
        if number > 0 {
            command.args(["--replicaof", "127.0.0.1"]).arg(addresses[0].port().to_string());
        }
        Node::start_at(&mut command, address)
    };
    let nodes: Vec<Node> = (0..3).map(start).collect();
    wait_until("replicating", || {
        let info = converse(addresses[0], b"INFO replication\r\n", |text| text.contains("offset"));
        info.unwrap_or_default().matches("state=online").count() == 2
    });
    let message = "x".repeat(message_bytes);
    let request = format!(
        "*3\r\n$5\r\nRPUSH\r\n$3\r\nlog\r\n${message_bytes}\r\n{message}\r\n\
         *3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n"
    );
    let protocol = Box::new(Redis { request: request.into_bytes() });
    Cluster { nodes, protocol, directory: Some(directory) }
}

/// What is answered to these bytes, if it is whole before long.
fn converse(address: SocketAddr, bytes: &[u8], is_whole: impl Fn(&str) -> bool) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(bytes).ok()?;
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !is_whole(&text) {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    Some(text)
}

impl Protocol for Redis {
    fn request(&self, _: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let ends = bytes.windows(2).enumerate().filter(|(_, two)| two == b"\r\n");
        let Some((end, _)) = ends.map(|(at, two)| (at + 2, two)).nth(1) else { return Ok(None) };
        let answer = &bytes[..end];
        if answer.starts_with(b":") && answer.ends_with(b"\r\n:2\r\n") {
            return Ok(Some(end));
        }
        Err(String::from_utf8_lossy(answer).into_owned())
    }
}

// NATS

struct Nats {
    message: String,
}

fn nats(kept: Kept, message_bytes: usize) -> Cluster {
    let directory = fresh_directory("nats");
    let (clients, routes) = (free_addresses::<3>(), free_addresses::<3>());
    let all_routes = routes.map(|route| format!("nats://{route}")).join(",");
    let start = |number: usize| {
        let store = directory.join(number.to_string());
        let configuration = format!(
            "server_name: n{number}\nlisten: {}\njetstream {{ store_dir: {store:?} }}\n\
             cluster {{ name: bench, listen: {}, routes: [{all_routes}] }}\n",
            clients[number], routes[number]
        );
        let path = directory.join(format!("{number}.conf"));
        fs::write(&path, configuration).expect("the temporary directory can be written");
        Node::start_at(Command::new("nats-server").arg("-c").arg(path), clients[number])
    };
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    let storage = if kept == Kept::File { "file" } else { "memory" };
    let stream =
        format!(r#"{{"name":"LOG","subjects":["log"],"num_replicas":3,"storage":"{storage}"}}"#);
    let mut leader = String::new();
    wait_until("a stream", || {
        let created = ask_nats(clients[0], "$JS.API.STREAM.CREATE.LOG", &stream);
        let created = created.unwrap_or_default();
        leader = created["cluster"]["leader"].as_str().unwrap_or_default().to_string();
        !leader.is_empty()
    });
    let first = (0..3).find(|number| leader == format!("n{number}")).expect("one of them leads");
    nodes.swap(0, first);
    let protocol = Box::new(Nats { message: "x".repeat(message_bytes) });
    Cluster { nodes, protocol, directory: Some(directory) }
}

/// The answer to a request; nothing while nobody is there to answer it.
fn ask_nats(address: SocketAddr, subject: &str, payload: &str) -> Option<Value> {
    let length = payload.len();
    let request = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB _INBOX.ask 1\r\n\
         PUB {subject} _INBOX.ask {length}\r\n{payload}\r\nPING\r\n"
    );
    let text = converse(address, request.as_bytes(), |text| {
        text.contains("MSG ") && text.ends_with("}\r\n")
    })?;
    let payload = text.split("\r\n").skip_while(|line| !line.starts_with("MSG ")).nth(1)?;
    serde_json::from_str(payload).ok()
}

impl Protocol for Nats {
    fn open(&self, stream: &mut TcpStream, client: usize) -> io::Result<()> {
        let greeting =
            format!("CONNECT {{\"verbose\":false}}\r\nSUB _INBOX.{client} 1\r\nPING\r\n");
        stream.write_all(greeting.as_bytes())?;
        let (mut text, mut piece) = (String::new(), [0; 4096]);
        while !text.contains("PONG\r\n") {
            let count = stream.read(&mut piece)?;
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        Ok(())
    }

    fn request(&self, client: usize, out: &mut Vec<u8>) {
        let Nats { message } = self;
        let head = format!("PUB log _INBOX.{client} {}\r\n", message.len());
        out.extend([head.as_bytes(), message.as_bytes(), b"\r\n"].concat());
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let text = String::from_utf8_lossy(bytes);
        // Pings and news of the cluster come between answers; what follows them is ours.
        let Some(begin) = text.find("MSG _INBOX") else { return Ok(None) };
        let mut lines = text[begin..].split_inclusive("\r\n");
        match (lines.next(), lines.next()) {
            (Some(head), Some(ack)) if ack.ends_with("\r\n") => {
                if ack.contains("\"error\"") || !ack.contains("\"seq\"") {
                    return Err(ack.to_string());
                }
                Ok(Some(begin + head.len() + ack.len()))
            }
            _ => Ok(None),
        }
    }
}
