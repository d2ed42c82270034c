//! The only user of tiny_http: from its requests to ours, and back to the wire.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{mem, thread};

use crossbeam::channel::Receiver;
use log::{debug, error, warn};
use socket2::SockRef;

use super::crew::{Crew, PATIENCE, Work, hire};
use super::framing::Framing;
use super::guard::{Guard, listens, raise_descriptor_limit, spare_descriptors};
use super::listener::Listener;
use super::nudge::Nudger;
use super::reply::{AnswerShape, Reply, Turn, Turnstile};
use super::response::Part;
use super::stats::{Figures, Stats};
use super::turns::{Arrival, Begun, Phase};
use super::{Handler, Limits, Request, Response};
use crate::locked::locked;

/// An unread body of more than this is not given back to tiny_http, which would allocate, zeroed,
/// as many bytes as were announced, and abort the process when it cannot. Up to this size the
/// allocation succeeds and is never touched, for the connection has been closed by then.
pub const MAX_DISCARD_BYTES: usize = 1 << 30;

/// Between tries to accept again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A thread that waits for a request looks so often, letting others run in between, before it
/// sleeps: to wake it takes longer than most requests. It does so when the request before came
/// within [`SOON`] and at most [`FEW`] are in progress; otherwise the processor is better used.
const LOOKS: usize = 500;
const SOON: Duration = Duration::from_millis(1);
const FEW: usize = 2;

/// Bodies up to this size are in memory when tiny_http hands out the request.
const PREREAD_BYTES: usize = 1024;

/// Threads beyond `max_in_flight`, which answer 503, and what is always answered, when all others
/// are busy.
const REFUSERS: usize = 3;

/// How a stop ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were still in progress when the time was up.
    pub unfinished: usize,
}

/// A server that is answering requests.
pub struct Server {
    core: Arc<Core>,
    exhausted: Receiver<()>,
}

/// What all threads of one server share.
struct Core {
    handler: Box<dyn Handler>,
    limits: Arc<Limits>,
    figures: Arc<Figures>,
    listener: TcpListener,
    address: SocketAddr,
    /// Requests whose turn came when the one before them ended.
    ready: Mutex<VecDeque<Begun<tiny_http::Request>>>,
    guard: Arc<Guard<tiny_http::Request>>,
    /// The server that accepts; earlier ones only go on with the connections that they have.
    accepting: Mutex<Option<Arc<tiny_http::Server>>>,
}

/// One tiny_http server, and the threads that take its requests.
struct Accepting {
    core: Arc<Core>,
    http: Arc<tiny_http::Server>,
    crew: Crew,
    /// Whether the last request came within [`SOON`].
    hurries: AtomicBool,
    /// How often in a row none came.
    quiet: AtomicU32,
}

impl Server {
    /// Starts to answer requests.
    ///
    /// # Errors
    /// When threads or descriptors cannot be had.
    pub fn start<H: Handler>(listener: Listener, limits: Limits, handler: H) -> io::Result<Server> {
        raise_descriptor_limit();
        let address = listener.local_addr()?;
        let listener = listener.with_timeouts(&limits)?;
        let (guard, exhausted) = Guard::new(address.port(), limits);
        let core = Arc::new(Core {
            handler: Box::new(handler),
            listener,
            address,
            limits: Arc::clone(&guard.limits),
            figures: Arc::clone(&guard.figures),
            guard,
            ready: Mutex::default(),
            accepting: Mutex::new(None),
        });
        let descriptor = core.accept()?;
        let nudging = Arc::clone(&core);
        let nudge = move || nudging.keep_accepting(descriptor);
        thread::Builder::new().name("http-nudge".into()).spawn(nudge)?;
        let guard = Arc::clone(&core.guard);
        let watch = move || guard.watch();
        thread::Builder::new().name("http-guard".into()).spawn(watch)?;
        Ok(Server { core, exhausted })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.core.address
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        self.core.figures.stats(self.core.limits.max_in_flight)
    }

    /// Delivers one message when the server had better be stopped and the process restarted.
    pub fn exhausted(&self) -> &Receiver<()> {
        &self.exhausted
    }

    /// Stops accepting, refuses new requests with 503, and waits for those in progress.
    pub fn stop(&self, timeout: Duration) -> Drained {
        self.core.figures.stopping.store(true, SeqCst);
        // Ends a blocked accept at once; from now on connections are refused by the system.
        let _ = SockRef::from(&self.core.listener).shutdown(Shutdown::Both);
        let unfinished = self.core.figures.drain(timeout);
        self.core.figures.over.store(true, SeqCst);
        Drained { unfinished }
    }
}

