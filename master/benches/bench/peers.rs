//! The systems that ours is compared with: started, spoken to over plain sockets, ended.
//!
//! Each gets the same work in the form it is fastest at over one connection per client: Redis
//! `RPUSH` and `WAIT 2` in one write, etcd its gRPC `Put` (the JSON gateway would be unfair), NATS
//! a publication to a stream with three replicas, which answers with an acknowledgement.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::client::Client;
use serde_json::Value;

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

/// All of them.
pub const ALL: [Peer; 6] = [
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

impl Peer {
    /// Whether its program is installed.
    pub fn is_installed(&self) -> bool {
        Command::new(self.program).arg("--version").output().is_ok()
    }

    /// Starts three nodes of it.
    pub fn start(&self, message_bytes: usize) -> Cluster {
        (self.start)(self.kept, message_bytes)
    }
}

/// How long a cluster may take until it is ready.
const SOON: Duration = Duration::from_secs(20);

fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < SOON, "not {what} within {SOON:?}");
        thread::sleep(Duration::from_millis(20));
    }
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

// etcd

/// A `Put` over HTTP/2, which is as much of gRPC as it takes.
struct Etcd {
    authority: String,
    message: String,
    /// How many appends each client has made.
    appends: Vec<AtomicU32>,
}

/// No client has a greater number.
const MOST_CLIENTS: usize = 1024;

fn etcd(kept: Kept, message_bytes: usize) -> Cluster {
    let directory = fresh_directory("etcd");
    let (clients, peers) = (free_addresses::<3>(), free_addresses::<3>());
    let members = [0, 1, 2].map(|number| format!("n{number}=http://{}", peers[number])).join(",");
    let mut nodes = Vec::new();
    for number in 0..3 {
        let mut command = Command::new("etcd");
        let mut with = |name: &str, value: &str| _ = command.arg(name).arg(value);
        with("--name", &format!("n{number}"));
        with("--data-dir", &path_text(&directory.join(number.to_string())));
        with("--listen-client-urls", &format!("http://{}", clients[number]));
        with("--advertise-client-urls", &format!("http://{}", clients[number]));
        with("--listen-peer-urls", &format!("http://{}", peers[number]));
        with("--initial-advertise-peer-urls", &format!("http://{}", peers[number]));
        with("--initial-cluster", &members);
        if kept == Kept::Memory {
            command.arg("--unsafe-no-fsync");
        }
        // They answer only when a majority of them is there: the first does not wait for that.
        nodes.push(Node::start_later(&mut command, clients[number]));
    }
    let status = |number: usize| {
        let client = Client::new(&format!("http://{}", clients[number]), SOON);
        let answer = client.post("/v3/maintenance/status", b"{}").ok();
        answer.and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok())
    };
    let mut leader = None;
    wait_until("led", || {
        leader = (0..3).find(|number| {
            status(*number).is_some_and(|status| {
                let member = &status["header"]["member_id"];
                member.is_string() && *member == status["leader"]
            })
        });
        leader.is_some()
    });
    nodes.swap(0, leader.expect("it was just found"));
    let protocol = Box::new(Etcd {
        authority: nodes[0].address.to_string(),
        message: "x".repeat(message_bytes),
        appends: (0..MOST_CLIENTS).map(|_| AtomicU32::new(0)).collect(),
    });
    Cluster { nodes, protocol, directory: Some(directory) }
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("the temporary directory has a name in UTF-8").to_string()
}

/// Kinds and flags of HTTP/2 frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A field that is written out (RFC 7541, section 6.2.2): names and values are shorter than 127.
fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        out.push(u8::try_from(text.len()).expect("a short text"));
        out.extend_from_slice(text.as_bytes());
    }
}

/// A field of a protocol buffer that holds bytes.
fn buffer_field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

impl Protocol for Etcd {
    fn open(&self, stream: &mut TcpStream, client: usize) -> io::Result<()> {
        // A new connection begins with a new stream.
        self.appends[client].store(0, Relaxed);
        let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // So much may be sent to us before we must say that we have read it: as much as can be.
        let window = 0x7fff_ffff_u32;
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &settings, &mut greeting);
        frame(WINDOW_UPDATE, 0, 0, &(window - 65535).to_be_bytes(), &mut greeting);
        frame(SETTINGS, ACK, 0, &[], &mut greeting);
        stream.write_all(&greeting)
    }

    fn request(&self, client: usize, out: &mut Vec<u8>) {
        let append = self.appends[client].fetch_add(1, Relaxed);
        let stream = 2 * append + 1;
        let mut head = Vec::with_capacity(160);
        field(":method", "POST", &mut head);
        field(":scheme", "http", &mut head);
        field(":path", "/etcdserverpb.KV/Put", &mut head);
        field(":authority", &self.authority, &mut head);
        field("content-type", "application/grpc", &mut head);
        field("te", "trailers", &mut head);
        frame(HEADERS, END_HEADERS, stream, &head, out);
        let mut key = String::new();
        write!(key, "{client}/{append}").expect("writing to a string cannot fail");
        let mut put = Vec::with_capacity(self.message.len() + 32);
        buffer_field(1, key.as_bytes(), &mut put);
        buffer_field(2, self.message.as_bytes(), &mut put);
        let length = u32::try_from(put.len()).expect("a message is small").to_be_bytes();
        let message = [&[0][..], &length, &put].concat();
        frame(DATA, END_STREAM, stream, &message, out);
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let (mut at, mut has_data) = (0, false);
        while let Some(head) = bytes.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            at += 9 + length;
            if bytes.len() < at {
                break;
            }
            match kind {
                DATA => has_data = true,
                // An error consists of trailers only.
                HEADERS if flags & END_STREAM > 0 && has_data => return Ok(Some(at)),
                HEADERS if flags & END_STREAM > 0 => return Err("an error".into()),
                // A stream may be ended for no error once it has been answered.
                RESET if bytes[at - length..at] == [0; 4] => {}
                RESET | GO_AWAY => {
                    return Err(format!("frame {kind} {:?}", &bytes[at - length..at]));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}
