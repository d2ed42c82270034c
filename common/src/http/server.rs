//! The only user of tiny_http: from its requests to ours, and back to the wire.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::SegQueue;
use log::{debug, error, warn};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::connections::{Arrival, Connections, Phase};
use super::crew::{Crew, Work};
use super::nudge::{Nudger, Pulse};
use super::{Handler, Limits, Request, Response, SWEEP_INTERVAL, door, max_connections};

/// Connections that the system completes before anybody accepts them.
const BACKLOG: i32 = 1024;

/// An unread body of more than this is not given back to tiny_http, which would allocate, zeroed,
/// as many bytes as were announced, and abort the process when it cannot. Up to this size the
/// allocation succeeds and is never touched, for the connection has been closed by then.
pub const MAX_DISCARD_BYTES: usize = 1 << 30;

/// Connections that tiny_http may lose before the node stops in good order to be restarted.
pub const MAX_STUCK: usize = 256;

/// A closed connection whose descriptor is still held after this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Bodies up to this size are in memory when tiny_http hands out the request.
const PREREAD_BYTES: usize = 1024;

/// Threads beyond `max_in_flight`, which answer 503 when all others are busy.
const REFUSERS: usize = 2;

/// How long, and for how many bytes, a refused client may go on sending before it is cut off;
/// cut off at once, it would lose the answer.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 16 << 20;

