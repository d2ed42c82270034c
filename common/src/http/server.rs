//! The only user of tiny_http: from its requests to ours, and back to the wire.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use crossbeam::channel::{Receiver, Sender, bounded};
use log::{debug, error, warn};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::connections::{Allowed, Arrival, Connections, Phase};
use super::crew::{Crew, Work, submit, try_submit};
use super::framing::Framing;
use super::in_flight::InFlight;
use super::nudge::Nudger;
use super::reply::{Reply, Wish};
use super::response::Part;
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

/// Between tries to accept again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long a reception waits for a request before it asks whether it is still needed.
const PATIENCE: Duration = Duration::from_secs(1);

/// To wake a thread that sleeps takes tens of microseconds, which with few clients is most of the
/// time of a request. So a reception that waited no longer than this for the request before looks
/// for the next one as often as this, letting others run in between, before it sleeps. When more
/// than so few requests are in progress it does not: others have better things to do then. One
/// client that never pauses is answered in 0.86 of the time by that, at 1.3 times the CPU time, with
/// a disk; a node that is asked seldom looks once, in vain.
const SOON: Duration = Duration::from_millis(1);
const LOOKS: usize = 500;
const FEW: usize = 2;

/// Bodies up to this size are in memory when tiny_http hands out the request.
const PREREAD_BYTES: usize = 1024;

/// Threads beyond `max_in_flight`, which answer 503, and what is always answered, when all others
/// are busy.
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
    /// How many may be.
    pub max_in_flight: usize,
    /// Connections that tiny_http lost for good.
    pub stuck: usize,
    /// Requests that were refused because too many were in progress, or the server was stopping.
    pub refused_busy: u64,
    /// Requests that were refused because they were too long or not to be understood.
    pub refused_bad: u64,
}

/// A server that is answering requests.
pub struct Server {
    core: Arc<Core>,
    exhausted: Receiver<()>,
}

/// What all threads of one server share.
pub(super) struct Core {
    handler: Box<dyn Handler>,
    limits: Limits,
    listener: TcpListener,
    address: SocketAddr,
    connections: Mutex<Connections<tiny_http::Request>>,
    /// Connections that were closed from here and that tiny_http has not let go of.
    closed: Mutex<Vec<ClosedConnection>>,
    in_flight: InFlight,
    /// New requests are refused.
    stopping: AtomicBool,
    /// Threads end.
    over: AtomicBool,
    stuck: AtomicUsize,
    refused_busy: AtomicU64,
    refused_bad: AtomicU64,
    /// The copy of the listener that the newest reception accepts with.
    accepting: AtomicI32,
    receptions: AtomicUsize,
    crew: Crew<Job>,
    new_connections: Sender<()>,
    exhausted: Sender<()>,
}

struct ClosedConnection {
    peer: SocketAddr,
    at: Instant,
    socket: door::Closed,
}

/// One tiny_http server, whose requests are taken in the order in which they came. A further one
/// takes over when it no longer accepts; it goes on with the connections that it has.
pub(super) struct Reception {
    http: tiny_http::Server,
    number: usize,
    /// How long it waited for the last request.
    waited: Duration,
}