impl Core {
    /// Starts a tiny_http server on a copy of the listener, whose descriptor is returned.
    fn accept(self: &Arc<Self>) -> io::Result<RawFd> {
        let listener = self.listener.try_clone()?;
        let descriptor = listener.as_raw_fd();
        // It panics when it cannot start its thread.
        let started = catch_unwind(|| tiny_http::Server::from_listener(listener, None));
        let started = started.map_err(|_| io::Error::other("no thread could be started"))?;
        let http = Arc::new(started.map_err(io::Error::other)?);
        *locked(&self.accepting) = Some(Arc::clone(&http));
        hire(&Arc::new(Accepting {
            core: Arc::clone(self),
            http,
            crew: Crew::new(self.limits.max_in_flight.saturating_add(REFUSERS)),
            hurries: AtomicBool::new(false),
            quiet: AtomicU32::new(0),
        }))?;
        Ok(descriptor)
    }

    /// Nudges, and watches that connections are accepted: tiny_http stops after one failure,
    /// whatever it was, and its copy of the listener is closed then.
    fn keep_accepting(self: &Arc<Self>, mut descriptor: RawFd) {
        let (mut nudger, mut retry_at) = (Nudger::new(self.address), Instant::now());
        while !self.figures.is_stopping() {
            thread::sleep(nudger.interval());
            if listens(descriptor, self.address) {
                nudger.nudge(locked(&self.guard.turns).heard());
            } else if Instant::now() >= retry_at && spare_descriptors().len() == 4 {
                retry_at = Instant::now() + RETRY_INTERVAL;
                match self.accept() {
                    Ok(copy) => {
                        descriptor = copy;
                        warn!("started to accept again addr={}", self.address);
                    }
                    Err(error) => debug!("failed to accept again error={error}"),
                }
            }
        }
    }

    /// Takes note of a request; gives it back if its turn has come.
    fn arrive(&self, request: tiny_http::Request) -> Option<Begun<tiny_http::Request>> {
        // tiny_http unwraps the address before it hands a request out.
        let peer = request.remote_addr().copied()?;
        let arrival = locked(&self.guard.turns).arrive(peer, request);
        match arrival {
            Arrival::Begins(begun) => return Some(begun),
            Arrival::Waits => {}
            Arrival::TooMany(request) if is_in_memory(&request) => {
                dispose(request);
                self.guard.close_soon(peer, || ());
            }
            // Disposed of before, it would be read to its end.
            Arrival::TooMany(request) => self.guard.close_soon(peer, || dispose(request)),
        }
        None
    }

    /// The request in progress of this peer has ended: the next one may begin.
    fn go_on(&self, peer: SocketAddr) {
        let next = locked(&self.guard.turns).end(peer);
        if let Some(next) = next {
            locked(&self.ready).push_back(next);
            // Wakes a thread that waits for a request.
            locked(&self.accepting).iter().for_each(|http| http.unblock());
        }
    }
}

impl Turnstile for Core {
    fn end_turn(self: Arc<Self>, peer: SocketAddr, close: bool) {
        if close {
            let core = Arc::clone(&self);
            self.guard.close_soon(peer, move || core.go_on(peer));
        } else {
            self.go_on(peer);
        }
    }
}

impl Work for Accepting {
    type Job = Begun<tiny_http::Request>;

    fn crew(&self) -> &Crew {
        &self.crew
    }

    fn next(&self, patience: Duration) -> Option<Self::Job> {
        let start = Instant::now();
        let hurries = self.hurries.load(SeqCst);
        let mut looks = if hurries && self.core.figures.in_flight() <= FEW { LOOKS } else { 0 };
        loop {
            let ready = locked(&self.core.ready).pop_front();
            if ready.is_some() {
                return ready;
            }
            let received = match looks {
                0 => self.http.recv_timeout(patience),
                _ => self.http.try_recv(),
            };
            match received {
                Ok(Some(request)) => {
                    self.hurries.store(start.elapsed() < SOON, SeqCst);
                    self.quiet.store(0, SeqCst);
                    let begun = self.core.arrive(request);
                    if begun.is_some() {
                        return begun;
                    }
                }
                Ok(None) if looks > 0 => {
                    looks -= 1;
                    thread::yield_now();
                }
                Ok(None) if start.elapsed() >= patience => return None,
                Ok(None) => {}
                Err(_) if self.core.figures.is_stopping() => return None,
                Err(error) => warn!("failed to accept error={error}"),
            }
        }
    }

    fn run(&self, job: Self::Job) {
        self.core.handle(job);
    }

    /// Also when it was replaced, and all connections that it had must have been closed.
    fn is_over(&self) -> bool {
        let quiet_for = PATIENCE * self.quiet.fetch_add(1, SeqCst);
        let accepting = locked(&self.core.accepting);
        let is_replaced = accepting.as_ref().is_some_and(|http| !Arc::ptr_eq(http, &self.http));
        let is_unused = quiet_for > 2 * self.core.limits.idle_timeout() && self.crew.is_idle();
        self.core.figures.over.load(SeqCst) || (is_replaced && is_unused)
    }
}