/// A bound address, not yet served.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// When the host does not resolve or the address cannot be bound.
    pub fn bind(host: &str, port: u16) -> io::Result<Listener> {
        let mut last_error = io::Error::other("the host has no address");
        for address in (host, port).to_socket_addrs()? {
            match Listener::bind_address(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    fn bind_address(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it: without it an answer of several segments waits 40 ms.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener(socket.into()))
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system does not say, which it does for every bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// How a stop ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were still in progress when the time was up.
    pub unfinished: usize,
}

/// Figures of a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Requests in progress.
    pub in_flight: usize,
    /// Connections that tiny_http lost for good.
    pub stuck: usize,
}

/// A server that is answering requests.
pub struct Server {
    core: Arc<Core>,
    exhausted: Receiver<()>,
}

/// What all threads of one server share.
struct Core {
    handler: Box<dyn Handler>,
    limits: Limits,
    listener: TcpListener,
    address: SocketAddr,
    connections: Mutex<Connections<tiny_http::Request>>,
    in_flight: InFlight,
    /// New requests are refused.
    stopping: AtomicBool,
    /// Threads end.
    over: AtomicBool,
    accept_failed: AtomicBool,
    /// Connections that were closed and that tiny_http still holds, and since when.
    closed: Mutex<Vec<(door::Closed, Instant)>>,
    stuck: AtomicUsize,
    new_connections: Sender<()>,
    exhausted: Sender<()>,
}

/// One tiny_http server and its threads. A second one takes over when the first no longer
/// accepts; the first goes on serving the connections that it has.
struct Reception {
    core: Arc<Core>,
    http: tiny_http::Server,
    /// Requests whose turn has come after one of the same connection.
    ready: SegQueue<(tiny_http::Request, SocketAddr)>,
}

impl Server {
    /// Starts to answer requests.
    ///
    /// # Errors
    /// When threads or descriptors cannot be had.
    pub fn start<H: Handler>(listener: Listener, limits: Limits, handler: H) -> io::Result<Server> {
        door::raise_descriptor_limit();
        // A peer that does not read its answer holds a thread for this long at most.
        SockRef::from(&listener.0).set_write_timeout(Some(limits.timeout))?;
        let (new_connections, heard_of) = bounded(1024);
        let (exhausted, is_exhausted) = bounded(1);
        let core = Arc::new(Core {
            handler: Box::new(handler),
            limits,
            address: listener.local_addr()?,
            listener: listener.0,
            connections: Mutex::new(Connections::new()),
            in_flight: InFlight::default(),
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            accept_failed: AtomicBool::new(false),
            closed: Mutex::new(Vec::new()),
            stuck: AtomicUsize::new(0),
            new_connections,
            exhausted,
        });
        core.open_reception()?;
        let nudging = Arc::clone(&core);
        thread::Builder::new()
            .name("http-nudge".into())
            .spawn(move || nudging.keep_accepting(&heard_of))?;
        let sweeping = Arc::clone(&core);
        thread::Builder::new().name("http-sweep".into()).spawn(move || sweeping.keep_sweeping())?;
        Ok(Server { core, exhausted: is_exhausted })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.core.address
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        Stats { in_flight: self.core.in_flight.count(), stuck: self.core.stuck.load(SeqCst) }
    }

    /// Delivers one message when the server had better be stopped and the process restarted.
    pub fn exhausted(&self) -> &Receiver<()> {
        &self.exhausted
    }

    /// Stops accepting, refuses new requests with 503, and waits for those in progress.
    pub fn stop(&self, timeout: Duration) -> Drained {
        self.core.stopping.store(true, SeqCst);
        // Ends a blocked accept at once; from now on connections are refused by the system.
        let _ = SockRef::from(&self.core.listener).shutdown(Shutdown::Both);
        let unfinished = self.core.in_flight.wait_until_none(timeout);
        self.core.over.store(true, SeqCst);
        Drained { unfinished }
    }
}

impl Core {
    fn connections(&self) -> MutexGuard<'_, Connections<tiny_http::Request>> {
        // Its methods leave it valid at every step, so a panic in between has spoiled nothing.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_reception(self: &Arc<Self>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        // It panics when it cannot start its threads.
        let started = catch_unwind(|| tiny_http::Server::from_listener(listener, None));
        let http = started
            .map_err(|_| io::Error::other("no thread could be started"))?
            .map_err(io::Error::other)?;
        let reception = Reception { core: Arc::clone(self), http, ready: SegQueue::new() };
        let most = self.limits.max_in_flight.saturating_add(REFUSERS);
        let crew = Crew::start(Arc::new(reception), most);
        if crew.threads() == 0 {
            Err(io::Error::other("no thread could be started"))
        } else {
            Ok(())
        }
    }

    fn keep_accepting(self: &Arc<Self>, new_connections: &Receiver<()>) {
        let mut nudger = Nudger::new(self.address);
        while nudger.wait(new_connections).is_some() && !self.stopping.load(SeqCst) {
            let lost = nudger.nudge() == Pulse::Lost || self.accept_failed.load(SeqCst);
            if !lost || self.stopping.load(SeqCst) || !has_spare_descriptors() {
                continue;
            }
            self.shed_backlog();
            match self.open_reception() {
                Ok(()) => {
                    self.accept_failed.store(false, SeqCst);
                    nudger.start_over();
                    warn!("started to accept again addr={}", self.address);
                }
                Err(error) => debug!("failed to accept again error={error}"),
            }
        }
    }

    /// Refuses everybody who came while nobody accepted: they would come in all at once, and use up
    /// the descriptors again.
    fn shed_backlog(&self) {
        if self.listener.set_nonblocking(true).is_err() {
            return;
        }
        let refusal = Response::error(503, "Too many connections").with_header("Retry-After", "1");
        for _ in 0..4 * BACKLOG {
            let Ok((mut stream, _)) = self.listener.accept() else { break };
            // Most of them have gone; the others lose nothing but this answer.
            let _ = stream.set_nonblocking(true);
            let _ = refusal.write_to(&mut stream, false, Some("close"));
        }
        let _ = self.listener.set_nonblocking(false);
    }

    fn keep_sweeping(&self) {
        // Kept so that a sweep can look at the descriptors when all others are used up.
        let mut spare = spare_descriptors();
        while !self.over.load(SeqCst) {
            thread::sleep(SWEEP_INTERVAL);
            spare.clear();
            self.sweep();
            spare = spare_descriptors();
            let stuck = self.count_stuck();
            if stuck > self.stuck.swap(stuck, SeqCst) {
                warn!("lost connections for good stuck={stuck} most={MAX_STUCK}");
            }
            if stuck > MAX_STUCK && self.exhausted.try_send(()).is_ok() {
                error!("lost too many connections stuck={stuck} most={MAX_STUCK}");
            }
        }
    }

    fn sweep(&self) {
        let marks = self.connections().marks();
        let Ok(open) = door::connections_to(self.address.port()) else { return };
        let seen: Vec<_> = open.iter().map(|found| found.seen).collect();
        let (now, timeout) = (Instant::now(), self.limits.timeout);
        let (overdue, silent) = {
            let mut connections = self.connections();
            let overdue = connections.sweep(&marks, &seen, now, timeout, max_connections());
            (overdue, connections.silent())
        };
        // Each may be waiting for a thread; a full channel holds nudges enough.
        (0..silent).for_each(|_| _ = self.new_connections.try_send(()));
        for found in open.iter().filter(|found| overdue.contains(&found.seen.peer)) {
            debug!("closed a connection peer={}", found.seen.peer);
            self.close(found);
        }
    }

    /// Closes a connection, and remembers to look whether tiny_http lets go of it.
    fn close(&self, found: &door::Found) {
        let Some(one) = found.close() else { return };
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.iter().all(|(other, _)| *other != one) {
            closed.push((one, Instant::now()));
        }
    }

    fn count_stuck(&self) -> usize {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.retain(|(closed, _)| closed.is_held());
        closed.iter().filter(|(_, at)| at.elapsed() > STUCK_AFTER).count()
    }

    /// Answers past tiny_http, ends the connection, and gets rid of the request, whatever it
    /// announced.
    fn refuse(&self, request: tiny_http::Request, peer: SocketAddr, answer: Option<&Response>) {
        let waiting = {
            let mut connections = self.connections();
            let waiting = connections.distrust(peer, Instant::now());
            connections.enter(peer, Phase::Idle, Instant::now());
            waiting
        };
        if let Some(found) = door::find(peer, self.address.port()) {
            if let Some((answer, mut stream)) = answer.zip(found.handle()) {
                // The peer may be gone; there is nobody else to tell.
                let _ = answer.write_to(&mut stream, false, Some("close"));
                linger(&mut stream);
            }
            self.close(&found);
        }
        dispose(request);
        waiting.into_iter().for_each(dispose);
    }
}