/// What a thread of the crew does.
pub(super) enum Job {
    /// Takes requests; one thread at a time for each reception.
    Receive(Box<Reception>),
    /// Handles a request.
    Handle(tiny_http::Request),
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
        let most = limits.max_in_flight.saturating_add(REFUSERS + 1);
        let core = Arc::new(Core {
            handler: Box::new(handler),
            limits,
            address: listener.local_addr()?,
            listener: listener.0,
            connections: Mutex::new(Connections::new()),
            closed: Mutex::new(Vec::new()),
            in_flight: InFlight::default(),
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            stuck: AtomicUsize::new(0),
            refused_busy: AtomicU64::new(0),
            refused_bad: AtomicU64::new(0),
            accepting: AtomicI32::new(-1),
            receptions: AtomicUsize::new(0),
            crew: Crew::new(most),
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
        self.core.stats()
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
    pub(super) fn connections(&self) -> MutexGuard<'_, Connections<tiny_http::Request>> {
        // Its methods leave it valid at every step, so a panic in between has spoiled nothing.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_reception(self: &Arc<Self>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let descriptor = listener.as_raw_fd();
        // It panics when it cannot start its thread.
        let started = catch_unwind(|| tiny_http::Server::from_listener(listener, None));
        let http = started.map_err(|_| no_thread())?.map_err(io::Error::other)?;
        let number = self.receptions.fetch_add(1, SeqCst) + 1;
        self.accepting.store(descriptor, SeqCst);
        let receive = Job::Receive(Box::new(Reception { http, number, waited: PATIENCE }));
        try_submit(self, receive).map_err(|_| no_thread())
    }

    /// Nudges, and watches that connections are accepted: tiny_http stops after one failure,
    /// whatever it was, and its copy of the listener is closed then.
    fn keep_accepting(self: &Arc<Self>, new_connections: &Receiver<()>) {
        let mut nudger = Nudger::new(self.address);
        let mut retry_at = Instant::now();
        while nudger.wait(new_connections).is_some() && !self.stopping.load(SeqCst) {
            if door::listens(self.accepting.load(SeqCst), self.address) {
                nudger.nudge();
            } else if Instant::now() >= retry_at && has_spare_descriptors() {
                retry_at = Instant::now() + RETRY_INTERVAL;
                match self.open_reception() {
                    Ok(()) => warn!("started to accept again addr={}", self.address),
                    Err(error) => debug!("failed to accept again error={error}"),
                }
            }
        }
    }

    fn keep_sweeping(&self) {
        // Kept so that a sweep can look at the descriptors when all others are used up.
        let mut spare = spare_descriptors();
        while !self.over.load(SeqCst) {
            thread::sleep(SWEEP_INTERVAL);
            spare.clear();
            self.sweep();
            spare = spare_descriptors();
            let stuck = self.closed().iter().filter(|one| one.at.elapsed() > STUCK_AFTER).count();
            if stuck > self.stuck.swap(stuck, SeqCst) {
                warn!("lost connections for good stuck={stuck} most={MAX_STUCK}");
            }
            if stuck > MAX_STUCK && self.exhausted.try_send(()).is_ok() {
                error!("lost too many connections stuck={stuck} most={MAX_STUCK}");
            }
        }
    }

    fn sweep(&self) {
        let held: HashSet<SocketAddr> = {
            let mut closed = self.closed();
            closed.retain(|one| one.socket.is_held());
            // What has not turned up by then never will, and the address may be used again.
            let recent = closed.iter().filter(|one| one.at.elapsed() < STUCK_AFTER);
            recent.map(|one| one.peer).collect()
        };
        let marks = self.connections().marks();
        let Ok(open) = door::connections_to(self.address.port()) else { return };
        let seen: Vec<_> = open.iter().map(|found| found.seen).collect();
        let allowed = Allowed {
            timeout: self.limits.timeout,
            body_bytes: self.limits.max_body_bytes as u64,
            most: max_connections(),
        };
        let swept = self.connections().sweep(&marks, &seen, &held, Instant::now(), allowed);
        swept.left_over.into_iter().for_each(dispose);
        // Each connection is worth a nudge, also one that has not said anything.
        (0..swept.new).for_each(|_| self.nudge());
        let overdue: HashSet<SocketAddr> = swept.overdue.into_iter().collect();
        for found in open.iter().filter(|found| overdue.contains(&found.seen.peer)) {
            debug!("closed a connection peer={}", found.seen.peer);
            let waiting = self.connections().distrust(found.seen.peer, Instant::now());
            if let Some(handle) = found.handle() {
                self.close(found.seen.peer, handle);
            }
            waiting.into_iter().for_each(dispose);
        }
    }

    fn nudge(&self) {
        // A full channel holds nudges enough.
        let _ = self.new_connections.try_send(());
    }

    fn closed(&self) -> MutexGuard<'_, Vec<ClosedConnection>> {
        // A list is valid whatever panics.
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, peer: SocketAddr, handle: door::Handle) {
        let one = ClosedConnection { peer, at: Instant::now(), socket: handle.close() };
        let mut closed = self.closed();
        if closed.iter().all(|other| other.socket != one.socket) {
            closed.push(one);
        }
    }

    /// Closes the connection of this peer, if there still is one.
    pub(super) fn close_peer(&self, peer: SocketAddr) {
        let waiting = self.connections().distrust(peer, Instant::now());
        if let Some(handle) = door::handle_of(peer, self.address.port()) {
            self.close(peer, handle);
        }
        waiting.into_iter().for_each(dispose);
    }

    /// The request in progress of this peer has been answered: the next one is ready.
    pub(super) fn finish(self: &Arc<Self>, peer: SocketAddr) {
        let next = self.connections().answered(peer, Instant::now());
        if let Some(request) = next {
            submit(self, Job::Handle(request));
        }
    }
}

impl Reception {
    /// The next request, if it comes before long; `quiet` says that little else is going on.
    fn next(&mut self, quiet: bool) -> io::Result<Option<tiny_http::Request>> {
        let start = Instant::now();
        let looks = if quiet && self.waited < SOON { LOOKS } else { 0 };
        let next = self.look_and_wait(looks);
        self.waited = start.elapsed();
        next
    }

