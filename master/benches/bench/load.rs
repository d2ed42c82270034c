//! Drives a server with a number of connections, each of which sends its next request when the
//! last one was answered.
//!
//! One thread serves all connections: client threads would compete with the nodes for the cores,
//! and be woken in an order of their own. What it costs is printed beside every figure
//! ([`Load::client_busy`]): a client that is busy all the time would have measured itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What is sent over a connection, and how an answer is told from half of one.
pub trait Protocol {
    /// Called once for each connection, before anything is measured. It may block.
    ///
    /// # Errors
    /// When the server does not play along.
    fn open(&self, _stream: &mut TcpStream, _client: usize) -> std::io::Result<()> {
        Ok(())
    }

    /// Appends the next request of this client to `out`.
    fn request(&self, client: usize, out: &mut Vec<u8>);

    /// How many of these bytes are the answer; `None` as long as it is not whole.
    ///
    /// # Errors
    /// When it is another one than that everything went well.
    fn answer(&self, bytes: &[u8]) -> Result<Option<usize>, String>;
}

/// What came of it.
#[derive(Debug)]
pub struct Load {
    /// Answers while it was measured.
    pub count: usize,
    /// For how long it was measured.
    pub time: Duration,
    /// How long each answer took, in microseconds, in ascending order.
    pub latencies: Vec<u32>,
    /// The share of that time in which this thread was using a core.
    pub client_busy: f64,
}

impl Load {
    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }

    /// The latency in milliseconds that this share of the answers stayed below.
    pub fn percentile(&self, share: f64) -> f64 {
        let index = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len() - 1);
        f64::from(self.latencies[index]) / 1000.0
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After a warm-up that does not count, and this time.
    Time(Duration),
    /// After this many answers.
    Count(usize),
}

/// Not measured: connections are made, threads started, buffers grown.
const WARM_UP: Duration = Duration::from_millis(400);

/// Nothing that is measured here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

struct Client {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    read: Vec<u8>,
    since: Instant,
}

/// Drives the server at this address; `begun` is called when the measurement begins.
///
/// # Panics
/// When an answer is not a good one, or none comes.
pub fn drive(
    address: SocketAddr,
    clients: usize,
    protocol: &dyn Protocol,
    until: Until,
    begun: &mut dyn FnMut(),
) -> Load {
    let connect = |number| Client::connect(address, number, protocol);
    let mut all: Vec<Client> = (0..clients).map(connect).collect();
    let (warm_up, time, most) = match until {
        Until::Time(time) => (WARM_UP, time, usize::MAX),
        Until::Count(most) => (Duration::ZERO, PATIENCE * 10, most),
    };
    let start = Instant::now();
    let mut measuring: Option<(Instant, Duration)> = None;
    let (mut latencies, mut answered) = (Vec::with_capacity(1 << 16), 0);
    for (number, client) in all.iter_mut().enumerate() {
        client.send(number, protocol);
    }
    let (ended, busy) = loop {
        let now = Instant::now();
        match measuring {
            None if now >= start + warm_up => {
                begun();
                measuring = Some((Instant::now(), thread_time()));
            }
            Some((since, busy)) if now >= since + time || answered >= most => {
                break (now - since, thread_time() - busy);
            }
            _ => {}
        }
        let polled = poll(&all);
        for (number, client) in all.iter_mut().enumerate() {
            if polled[number].revents == 0 {
                assert!(client.since.elapsed() < PATIENCE, "no answer within {PATIENCE:?}");
                continue;
            }
            client.flush();
            if client.receive(protocol) {
                answered += 1;
                if measuring.is_some() {
                    latencies.push(micros(client.since.elapsed()));
                }
                if answered < most {
                    client.send(number, protocol);
                }
            }
        }
    };
    latencies.sort_unstable();
    let client_busy = busy.as_secs_f64() / ended.as_secs_f64();
    Load { count: latencies.len(), time: ended, latencies, client_busy }
}

impl Client {
    fn connect(address: SocketAddr, number: usize, protocol: &dyn Protocol) -> Client {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a connected socket takes options");
        protocol.open(&mut stream, number).expect("the server plays along");
        stream.set_nonblocking(true).expect("a connected socket takes options");
        Client { stream, out: Vec::new(), sent: 0, read: Vec::new(), since: Instant::now() }
    }

    fn send(&mut self, number: usize, protocol: &dyn Protocol) {
        self.out.clear();
        protocol.request(number, &mut self.out);
        (self.sent, self.since) = (0, Instant::now());
        self.flush();
    }

    fn flush(&mut self) {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server does not read: {error}"),
            }
        }
    }

    /// Reads what there is; `true` if that makes an answer whole.
    fn receive(&mut self, protocol: &dyn Protocol) -> bool {
        let mut piece = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(count) => self.read.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server does not answer: {error}"),
            }
        }
        match protocol.answer(&self.read) {
            Ok(Some(length)) => {
                self.read.drain(..length);
                true
            }
            Ok(None) => false,
            Err(answer) => panic!("the server answered: {answer}"),
        }
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Waits until something can be read, or written where something is left to write.
fn poll(clients: &[Client]) -> Vec<libc::pollfd> {
    let wish = |client: &Client| {
        let unsent = client.sent < client.out.len();
        let events = if unsent { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        libc::pollfd { fd: client.stream.as_raw_fd(), events, revents: 0 }
    };
    let mut polled: Vec<_> = clients.iter().map(wish).collect();
    poll_all(&mut polled, 100);
    polled
}

/// Waits until one of these is ready, or so many milliseconds.
#[allow(unsafe_code)]
pub fn poll_all(polled: &mut [libc::pollfd], timeout_ms: i32) {
    let count = libc::nfds_t::try_from(polled.len()).expect("a number of connections");
    // SAFETY: the pointer and the count are those of a slice that lives until the call is over.
    unsafe { libc::poll(polled.as_mut_ptr(), count, timeout_ms) };
}

/// How long this thread has been using a core.
#[allow(unsafe_code)]
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