/// Lets go of a request of a closed connection, without an answer.
fn dispose(request: tiny_http::Request) {
    if request.body_length().is_some_and(|announced| announced > MAX_DISCARD_BYTES) {
        // Dropping would abort the process. What is lost is counted by the sweeps.
        mem::forget(request);
    } else {
        // Dropped whole it would wait for its turn to answer an empty 500.
        drop(request.into_writer());
    }
}

/// Reads on for a moment, so that the answer arrives before the end does.
fn linger(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(LINGER));
    let (start, mut read, mut buffer) = (Instant::now(), 0, [0; 16 * 1024]);
    while read < LINGER_BYTES && start.elapsed() < 4 * LINGER {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => read += count,
        }
    }
}

fn spare_descriptors() -> VecDeque<std::fs::File> {
    (0..2).filter_map(|_| std::fs::File::open("/dev/null").ok()).collect()
}

/// Whether a new reception would find what it needs.
fn has_spare_descriptors() -> bool {
    let spare: Vec<_> = (0..4).filter_map(|_| std::fs::File::open("/dev/null").ok()).collect();
    spare.len() == 4
}

/// A request, and what is to be done with it.
enum Job {
    Serve(tiny_http::Request, SocketAddr),
    Refuse(tiny_http::Request, SocketAddr),
}

impl Work for Reception {
    type Job = Job;

    fn next(&self, patience: Duration) -> Option<Job> {
        loop {
            if let Some((request, peer)) = self.ready.pop() {
                return Some(Job::Serve(request, peer));
            }
            match self.http.recv_timeout(patience) {
                Ok(Some(request)) => match self.admit(request) {
                    Some(job) => return Some(job),
                    None => continue,
                },
                // Time is up, or it was unblocked because a request has become ready.
                Ok(None) if self.ready.is_empty() => return None,
                Ok(None) => {}
                Err(error) => {
                    if !self.core.stopping.load(SeqCst) {
                        warn!("failed to accept error={error}");
                        self.core.accept_failed.store(true, SeqCst);
                    }
                    return None;
                }
            }
        }
    }

    fn run(self: Arc<Self>, job: Job) {
        match job {
            Job::Serve(request, peer) => self.serve(request, peer),
            Job::Refuse(request, peer) => self.core.refuse(request, peer, None),
        }
    }