    fn look_and_wait(&self, looks: usize) -> io::Result<Option<tiny_http::Request>> {
        for _ in 0..looks {
            if let Some(request) = self.http.try_recv()? {
                return Ok(Some(request));
            }
            thread::yield_now();
        }
        self.http.recv_timeout(PATIENCE)
    }

    fn is_replaced(&self, core: &Core) -> bool {
        self.number < core.receptions.load(SeqCst)
    }
}

impl Core {
    /// Takes requests until there are none at the moment, and handles the last one itself: one
    /// thread less to be woken. Another one goes on taking them.
    fn receive(self: &Arc<Self>, mut reception: Box<Reception>) {
        let mut needed_at = Instant::now();
        while !self.over.load(SeqCst) {
            let quiet = self.in_flight.count() <= FEW;
            let last = match reception.next(quiet) {
                Ok(Some(request)) => self.arrive_with_others(request, &reception),
                Ok(None) => None,
                Err(_) if self.stopping.load(SeqCst) => None,
                Err(error) => {
                    warn!("failed to accept error={error}");
                    None
                }
            };
            if let Some(request) = last {
                match try_submit(self, Job::Receive(reception)) {
                    Err(Job::Receive(back)) => reception = back,
                    _ => return self.handle(request),
                }
                submit(self, Job::Handle(request));
                needed_at = Instant::now();
            } else if !reception.is_replaced(self) || self.in_flight.count() > 0 {
                needed_at = Instant::now();
            } else if needed_at.elapsed() > self.limits.timeout + 2 * PATIENCE {
                // All connections that it had have been closed.
                return;
            }
        }
    }

    /// Has others handle all requests that are there, but for the last one whose turn has come.
    fn arrive_with_others(
        self: &Arc<Self>,
        request: tiny_http::Request,
        reception: &Reception,
    ) -> Option<tiny_http::Request> {
        let mut last = self.arrive(request);
        while let Ok(Some(request)) = reception.http.try_recv() {
            if let Some(request) = self.arrive(request)
                && let Some(earlier) = last.replace(request)
            {
                submit(self, Job::Handle(earlier));
            }
        }
        last
    }

    /// Takes note of a request; gives it back if its turn has come.
    fn arrive(self: &Arc<Self>, request: tiny_http::Request) -> Option<tiny_http::Request> {
        // tiny_http unwraps the address before it hands a request out.
        let peer = request.remote_addr().copied()?;
        let now = Instant::now();
        let arrival = self.connections().arrive(peer, request, now);
        match arrival {
            Arrival::Handle { request, new } => {
                if new {
                    self.nudge();
                }
                return Some(request);
            }
            Arrival::Waits => {}
            Arrival::Refused(request) if is_in_memory(&request) => dispose(request),
            // Dropping it reads its body: not before the next sweep has closed the connection.
            Arrival::Refused(request) => self.connections().keep(peer, request, now),
        }
        None
    }
}

impl Work for Core {
    type Job = Job;

    fn crew(&self) -> &Crew<Job> {
        &self.crew
    }

