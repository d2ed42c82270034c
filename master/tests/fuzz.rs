//! Hostile clients made by a grammar, and a hostile secondary, against real nodes.
//!
//! `make fuzz SECONDS=600` lets them go on for longer, `SEED=17` makes the same requests again. The
//! threads of the machine are not part of the seed.

mod support;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use common::locked::locked;
use serde_json::json;
use support::cluster::Cluster;
use support::fake::{Fake, Received, respond};
use support::grammar::{self, Session};
use support::history::Dice;
use support::http::{Connection, TIMEOUT};
use support::node::Node;
use support::{SOON, at_once};

const CLIENTS: usize = 4;

/// So many sessions are between two honest requests of a client.
const HONEST_EVERY: u64 = 20;

/// An answer to an odd request is not waited for any longer.
const PATIENCE: Duration = Duration::from_millis(60);

/// The memory that a master may take at most beside a hostile secondary, in kilobytes.
const MOST_KB: u64 = 96 * 1024;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty());
    text.map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn seed() -> u64 {
    let seed = number("SEED").unwrap_or(1);
    println!("SEED={seed}");
    seed
}

/// When a test that begins now is over.
fn end() -> Instant {
    Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(4))
}

/// What became of the messages that were posted.
#[derive(Debug, Default)]
struct Told {
    /// By its place, what was acknowledged there.
    acknowledged: HashMap<usize, String>,
    /// Messages that may have been appended: no answer came, or one that does not say.
    open: Vec<String>,
}

/// Plays a session; gives the statuses of the answers that came.
fn play(session: &Session, addr: SocketAddr, told: &Mutex<Told>) -> Result<Vec<u16>, String> {
    let patience = if session.is_sound { TIMEOUT } else { PATIENCE };
    let mut connection = Connection::open_for(addr, TIMEOUT).map_err(|e| e.to_string())?;
    connection.wait_at_most(patience);
    let sent = session.segments.iter().try_for_each(|segment| connection.write(segment));
    let ended = if session.half_closes { connection.half_close() } else { Ok(()) };
    // A node may refuse, and close, before it has read everything.
    if session.is_sound {
        sent.and(ended).map_err(|error| format!("not sent: {error}"))?;
    }
    let mut statuses = Vec::new();
    for request in &session.requests {
        let answer = match connection.read(request.is_head) {
            Ok(answer) => answer,
            Err(e) if matches!(e.kind(), ErrorKind::Other | ErrorKind::InvalidData) => {
                return Err(format!("not an HTTP answer: {e}"));
            }
            Err(error) if session.is_sound => return Err(format!("no answer: {error}")),
            Err(_) => break,
        };
        statuses.push(answer.status);
        let is_odd_post = session.is_sound && request.message.is_some() && answer.status != 201;
        if answer.status == 500 || is_odd_post {
            return Err(format!("answered {} {}", answer.status, answer.text()));
        }
        if answer.status == 201 {
            let message = request.message.clone().ok_or("acknowledged what was no POST")?;
            let earlier = locked(told).acknowledged.insert(answer.seq(), message);
            if let Some(earlier) = earlier {
                return Err(format!("{earlier} was acknowledged at {} too", answer.seq()));
            }
        }
    }
    let unsure = session.requests.iter().enumerate().filter(|(number, _)| {
        statuses.get(*number).is_none_or(|status| matches!(status, 502 | 503))
    });
    let open = unsure.filter_map(|(_, request)| request.message.clone());
    locked(told).open.extend(open);
    Ok(statuses)
}

impl Told {
    /// Every acknowledged message is where its answer said, and every other entry was posted by a
    /// request that got no answer.
    fn check(mut self, log: &[String]) {
        for (place, message) in (1..).zip(log) {
            let acknowledged = self.acknowledged.remove(&place);
            if acknowledged.as_ref() != Some(message) {
                assert_eq!(acknowledged, None, "{message} is at {place}");
                let open = self.open.iter().position(|open| open == message);
                let open = open.unwrap_or_else(|| panic!("nobody posted {message}, at {place}"));
                self.open.swap_remove(open);
            }
        }
        assert!(self.acknowledged.is_empty(), "lost {:?}", self.acknowledged);
    }
}

fn assert_sound(node: &mut Node) {
    assert!(!node.has_ended(), "a node has ended");
    let lines = node.printed();
    let panicked = lines.iter().find(|line| line.contains("panicked"));
    assert_eq!(panicked, None);
}

#[test]
fn no_request_breaks_a_node_or_its_log() {
    // Goal: whatever clients send, however it is framed and cut: the nodes live, answer HTTP and no
    // 500, the log holds what was acknowledged and nothing that nobody posted, and honest clients
    // are answered.
    let seed = seed();
    let token = [("CLUSTER_TOKEN", "of-nodes")];
    let mut cluster = Cluster::start(&[&token], &token);
    // Whoever reaches it may drive it.
    let mut alone = Node::secondary(&[("ACCEPT_ORIGINAL", "1")]);
    cluster.wait_until_ready();
    let (told, sessions, answers) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
    let end = end();
    let addrs = [cluster.secondaries[0].addr(), alone.addr()];
    at_once(CLIENTS, |_| {
        while Instant::now() < end {
            let number = sessions.fetch_add(1, SeqCst);
            let mut session = Session::new(seed, number);
            let addr = addrs.get(number as usize % 8).copied().unwrap_or(cluster.master.addr());
            if addr != cluster.master.addr() {
                session.requests.iter_mut().for_each(|request| request.message = None);
            }
            let statuses = play(&session, addr, &told).unwrap_or_else(|wrong| {
                let sent = session.segments.iter().map(|segment| segment.escape_ascii());
                let sent = sent.map(|bytes| bytes.to_string()).collect::<Vec<_>>();
                panic!("SEED={seed}, session {number}: {wrong}\n{}", sent.join("\n"))
            });
            answers.fetch_add(statuses.len() as u64, SeqCst);
            if number.is_multiple_of(HONEST_EVERY) {
                let message = format!("honest-{number}");
                let answer = cluster.master.connect().post_message_briefly(&message);
                assert_eq!(answer.status, 201, "{}", answer.text());
                assert!(answer.took < SOON, "answered after {:?}", answer.took);
                locked(&told).acknowledged.insert(answer.seq(), message);
                assert!(cluster.nodes().chain([&alone]).all(|n| n.get("/health").status == 200));
            }
        }
    });
    let (log, _) = cluster.wait_until_equal(SOON);
    let count = log.len();
    told.into_inner().expect("no client has failed").check(&log);
    let Cluster { master, secondaries } = &mut cluster;
    secondaries.iter_mut().chain([master, &mut alone]).for_each(assert_sound);
    let (sessions, answers) = (sessions.into_inner(), answers.into_inner());
    println!("{sessions} sessions, {answers} answers, {count} entries");
    assert!(count as u64 > sessions / 10, "too little was appended to mean anything");
}