    fn is_over(&self) -> bool {
        self.core.over.load(SeqCst)
    }
}

impl Reception {
    /// `None` if the request waits behind another one of its connection.
    fn admit(&self, request: tiny_http::Request) -> Option<Job> {
        // tiny_http unwraps the address before it hands a request out.
        let peer = request.remote_addr().copied()?;
        let arrival = self.core.connections().arrive(peer, request, Instant::now());
        match arrival {
            Arrival::Handle { request, new } => {
                if new {
                    // A full channel holds nudges enough.
                    let _ = self.core.new_connections.try_send(());
                }
                Some(Job::Serve(request, peer))
            }
            Arrival::Waits => None,
            Arrival::Refused(request) => Some(Job::Refuse(request, peer)),
        }
    }

    fn serve(self: Arc<Self>, mut request: tiny_http::Request, peer: SocketAddr) {
        let core = Arc::clone(&self.core);
        let in_progress = core.in_flight.enter();
        if let Some(refusal) = core.is_full(in_progress.number) {
            return self.decline(request, peer, refusal);
        }
        let read = match self.read(&mut request, peer) {
            Ok(read) => read,
            Err(refusal) => return core.refuse(request, peer, Some(&refusal)),
        };
        let reply = Reply::new(self, request, peer);
        let handled = catch_unwind(AssertUnwindSafe(|| core.handler.handle(&read, reply)));
        if handled.is_err() {
            // The reply was dropped on the way out, and has answered 500.
            error!("panicked in a handler method={} path={:?}", read.method, read.path);
        }
    }

    /// Answers without reading a body; keeps the connection if there is none to be read.
    fn decline(self: Arc<Self>, request: tiny_http::Request, peer: SocketAddr, answer: Response) {
        let preread = request.body_length().is_some_and(|bytes| bytes <= PREREAD_BYTES);
        let chunked = field_values(&request, "Transfer-Encoding").next().is_some();
        if chunked || !(preread || request.body_length().is_none()) {
            let core = Arc::clone(&self.core);
            return core.refuse(request, peer, Some(&answer));
        }
        Reply::new(self, request, peer).send(answer);
    }

    /// Copies the request out of tiny_http, body included.
    fn read(
        &self,
        request: &mut tiny_http::Request,
        peer: SocketAddr,
    ) -> Result<Request, Response> {
        let most = self.core.limits.max_body_bytes;
        let framing = Framing::of(request, most)?;
        let headers = request.headers().iter();
        let headers = headers.map(|h| (h.field.as_str().to_string(), h.value.to_string()));
        let target = request.url().to_string();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut read = Request {
            method: request.method().as_str().to_string(),
            path: path.to_string(),
            query: query.to_string(),
            headers: headers.collect(),
            body: Vec::new(),
        };
        if framing != Framing::Length(0) {
            self.core.connections().enter(peer, Phase::Reading, Instant::now());
            read.body = framing.read(request.as_reader(), most)?;
            self.core.connections().enter(peer, Phase::Busy, Instant::now());
        }
        Ok(read)
    }
}

/// How the end of a body is told.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

impl Framing {
    /// Refuses everything that two readers could read as two different things.
    fn of(request: &tiny_http::Request, most: usize) -> Result<Framing, Response> {
        let ambiguous = |what| Response::error(400, what);
        let mut codings = field_values(request, "Transfer-Encoding");
        let mut lengths = field_values(request, "Content-Length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Framing::Length(0)),
            (Some(_), Some(_)) => Err(ambiguous("Content-Length and Transfer-Encoding together")),
            (Some(coding), None) => match codings.next() {
                None if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
                _ => Err(ambiguous("Transfer-Encoding must be chunked")),
            },
            (None, Some(length)) => {
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                if !digits || lengths.any(|other| other != length) {
                    return Err(ambiguous("Content-Length must be one decimal number"));
                }
                let length = length.parse().unwrap_or(usize::MAX);
                if length > most { Err(too_large(most)) } else { Ok(Framing::Length(length)) }
            }
        }
    }