    fn run(self: &Arc<Self>, job: Job) {
        match job {
            Job::Receive(reception) => self.receive(reception),
            Job::Handle(request) => self.handle(request),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }
}

impl Core {
    fn handle(self: &Arc<Self>, mut request: tiny_http::Request) {
        let Some(peer) = request.remote_addr().copied() else { return };
        let in_progress = self.in_flight.enter();
        if let Some(refusal) = self.is_full(in_progress.number, request.url()) {
            self.refused_busy.fetch_add(1, SeqCst);
            return self.decline(request, peer, &refusal);
        }
        let read = match self.read(&mut request, peer) {
            Ok(read) => read,
            Err(refusal) => {
                self.refused_bad.fetch_add(1, SeqCst);
                return self.refuse(request, peer, &refusal);
            }
        };
        let reply = self.reply_to(request, peer);
        let handled = catch_unwind(AssertUnwindSafe(|| self.handler.handle(&read, reply)));
        if handled.is_err() {
            // The reply was dropped on the way out, and has answered 500.
            error!("panicked in a handler method={} path={:?}", read.method, read.path);
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            in_flight: self.in_flight.count(),
            max_in_flight: self.limits.max_in_flight,
            stuck: self.stuck.load(SeqCst),
            refused_busy: self.refused_busy.load(SeqCst),
            refused_bad: self.refused_bad.load(SeqCst),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// The refusal for the `number`th request in progress, if there must be one.
    fn is_full(&self, number: usize, url: &str) -> Option<Response> {
        let path = url.split('?').next().unwrap_or_default();
        let refuse = |why| Response::refused(503, why).with_header("Retry-After", "1");
        if self.stopping.load(SeqCst) {
            Some(refuse("The node is stopping"))
        } else if number > self.limits.max_in_flight && !self.limits.always.contains(&path) {
            Some(refuse("Too many requests in progress"))
        } else {
            None
        }
    }

    /// Copies the request out of tiny_http, body included.
    fn read(
        &self,
        request: &mut tiny_http::Request,
        peer: SocketAddr,
    ) -> Result<Request, Response> {
        let headers = request.headers().iter();
        let headers = headers.map(|h| (h.field.as_str().as_str(), h.value.as_str()));
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let mut read = Request {
            method: request.method().as_str().to_string(),
            path: path.to_string(),
            query: query.to_string(),
            headers: headers.collect(),
            body: Vec::new(),
        };
        let most = self.limits.max_body_bytes;
        let framing = Framing::of(&read, most)?;
        if framing != Framing::Length(0) {
            self.connections().enter(peer, Phase::Reading, Instant::now());
            read.body = framing.read(request.as_reader(), most)?;
            self.connections().enter(peer, Phase::Busy, Instant::now());
        }
        if framing == Framing::Chunked && self.is_at_end(peer) {
            return Err(Response::refused(400, "The body may have been cut off"));
        }
        Ok(read)
    }

    fn is_at_end(&self, peer: SocketAddr) -> bool {
        let handle = door::handle_of(peer, self.address.port());
        handle.is_none_or(|handle| handle.is_at_end())
    }

    fn reply_to(self: &Arc<Self>, request: tiny_http::Request, peer: SocketAddr) -> Reply {
        let wish = field(&request, "Connection").unwrap_or("").to_ascii_lowercase();
        let old = *request.http_version() <= (1, 0);
        // As tiny_http decides whether to read on, so that the peer learns the same.
        let connection = match wish {
            wish if wish.contains("close") || wish.contains("upgrade") => Some("close"),
            wish if old && wish.contains("keep-alive") => Some("keep-alive"),
            _ if old => Some("close"),
            _ => None,
        };
        let wish = Wish { head_only: *request.method() == tiny_http::Method::Head, connection };
        Reply::new(Arc::clone(self), peer, self.limits.timeout, wish, request.into_writer())
    }

    /// Answers without reading a body; keeps the connection if there is none to be read.
    fn decline(self: &Arc<Self>, request: tiny_http::Request, peer: SocketAddr, answer: &Response) {
        if is_in_memory(&request) {
            self.reply_to(request, peer).answer(answer);
        } else {
            self.refuse(request, peer, answer);
        }
    }

    /// Answers past tiny_http, ends the connection, and gets rid of the request, whatever it
    /// announced.
    fn refuse(&self, request: tiny_http::Request, peer: SocketAddr, answer: &Response) {
        let waiting = {
            let mut connections = self.connections();
            connections.enter(peer, Phase::Refusing, Instant::now());
            connections.distrust(peer, Instant::now())
        };
        if let Some(mut handle) = door::handle_of(peer, self.address.port()) {
            // The peer may be gone; there is nobody else to tell.
            let _ = answer.write_to(&mut handle.stream, Part::Whole, Some("close"));
            linger(&mut handle.stream);
            self.close(peer, handle);
        }
        self.connections().enter(peer, Phase::Idle, Instant::now());
        dispose(request);
        waiting.into_iter().for_each(dispose);
    }
}

/// Whether nothing is left to be read of this request.
fn is_in_memory(request: &tiny_http::Request) -> bool {
    let small = request.body_length().is_none_or(|bytes| bytes <= PREREAD_BYTES);
    let streams = |name| field(request, name).is_some();
    small && !streams("Transfer-Encoding") && !streams("Expect")
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

fn field<'a>(request: &'a tiny_http::Request, name: &'static str) -> Option<&'a str> {
    let found = request.headers().iter().find(|header| header.field.equiv(name));
    found.map(|header| header.value.as_str())
}

fn no_thread() -> io::Error {
    io::Error::other("no thread could be started")
}

fn spare_descriptors() -> Vec<File> {
    (0..2).filter_map(|_| File::open("/dev/null").ok()).collect()
}

/// Whether a new reception would find what it needs.
fn has_spare_descriptors() -> bool {
    let spare: Vec<_> = (0..4).filter_map(|_| File::open("/dev/null").ok()).collect();
    spare.len() == 4
}
