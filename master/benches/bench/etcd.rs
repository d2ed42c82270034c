//! etcd, over as much of HTTP/2 and gRPC as a `Put` takes.

use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use common::client::Client;
use serde_json::Value;

use crate::load::Protocol;
use crate::nodes::{Cluster, Node, free_addresses, fresh_directory};
use crate::peers::{Kept, SOON, wait_for_one};

/// A `Put` over HTTP/2, which is as much of gRPC as it takes.
struct Etcd {
    authority: String,
    message: String,
    /// How many appends there were, over all connections: streams may leave numbers out.
    appends: AtomicU32,
}

/// Three members, the leader first.
pub fn etcd(kept: Kept, message_bytes: usize) -> Cluster {
    let directory = fresh_directory("etcd");
    let mut nodes: Vec<Node> = (0..3).map(members(kept, &directory)).collect();
    let leader = wait_for_one("led", &nodes, leads);
    nodes.swap(0, leader);
    let protocol = Box::new(Etcd {
        authority: nodes[0].address.to_string(),
        message: "x".repeat(message_bytes),
        appends: AtomicU32::new(0),
    });
    Cluster { nodes, protocol, directory: Some(directory) }
}

/// Starts the member of this number, of three, or starts it again.
pub fn members(kept: Kept, directory: &Path) -> impl Fn(usize) -> Node + use<> {
    let directory = directory.to_path_buf();
    let (clients, peers) = (free_addresses::<3>(), free_addresses::<3>());
    let members = [0, 1, 2].map(|number| format!("n{number}=http://{}", peers[number])).join(",");
    move |number| {
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{number}"), "--initial-cluster", &members]);
        command.arg("--data-dir").arg(directory.join(number.to_string()));
        for (urls, address) in [("client", clients[number]), ("peer", peers[number])] {
            let url = format!("http://{address}");
            command.args([format!("--listen-{urls}-urls"), url.clone()]);
            let advertise = if urls == "peer" { "--initial-advertise" } else { "--advertise" };
            command.args([format!("{advertise}-{urls}-urls"), url]);
        }
        if kept == Kept::Memory {
            command.arg("--unsafe-no-fsync");
        }
        // They answer only when a majority of them is there: the first does not wait for that.
        Node::start_later(&mut command, clients[number])
    }
}

/// Whether this member leads the others.
pub fn leads(member: &Node) -> bool {
    let client = Client::new(&member.url(), SOON);
    client.post("/v3/maintenance/status", b"{}").is_ok_and(|answer| {
        let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let id = &status["header"]["member_id"];
        id.is_string() && *id == status["leader"]
    })
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
    fn open(&self, stream: &mut TcpStream, _: usize) -> io::Result<()> {
        let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // So much may be sent to us before we must say that we have read it: as much as can be.
        let window = 0x7fff_ffff_u32;
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &settings, &mut greeting);
        frame(WINDOW_UPDATE, 0, 0, &(window - 65535).to_be_bytes(), &mut greeting);
        frame(SETTINGS, ACK, 0, &[], &mut greeting);
        stream.write_all(&greeting)
    }

    fn request(&self, _: usize, out: &mut Vec<u8>) {
        let append = self.appends.fetch_add(1, Relaxed);
        let stream = 2 * append + 1;
        let mut head = Vec::with_capacity(160);
        field(":method", "POST", &mut head);
        field(":scheme", "http", &mut head);
        field(":path", "/etcdserverpb.KV/Put", &mut head);
        field(":authority", &self.authority, &mut head);
        field("content-type", "application/grpc", &mut head);
        field("te", "trailers", &mut head);
        frame(HEADERS, END_HEADERS, stream, &head, out);
        let mut put = Vec::with_capacity(self.message.len() + 32);
        buffer_field(1, append.to_string().as_bytes(), &mut put);
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
