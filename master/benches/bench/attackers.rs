//! The attacks, and the process that makes them: this program in the role `attacker`, so that its
//! CPU time is its own. One thread polls all of its connections.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::load::{poll_all, thread_time};
use crate::post::whole;

/// A connection that drips sends a byte as often as this; a slow reader reads one.
const DRIP: Duration = Duration::from_secs(1);

/// The attack counts from this long after every connection has sent its request: until then the
/// node accepts them. At the latest it counts from [`GATHERING`] on.
const SETTLING: Duration = Duration::from_secs(1);
const GATHERING: Duration = Duration::from_secs(6);

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// What every connection of an attacker does, and what the honest clients do beside it.
#[derive(Debug, Clone)]
pub struct Attack {
    /// A line of the table.
    pub name: &'static str,
    /// Open at the same time, if the node lets them.
    pub connections: usize,
    /// Sent by each of them at once.
    pub first: Vec<u8>,
    /// Then this byte, every second.
    pub drip: Option<u8>,
    /// When a connection is done.
    pub done: Done,
    /// How long after that the next one takes its place; on the same connection if it is still open.
    pub again: Option<Duration>,
    /// The node that is attacked: the master, or a secondary.
    pub at: usize,
    /// The third node does not run, so that nobody gets its acknowledgement.
    pub stopped: bool,
    /// What the shell says before it starts the attacked node.
    pub limit: &'static str,
    /// The nodes' clients need a token. The honest ones always send it.
    pub guarded: bool,
    /// Messages of 100 KiB in the log.
    pub filled: usize,
    /// What the honest clients ask.
    pub honest: String,
    /// It may lose connections, which are counted ten seconds after they were closed: the nodes are
    /// looked at for longer, and close after 2 s what would stay open for a minute.
    pub loses: bool,
}

/// When a connection is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Done {
    /// When the node closes it.
    Closed,
    /// The same, and it reads a byte a second into a small buffer.
    ReadSlowly,
    /// When it was answered.
    Answered,
    /// This long after its request was sent: it closes.
    Gone(Duration),
}