impl Core {
    fn handle(self: &Arc<Self>, Begun { mut request, is_suspect }: Begun<tiny_http::Request>) {
        let Some(peer) = request.remote_addr().copied() else { return };
        let turnstile = Arc::clone(self) as Arc<dyn Turnstile>;
        let turn = Turn { peer, close: false, turnstile };
        let in_progress = self.figures.begin();
        if let Some(refusal) = self.is_full(in_progress.number, request.url()) {
            self.figures.refused_busy.fetch_add(1, SeqCst);
            return self.decline(request, turn, &refusal);
        }
        let (read, was_closed) = match self.read(&mut request, peer) {
            Ok(read) => read,
            Err(refusal) => {
                self.figures.refused_bad.fetch_add(1, SeqCst);
                return self.refuse(request, turn, &refusal);
            }
        };
        let mut reply = self.reply_to(request, turn);
        if (is_suspect || was_closed) && !reply.is_heard() {
            return;
        }
        let handled = catch_unwind(AssertUnwindSafe(|| self.handler.handle(&read, reply)));
        if handled.is_err() {
            // The reply was dropped on the way out, and has answered 500.
            error!("panicked in a handler method={} path={:?}", read.method, read.path);
        }
    }

    /// The refusal for the `number`th request in progress, if there must be one.
    fn is_full(&self, number: usize, url: &str) -> Option<Response> {
        let path = url.split('?').next().unwrap_or_default();
        let refuse = |why| Response::refused(503, why).with_header("Retry-After", "1");
        if self.figures.is_stopping() {
            Some(refuse("The node is stopping"))
        } else if number > self.limits.max_in_flight && !self.limits.always.contains(&path) {
            Some(refuse("Too many requests in progress"))
        } else {
            None
        }
    }

    /// Copies the request out of tiny_http, body included. Says also whether the connection was
    /// closed from here in the meantime: then the body may end where it should not.
    fn read(
        &self,
        request: &mut tiny_http::Request,
        peer: SocketAddr,
    ) -> Result<(Request, bool), Response> {
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
        if is_in_memory(request) {
            read.body = framing.read(request.as_reader(), most)?;
            return Ok((read, false));
        }
        self.enter(peer, Phase::Reading);
        read.body = framing.read(request.as_reader(), most)?;
        Ok((read, self.enter(peer, Phase::Busy)))
    }

    fn enter(&self, peer: SocketAddr, phase: Phase) -> bool {
        locked(&self.guard.turns).enter(peer, phase)
    }

    fn reply_to(&self, request: tiny_http::Request, turn: Turn) -> Reply {
        let asked = field(&request, "Connection").unwrap_or("").to_ascii_lowercase();
        let old = *request.http_version() <= (1, 0);
        // As tiny_http decides whether to read on, so that the peer learns the same.
        let connection = match asked {
            asked if asked.contains("close") || asked.contains("upgrade") => Some("close"),
            asked if old && asked.contains("keep-alive") => Some("keep-alive"),
            _ if old => Some("close"),
            _ => None,
        };
        let head_only = *request.method() == tiny_http::Method::Head;
        Reply {
            turn,
            figures: Arc::clone(&self.figures),
            limits: Arc::clone(&self.limits),
            shape: AnswerShape { head_only, connection },
            since: Instant::now(),
            writer: Some(request.into_writer()),
        }
    }

    /// Answers without reading a body; keeps the connection if there is none to be read.
    fn decline(&self, request: tiny_http::Request, turn: Turn, answer: &Response) {
        if is_in_memory(&request) {
            self.reply_to(request, turn).answer(answer);
        } else {
            self.refuse(request, turn, answer);
        }
    }

    /// Answers past tiny_http, which would first read the body to its end, and ends the connection.
    /// Then gets rid of the request, whatever it announced, and of the turn.
    fn refuse(&self, request: tiny_http::Request, turn: Turn, answer: &Response) {
        let peer = turn.peer;
        self.enter(peer, Phase::Refusing);
        let Some(mut handle) = self.guard.find(peer) else {
            // The peer is gone, or no descriptor was left to look with.
            let leave = move || {
                dispose(request);
                drop(turn);
            };
            return self.guard.close_soon(peer, leave);
        };
        // The peer may be gone; there is nobody else to tell.
        let _ = answer.write_to(&mut handle.stream, Part::Whole, Some("close"));
        handle.linger();
        self.guard.close(handle);
        dispose(request);
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
        // Dropping would abort the process. What is lost is counted by the guard.
        mem::forget(request);
    } else {
        // Dropped whole it would wait for its turn to answer an empty 500.
        drop(request.into_writer());
    }
}

fn field<'a>(request: &'a tiny_http::Request, name: &'static str) -> Option<&'a str> {
    let found = request.headers().iter().find(|header| header.field.equiv(name));
    found.map(|header| header.value.as_str())
}