/// Answers whatever no secondary would.
fn rubbish(dice: &mut Dice, call: &Received, stream: &mut TcpStream) -> io::Result<()> {
    let head = &b"HTTP/1.1 200 OK\r\n"[..];
    let endless = |stream: &mut TcpStream, piece: &[u8]| -> io::Result<()> {
        let piece = piece.repeat(64 * 1024 / piece.len());
        // The master hangs up at the latest when its timeout is over.
        loop {
            stream.write_all(&piece)?;
        }
    };
    stream.set_write_timeout(Some(SOON))?;
    // A position that could be one is told in the middle of a reign only.
    let is_reigned = call.is_replicate() || call.what == "POST /heartbeat";
    let kind = dice.below(if is_reigned { 14 } else { 12 });
    match kind {
        0 => stream.write_all(&dice.below(u64::MAX >> 33).to_le_bytes().repeat(99))?,
        1 => endless(stream, b"HTTP/1.1 100 Continue\r\n\r\n")?,
        2 => {
            stream.write_all(head)?;
            endless(stream, b"X: y\r\n")?;
        }
        3 | 4 => {
            stream.write_all(&[head, b"\r\n{\"status\":\"ok\",\"x\":\""].concat())?;
            endless(stream, if kind == 3 { b"[" } else { b"\",\"y\":\"z" })?;
        }
        5 => {
            stream.write_all(&[head, b"Transfer-Encoding: chunked\r\n\r\n"].concat())?;
            endless(stream, b"1\r\n[\r\n")?;
        }
        6 => respond(stream, 200, &"[".repeat(64 << 20))?,
        7 => {
            stream.write_all(&[head, b"Content-Length: 900\r\n\r\n{\"status\""].concat())?;
            return Err(ErrorKind::ConnectionReset.into());
        }
        8 => stream.write_all(
            &[head, b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}"].concat(),
        )?,
        9 => stream.write_all(&[head, b"Content-Length: -1\r\n\r\n{}"].concat())?,
        10 => stream.write_all(
            &[head, b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}"].concat(),
        )?,
        11 => stream.write_all(b"HTTP/1.1 301 \r\nLocation: /\r\nContent-Length: 0\r\n\r\n")?,
        kind => {
            // Two of three times a greater place than there is, in no epoch that a clock reaches.
            let great = [1 << 62, u64::MAX, 7][dice.below(3) as usize];
            let standing = json!({
                "status": "ok", "code": "gap", "error": "", "idx": great, "seq": great,
                "last_seq": great, "last_epoch": 1, "epoch": great | 1 << 61, "instance": "x",
                "committed_seq": great, "count": great, "delay_ms": 0,
                "master": "0000000000000000000000000000000f",
            });
            let mut body = standing.to_string().into_bytes();
            if kind == 12 {
                grammar::change(dice, &mut body);
            }
            let status = if call.is_replicate() && dice.one_in(2) { 409 } else { 200 };
            respond(stream, status, &String::from_utf8_lossy(&body))?;
        }
    }
    Ok(())
}

/// The most memory that a process has taken, in kilobytes.
fn peak_memory(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    kilobytes.and_then(|number| number.parse().ok()).expect("Linux says it")
}

#[test]
fn a_hostile_secondary_stops_no_majority() {
    // Goal: a secondary that answers rubbish, without end, 64 MiB, half, in wrong frames, or places
    // and epochs that cannot be: the master lives, in bounded memory, and goes on with the others.
    let seed = seed();
    let calls = AtomicU64::new(0);
    let hostile = Fake::start(move |call, stream| {
        let number = calls.fetch_add(1, SeqCst);
        rubbish(&mut Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number)), call, stream)
    });
    let honest = Node::secondary(&[]);
    let settings = [("HEARTBEAT_MS", "50"), ("ACK_TIMEOUT_MS", "2000")];
    let mut master = Node::master(&[&hostile.url(), &honest.url()], &settings);
    master.wait_until_ready();
    let (mut sent, end) = (Vec::new(), end());
    while Instant::now() < end {
        sent.push(format!("m{}", sent.len()));
        let answer = master.post_to("majority", &sent[sent.len() - 1], SOON);
        assert_eq!(answer.status, 201, "{}", answer.text());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(master.log(), sent);
    assert_sound(&mut master);
    let (peak, calls) = (peak_memory(&master), hostile.received().len());
    println!("{} appends, {calls} hostile answers, {peak} kB at most", sent.len());
    assert!(calls > 10, "only {calls} calls were answered");
    assert!(peak < MOST_KB, "the master took {peak} kB");
}