/// An honest request, with a token.
pub fn honest(line: &str, body: &str) -> String {
    let token = "Host: bench\r\nAuthorization: Bearer honest\r\nPrefer: return=minimal\r\n";
    format!("{line} HTTP/1.1\r\n{token}{body}")
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn announced(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n")
}

fn append(w: &str) -> String {
    let body = format!("{{\"msg\":\"{}\"{w}}}", "x".repeat(100));
    honest("POST /messages", &format!("Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// All attacks. `SCALE=0.2` makes them with a fifth of the connections and of the log.
#[rustfmt::skip]
pub fn all() -> Vec<Attack> {
    const MS: Duration = Duration::from_millis(1);
    let scale: f64 = env::var("SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1.0);
    let attack = |name, connections: usize, first: &str| Attack {
        name, connections, first: first.into(), drip: None, done: Done::Closed, again: Some(DRIP),
        at: 0, stopped: false, limit: ":", guarded: false, filled: 0, honest: append(""), loses: false,
    };
    let health = "GET /health HTTP/1.1\r\nHost: bench\r\n\r\n";
    let poll = "GET /messages?from=999999999999&wait=60000 HTTP/1.1\r\nHost: bench\r\n\r\n";
    let seat = honest("GET /messages?from=1&limit=1&wait=1000", "\r\n");
    let chunked = honest("POST /messages", "Transfer-Encoding: chunked\r\n\r\nb\r\n{\"msg\":\"x\"}\r\n0\r\n\r\n");
    let waiting = post("/messages", "{\"msg\":\"x\",\"w\":3,\"wtimeout\":0}");
    let mebibyte = post("/messages", &format!("{{\"msg\":\"{}\"}}", "x".repeat((1 << 20) - 10)));
    let nested = format!("{{\"msg\":\"x\",\"w\":[{}[]]}}", "[],".repeat(349_000));
    let unreadable = "POST /replicate HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n";
    let wrong = |field: &str| format!("GET /messages/1 HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    let (two, gone) = (append(",\"w\":2"), Done::Gone(MS * 100));
    let mut all = vec![
        attack("open and silent", 5000, ""),
        attack("idle, answered once", 2000, health),
        Attack { drip: Some(b'a'), ..attack("slow heads", 2000, "GET / HTTP/1.1\r\nHost: bench\r\nX: ") },
        Attack { drip: Some(b' '), ..attack("slow bodies", 1000, &announced("/messages", 100_000)) },
        Attack { drip: Some(b' '), ..attack("slow bodies, all places", 1100, &announced("/messages", 100_000)) },
        Attack { drip: Some(b' '), at: 1, ..attack("slow bodies, secondary", 1100, &announced("/replicate", 100_000)) },
        Attack { done: Done::Gone(Duration::ZERO), again: AT_ONCE, ..attack("connect and close", 256, "") },
        Attack { limit: "ulimit -n 256", ..attack("256 descriptors", 1000, "") },
        Attack { done: Done::Answered, again: AT_ONCE, ..attack("draw 413", 1200, &announced("/messages", 2_000_000)) },
        Attack { honest: chunked, ..attack("chunked POSTs beside idle", 4000, health) },
        Attack { done: gone, again: Some(MS * 900), stopped: true, honest: two.clone(), ..attack("wait without limit, gone", 1030, &waiting) },
        Attack { done: gone, again: Some(MS * 900), honest: seat, ..attack("abandoned long polls", 100, poll) },
        Attack { done: Done::ReadSlowly, filled: 1000, ..attack("slow readers", 1100, "GET /messages HTTP/1.1\r\nHost: bench\r\n\r\n") },
        attack("bodies of 1 MiB", 600, &mebibyte[..mebibyte.len() - 1]),
        Attack { loses: true, ..attack("announce 2 GiB", 260, &announced("/messages", 1 << 31)) },
        Attack { limit: "ulimit -v 1500000", ..attack("announce 1 GiB, little memory", 20, &announced("/messages", 1 << 30)) },
        Attack { loses: true, ..attack("HTTP/2.0", 270, "GET / HTTP/2.0\r\nHost: bench\r\n\r\n") },
        Attack { loses: true, ..attack("unreadable chunks", 270, &format!("{unreadable}{health}{health}")) },
        Attack { loses: true, stopped: true, honest: two, ..attack("pipelined behind one that waits", 270, &format!("{waiting}{}", health.repeat(100))) },
        Attack { done: Done::Answered, ..attack("nested w of 1 MiB", 50, &post("/messages", &nested)) },
        Attack { done: Done::Answered, again: Some(MS * 30), ..attack("wrong Host", 200, &wrong("Host: evil.example.com")) },
        Attack { done: Done::Answered, again: Some(MS * 30), guarded: true, ..attack("wrong token", 200, &wrong("Host: bench\r\nAuthorization: Bearer evil")) },
    ];
    for attack in &mut all {
        attack.connections = ((attack.connections as f64 * scale) as usize).max(1);
        attack.filled = (attack.filled as f64 * scale) as usize;
    }
    all
}

/// How often what has happened.
type Tally = BTreeMap<String, usize>;

fn count(tally: &mut Tally, what: impl ToString) {
    *tally.entry(what.to_string()).or_default() += 1;
}

/// Plays the attacker: `of` is the number of the attack, the address, and for how many milliseconds.
/// Says `attacking` when it has gathered, and at its end what has happened.
pub fn play(of: &str) {
    let words: Vec<&str> = of.split(' ').collect();
    let attack = all().remove(words[0].parse().expect("the number of an attack"));
    let address: SocketAddr = words[1].parse().expect("an address");
    let time = Duration::from_millis(words[2].parse().expect("milliseconds"));
    let start = Instant::now();
    let mut crowd: Vec<Client> = (0..attack.connections).map(|_| Client::new(start)).collect();
    let (mut tally, mut most_open) = (Tally::new(), 0);
    let (mut settled, mut attacking) = (start + GATHERING, None);
    let (since, busy) = loop {
        let now = Instant::now();
        if tally.get("sent").is_none_or(|sent| *sent < attack.connections) {
            settled = (now + SETTLING).min(start + GATHERING);
        }
        match attacking {
            None if settled <= now => {
                println!("attacking");
                attacking = Some((now, thread_time()));
            }
            Some((since, busy)) if now >= since + time => break (since, thread_time() - busy),
            _ => {}
        }
        for client in crowd.iter_mut().filter(|client| client.due.is_some_and(|due| due <= now)) {
            client.begin(&attack, address, &mut tally);
        }
        let mut polled: Vec<_> = crowd.iter().map(|client| client.wish(&attack)).collect();
        poll_all(&mut polled, if attack.again == AT_ONCE { 1 } else { 10 });
        for (client, polled) in crowd.iter_mut().zip(&polled) {
            if let Err(why) = client.work(&attack, polled.revents, &mut tally) {
                count(&mut tally, why);
                client.leave(&attack);
            }
        }
        most_open = most_open.max(crowd.iter().filter(|client| client.connected).count());
    };
    let busy = busy.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
    println!("{most_open} connections at once, {tally:?}, busy {busy:.0} %");
}

/// One connection after another.
struct Client {
    stream: Option<TcpStream>,
    connected: bool,
    /// When its next request begins; `None` while it is at one, and for never.
    due: Option<Instant>,
    sent: usize,
    /// When the request had been sent, or its last byte was dripped or read.
    since: Instant,
    read: Vec<u8>,
}

impl Client {
    fn new(due: Instant) -> Client {
        let (stream, read) = (None, Vec::new());
        Client { stream, connected: false, due: Some(due), sent: 0, since: due, read }
    }

    fn begin(&mut self, attack: &Attack, address: SocketAddr, tally: &mut Tally) {
        (self.sent, self.due) = (0, None);
        self.read.clear();
        if self.stream.is_none() {
            match connect(address, attack.done == Done::ReadSlowly) {
                Ok(stream) => self.stream = Some(stream),
                Err(why) => {
                    count(tally, why);
                    self.leave(attack);
                }
            }
        }
    }

    fn wish(&self, attack: &Attack) -> libc::pollfd {
        let unsent = self.due.is_none() && (!self.connected || self.sent < attack.first.len());
        let reads = if attack.done == Done::ReadSlowly { 0 } else { libc::POLLIN };
        let events = reads | if unsent { libc::POLLOUT } else { 0 };
        let fd = self.stream.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        libc::pollfd { fd, events, revents: 0 }
    }

    /// Does what can be done, and what the time has come for. An error ends the connection.
    fn work(&mut self, attack: &Attack, revents: i16, tally: &mut Tally) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let now = Instant::now();
        if revents & libc::POLLOUT != 0 {
            self.connected = true;
            if self.sent < attack.first.len() {
                self.sent += moved(stream.write(&attack.first[self.sent..]))?;
            }
            if self.sent == attack.first.len() {
                count(tally, "sent");
                self.since = now;
            }
        }
        if revents & (libc::POLLIN | libc::POLLERR | libc::POLLHUP) != 0 {
            let mut piece = [0; 8192];
            let count_read = moved(stream.read(&mut piece))?;
            self.read.extend_from_slice(&piece[..count_read]);
            while let Some((head, length)) = whole(&self.read)
                && self.read.len() >= length
            {
                count(tally, head.get(9..12).unwrap_or(head));
                let closing = head.to_ascii_lowercase().contains("connection: close");
                self.read.drain(..length);
                if attack.done == Done::Answered && closing {
                    return Err(io::Error::other("answered and closed"));
                } else if attack.done == Done::Answered {
                    self.due = attack.again.map(|again| now + again);
                }
            }
        }
        let waited = now.saturating_duration_since(self.since);
        let is_at_work = self.connected && self.sent == attack.first.len() && self.due.is_none();
        match (attack.done, attack.drip) {
            _ if !is_at_work => {}
            (Done::Gone(after), _) if waited >= after => return Err(io::Error::other("gone")),
            (Done::ReadSlowly, _) if waited >= DRIP => {
                self.since = now;
                moved(stream.read(&mut [0]))?;
            }
            (_, Some(byte)) if waited >= DRIP => {
                self.since = now;
                moved(stream.write(&[byte]))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self, attack: &Attack) {
        (self.stream, self.connected) = (None, false);
        self.due = attack.again.map(|again| Instant::now() + again);
    }
}

/// How many bytes a read or a write has moved; none, if it would have to wait.
fn moved(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::Error::other("closed")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// A connection that is being made.
fn connect(address: SocketAddr, small: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if small {
        socket.set_recv_buffer_size(4096)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}