    fn read(&self, body: &mut dyn Read, most: usize) -> Result<Vec<u8>, Response> {
        let expected = match self {
            Framing::Length(length) => *length,
            Framing::Chunked => most + 1,
        };
        let mut bytes = Vec::with_capacity(expected.min(64 * 1024));
        let read = body.take(expected as u64).read_to_end(&mut bytes);
        match self {
            Framing::Chunked if bytes.len() > most => Err(too_large(most)),
            Framing::Length(length) if bytes.len() < *length => {
                Err(Response::error(400, "The body is shorter than its Content-Length"))
            }
            _ if read.is_err() => Err(Response::error(400, "The body could not be read")),
            _ => Ok(bytes),
        }
    }
}

fn field_values<'a>(
    request: &'a tiny_http::Request,
    name: &'static str,
) -> impl Iterator<Item = &'a str> {
    let named = request.headers().iter().filter(move |header| header.field.equiv(name));
    named.map(|header| header.value.as_str())
}

fn too_large(most: usize) -> Response {
    Response::error(413, &format!("The body is larger than {most} bytes"))
}

impl Core {
    /// The refusal for the `number`th request in progress, if there must be one.
    fn is_full(&self, number: usize) -> Option<Response> {
        let refuse = |why| Response::error(503, why).with_header("Retry-After", "1");
        if self.stopping.load(SeqCst) {
            Some(refuse("The node is stopping"))
        } else if number > self.limits.max_in_flight {
            Some(refuse("Too many requests in progress"))
        } else {
            None
        }
    }
}

/// The way to answer one request, once.
pub struct Reply {
    /// `None` once it has been used.
    writer: Option<Box<dyn Write + Send>>,
    reception: Arc<Reception>,
    peer: SocketAddr,
    head_only: bool,
    connection: Option<&'static str>,
}

impl Reply {
    fn new(reception: Arc<Reception>, request: tiny_http::Request, peer: SocketAddr) -> Reply {
        let head_only = *request.method() == tiny_http::Method::Head;
        let wish = field_values(&request, "Connection").next().unwrap_or("").to_ascii_lowercase();
        let old = *request.http_version() <= (1, 0);
        // As tiny_http decides whether to read on, so that the peer learns the same.
        let connection = match wish {
            wish if wish.contains("close") || wish.contains("upgrade") => Some("close"),
            wish if old && wish.contains("keep-alive") => Some("keep-alive"),
            _ if old => Some("close"),
            _ => None,
        };
        let writer = Some(request.into_writer());
        Reply { writer, reception, peer, head_only, connection }
    }

    /// Sends the answer. A peer that has gone, or does not read, loses its connection.
    pub fn send(mut self, response: Response) {
        self.answer(&response);
    }

    fn answer(&mut self, response: &Response) {
        let Some(mut writer) = self.writer.take() else { return };
        let written = response.write_to(&mut *writer, self.head_only, self.connection);
        let core = &self.reception.core;
        if let Err(error) = written {
            debug!("failed to answer peer={} error={error}", self.peer);
            // What is left of this answer must not become the beginning of the next.
            let waiting = core.connections().distrust(self.peer, Instant::now());
            if let Some(found) = door::find(self.peer, core.address.port()) {
                core.close(&found);
            }
            waiting.into_iter().for_each(dispose);
        }
        drop(writer);
        let next = core.connections().answered(self.peer, Instant::now());
        if let Some(request) = next {
            self.reception.ready.push((request, self.peer));
            self.reception.http.unblock();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(&Response::error(500, "Internal error: the request was not answered"));
    }
}

/// Counts requests in progress, and can wait until there are none.
#[derive(Default)]
struct InFlight {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// One request in progress: the `number`th when it began.
struct InProgress<'a> {
    of: &'a InFlight,
    number: usize,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, usize> {
        // A number is never half written.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        *self.lock()
    }

    fn enter(&self) -> InProgress<'_> {
        let mut count = self.lock();
        *count += 1;
        InProgress { of: self, number: *count }
    }

    /// Returns how many there still are when the time is up.
    fn wait_until_none(&self, timeout: Duration) -> usize {
        let waited = self.fewer.wait_timeout_while(self.lock(), timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let mut count = self.of.lock();
        *count -= 1;
        if *count == 0 {
            self.of.fewer.notify_all();
        }
    }
}
