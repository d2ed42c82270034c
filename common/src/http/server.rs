//! The only user of tiny_http: from its requests to ours, and back to the wire.

use std::hint::black_box;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{mem, thread};

use log::{error, warn};
use socket2::SockRef;

use super::crew::{Crew, Work, submit, try_submit};
use super::framing::{Framing, TOO_MANY_BODIES, is_upgrade};
use super::guard::{Guard, listens, raise_descriptor_limit, spare_descriptors};
use super::listener::Listener;
use super::nudge::Nudger;
use super::reply::{Connections, End, Reply, TOO_MANY, Turn, asked, log_answer};
use super::response::Part;
use super::stats::{Figures, Held, Stats};
use super::turns::{Arrival, Phase, Transfer};
use super::{Handler, Limits, Request, Response, Room, head};
use crate::locked::locked;
use crate::vital;

/// An unread body of more than this is not given back to tiny_http, which would allocate, zeroed,
/// as many bytes as were announced, and abort the process when it cannot. Up to this size the
/// allocation succeeds and is never touched, for the connection has been closed by then.
pub const MAX_DISCARD_BYTES: usize = 1 << 30;

/// What the system keeps of an answer for a peer that does not read it. By itself it would keep
/// megabytes, and copying them for a thousand slow readers takes all the processor's time.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Between tries to accept again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How often a thread looks for a request, letting others run in between, before it sleeps: to wake
/// it takes longer than most requests. Only if the last wait was this short, and at most so few
/// requests are in progress.
const LOOKS: usize = 500;
const SOON: Duration = Duration::from_millis(1);
const FEW: usize = 2;

/// How long a thread waits for a request before it asks whether it is still needed.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bodies up to this size are in memory when tiny_http hands out the request.
const PREREAD_BYTES: usize = 1024;

/// Threads beyond `max_in_flight`, which answer 503 and handle brief requests when all others are
/// busy.
const SPARE: usize = 64;

/// How a stop ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were still in progress when the time was up.
    pub unfinished: usize,
}

/// A server that is answering requests.
pub struct Server(Arc<Core>);

/// What all threads of one server share.
struct Core {
    handler: Box<dyn Handler>,
    figures: Arc<Figures>,
    listener: TcpListener,
    address: SocketAddr,
    crew: Crew<Job>,
    guard: Guard,
    /// How many servers of tiny_http there were. The last one accepts; earlier ones only go on with
    /// the connections that they have.
    servers: AtomicUsize,
}

/// One server of tiny_http: the `number`th.
struct Accepting {
    http: tiny_http::Server,
    number: usize,
    /// How long the last wait for a request took.
    waited: Duration,
}

/// A job of the crew.
enum Job {
    /// Takes requests; one thread at a time for each server of tiny_http.
    Receive(Box<Accepting>),
    /// Handles a request.
    Handle(tiny_http::Request),
}

impl Server {
    /// Starts to answer requests.
    ///
    /// # Errors
    /// When threads or descriptors cannot be had.
    pub fn start<H: Handler>(listener: Listener, limits: Limits, handler: H) -> io::Result<Server> {
        raise_descriptor_limit();
        let Listener(listener) = listener;
        let address = listener.local_addr()?;
        // Accepted sockets inherit these: a peer that neither sends nor reads is given up.
        // Accepting does not time out, for the nudges come more often.
        SockRef::from(&listener).set_read_timeout(Some(limits.idle_timeout()))?;
        SockRef::from(&listener).set_write_timeout(Some(limits.timeout))?;
        SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        let figures = Arc::new(Figures::new(limits));
        let core = Arc::new(Core {
            handler: Box::new(handler),
            listener,
            address,
            guard: Guard::new(address.port(), Arc::clone(&figures)),
            crew: Crew::new(figures.limits.max_in_flight.saturating_add(SPARE)),
            figures,
            servers: AtomicUsize::new(0),
        });
        let descriptor = core.accept()?;
        let [nudging, guarding, parting] = [(); 3].map(|()| Arc::clone(&core));
        vital::start("http-nudge", move || nudging.keep_accepting(descriptor))?;
        vital::start("http-guard", move || guarding.guard.watch())?;
        vital::start("http-farewell", move || parting.guard.see_off())?;
        Ok(Server(core))
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.address
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        self.0.figures.stats()
    }

    /// Stops accepting, refuses new requests with 503, and waits for those in progress.
    pub fn stop(&self, timeout: Duration) -> Drained {
        self.0.figures.stopping.store(true, SeqCst);
        // Ends a blocked accept at once; from now on connections are refused by the system.
        let _ = SockRef::from(&self.0.listener).shutdown(Shutdown::Both);
        Drained { unfinished: self.0.figures.drain(timeout) }
    }
}

impl Core {
    /// Starts a tiny_http server on a copy of the listener, whose descriptor is returned.
    fn accept(self: &Arc<Self>) -> io::Result<RawFd> {
        let listener = self.listener.try_clone()?;
        let descriptor = listener.as_raw_fd();
        // It panics when it cannot start its thread.
        let started = catch_unwind(|| tiny_http::Server::from_listener(listener, None));
        let no_thread = || io::Error::other("no thread could be started");
        let http = started.map_err(|_| no_thread())?.map_err(io::Error::other)?;
        let number = self.servers.fetch_add(1, SeqCst) + 1;
        let receive = Job::Receive(Box::new(Accepting { http, number, waited: PATIENCE }));
        try_submit(self, receive).map(|()| descriptor).map_err(|_| no_thread())
    }

    /// Nudges, and watches that connections are accepted: tiny_http stops after one failure,
    /// whatever it was, and its copy of the listener is closed then.
    fn keep_accepting(self: &Arc<Self>, mut descriptor: RawFd) {
        let mut nudger = Nudger::new(self.address);
        while !self.figures.is_stopping() {
            thread::sleep(nudger.interval());
            if listens(descriptor, self.address) {
                nudger.nudge(locked(&self.guard.turns).heard());
            } else if !self.figures.is_stopping() && spare_descriptors().len() == 4 {
                match self.accept() {
                    Ok(copy) => descriptor = copy,
                    Err(_) => thread::sleep(RETRY_INTERVAL),
                }
                warn!("tried to accept again addr={}", self.address);
            }
        }
    }

    /// Takes note of a request; gives it back if its turn has come.
    fn arrive(&self, request: tiny_http::Request) -> Option<tiny_http::Request> {
        // tiny_http unwraps the address before it hands a request out.
        let peer = request.remote_addr().copied()?;
        let arrival = locked(&self.guard.turns).arrive(peer, request);
        match arrival {
            Arrival::Begins(request) => return Some(request),
            Arrival::Waits => {}
            // Disposed of before the connection is closed, it would be read to its end.
            Arrival::TooMany(request) => self.guard.close_soon(peer, || dispose(request)),
        }
        None
    }

    /// How many requests may transfer a body or an answer at the same time.
    fn most_transfers(&self) -> usize {
        self.figures.limits.max_in_flight.div_ceil(2)
    }
}

impl Connections for Core {
    fn end_turn(self: Arc<Self>, peer: SocketAddr, end: End) {
        if end == End::Next {
            let next = locked(&self.guard.turns).end(peer);
            return next.into_iter().for_each(|next| submit(&self, Job::Handle(next)));
        }
        let core = Arc::clone(&self);
        let then = move || core.end_turn(peer, End::Next);
        if end == End::Close {
            return self.guard.close_soon(peer, then);
        }
        let mut turns = locked(&self.guard.turns);
        turns.enter(peer, Phase::Refusing);
        turns.doom(peer);
        drop(turns);
        self.guard.part(peer, Vec::new(), false, then);
    }

    fn begin_answer(&self, peer: SocketAddr) {
        let most = self.most_transfers();
        let begins = locked(&self.guard.turns).transfer(peer, Phase::Answering, most);
        if let Transfer::InPlaceOf(slow) = begins {
            self.guard.give_way(slow);
        }
    }

    fn is_gone(&self, peer: SocketAddr) -> bool {
        locked(&self.guard.turns).is_gone(peer)
    }
}

impl Accepting {
    /// The next request, if one comes before long. While it is `quiet`, and the last one came soon,
    /// looks are made before the thread sleeps.
    fn next(&mut self, quiet: bool) -> io::Result<Option<tiny_http::Request>> {
        let (start, looks) = (Instant::now(), if quiet && self.waited < SOON { LOOKS } else { 0 });
        let mut next = Ok(None);
        for _ in 0..looks {
            next = self.http.try_recv();
            if !matches!(next, Ok(None)) {
                break;
            }
            thread::yield_now();
        }
        if matches!(next, Ok(None)) {
            next = self.http.recv_timeout(PATIENCE);
        }
        self.waited = start.elapsed();
        next
    }
}

impl Core {
    /// Takes requests until there are none at the moment, and handles the last one itself: one
    /// thread less to be woken. Another thread goes on taking them.
    fn receive(self: &Arc<Self>, mut accepting: Box<Accepting>) {
        let mut used_at = Instant::now();
        while !self.figures.is_over() {
            let in_flight = self.figures.stats().in_flight;
            let last = match accepting.next(in_flight <= FEW) {
                Ok(Some(request)) => self.arrive_with_others(request, &accepting),
                Ok(None) => None,
                Err(error) => {
                    if !self.figures.is_stopping() {
                        warn!("failed to accept error={error}");
                    }
                    None
                }
            };
            if let Some(request) = last {
                match try_submit(self, Job::Receive(accepting)) {
                    Err(Job::Receive(back)) => accepting = back,
                    _ => return self.handle(request),
                }
                submit(self, Job::Handle(request));
            } else if accepting.number < self.servers.load(SeqCst) && in_flight == 0 {
                // All connections of a replaced server have been closed by then.
                if used_at.elapsed() > 2 * self.figures.limits.idle_timeout() {
                    return;
                }
                continue;
            }
            used_at = Instant::now();
        }
    }

    /// Gives all requests that are there to others, but for the last one whose turn has come.
    fn arrive_with_others(
        self: &Arc<Self>,
        request: tiny_http::Request,
        accepting: &Accepting,
    ) -> Option<tiny_http::Request> {
        let mut last = self.arrive(request);
        while let Ok(Some(request)) = accepting.http.try_recv() {
            if let Some(request) = self.arrive(request)
                && let Some(earlier) = last.replace(request)
            {
                submit(self, Job::Handle(earlier));
            }
        }
        last
    }
}

impl Work for Core {
    type Job = Job;

    fn crew(&self) -> &Crew<Job> {
        &self.crew
    }

    fn run(self: &Arc<Self>, job: Job) {
        match job {
            Job::Receive(accepting) => self.receive(accepting),
            Job::Handle(request) => self.handle(request),
        }
    }

    fn is_over(&self) -> bool {
        self.figures.is_over()
    }
}

impl Core {
    fn handle(self: &Arc<Self>, mut request: tiny_http::Request) {
        let Some(peer) = request.remote_addr().copied() else { return };
        let of: Arc<dyn Connections> = Arc::<Core>::clone(self);
        let turn = Turn { peer, end: End::Next, of };
        let (_in_progress, number) = self.figures.begin();
        let mut read = head_of(&request);
        read.room = self.figures.limits.room(number);
        let checked = head::check(&read, is_old(&request));
        let most = self.figures.limits.max_body_bytes;
        let framing = match checked.and_then(|()| Framing::of(&read, most)) {
            Ok(framing) => framing,
            Err(refusal) => {
                self.figures.count(&refusal);
                return self.refuse(request, &read, turn, &refusal);
            }
        };
        if let Some(refusal) = self.is_full(&read).or_else(|| self.handler.admit(&read, peer).err())
        {
            // Without a body the connection can be kept.
            return match is_in_memory(&request, &read) {
                true => self.reply_to(request, &read, turn).answer(&refusal),
                false => self.refuse(request, &read, turn, &refusal),
            };
        }
        match self.read_body(framing, &mut request, &read, peer) {
            Ok(body) => read.body = body,
            Err(refusal) => {
                self.figures.count(&refusal);
                return self.refuse(request, &read, turn, &refusal);
            }
        }
        let mut reply = self.reply_to(request, &read, turn);
        if self.guard.is_suspect(peer) && !reply.is_heard() {
            return;
        }
        let handled = catch_unwind(AssertUnwindSafe(|| self.handler.handle(&mut read, reply)));
        if handled.is_err() {
            // The reply was dropped on the way out, and has answered 500.
            error!("panicked in a handler method={} path={:?}", read.method, read.path);
        }
    }

    /// The refusal for a request that must not begin, if it must not.
    fn is_full(&self, head: &Request) -> Option<Response> {
        let why = if self.figures.is_stopping() {
            "The node is stopping"
        } else if head.room == Room::Gone && !self.handler.is_brief(head) {
            TOO_MANY
        } else {
            return None;
        };
        let refusal = Response::busy(why);
        self.figures.count(&refusal);
        Some(refusal)
    }

    fn read_body(
        &self,
        framing: Framing,
        request: &mut tiny_http::Request,
        head: &Request,
        peer: SocketAddr,
    ) -> Result<Vec<u8>, Response> {
        let limits = &self.figures.limits;
        if is_in_memory(request, head) {
            return framing.read(request.as_reader(), limits.max_body_bytes, &|_| true);
        }
        let begins =
            locked(&self.guard.turns).transfer(peer, Phase::Reading, self.most_transfers());
        match begins {
            Transfer::Begins => {}
            Transfer::InPlaceOf(slow) => self.guard.give_way(slow),
            Transfer::TooMany => return Err(Response::busy(TOO_MANY_BODIES)),
        }
        let held = Held::new(&self.figures);
        let may_take = |bytes| {
            held.add(bytes) <= limits.most_body_bytes() || {
                let (may, slow) = locked(&self.guard.turns).make_way(peer);
                slow.into_iter().for_each(|slow| self.guard.give_way(slow));
                may
            }
        };
        let body = framing.read(request.as_reader(), limits.max_body_bytes, &may_take);
        match locked(&self.guard.turns).received(peer) {
            true => body,
            false => Err(Response::busy(TOO_MANY_BODIES)),
        }
    }

    fn reply_to(&self, request: tiny_http::Request, read: &Request, turn: Turn) -> Reply {
        let wishes = read.header("Connection").unwrap_or("").to_ascii_lowercase();
        let old = is_old(&request);
        // As tiny_http decides whether to read on, so that the peer learns the same.
        let connection = match wishes {
            wishes if wishes.contains("close") || is_upgrade(read) => Some("close"),
            wishes if old && wishes.contains("keep-alive") => Some("keep-alive"),
            _ if old => Some("close"),
            _ => None,
        };
        Reply {
            turn,
            figures: Arc::clone(&self.figures),
            asked: asked(read),
            head_only: read.method == "HEAD",
            chunked: !old,
            connection,
            since: Instant::now(),
            writer: Some(request.into_writer()),
        }
    }

    /// Answers past tiny_http, which would first read the body to its end, and ends the connection.
    /// After that gets rid of the request, whatever it announced, and of the turn.
    fn refuse(&self, request: tiny_http::Request, read: &Request, turn: Turn, answer: &Response) {
        let (peer, mut bytes) = (turn.peer, Vec::new());
        locked(&self.guard.turns).enter(peer, Phase::Refusing);
        let part = if read.method == "HEAD" { Part::Head } else { Part::Whole };
        answer.write_to(&mut bytes, part, Some("close")).expect("memory takes every byte");
        log_answer(&asked(read), answer.status, bytes.len() as u64, Instant::now(), peer);
        self.guard.part(peer, bytes, true, move || {
            dispose(request);
            drop(turn);
        });
    }
}

/// Copies the head of a request out of tiny_http.
fn head_of(request: &tiny_http::Request) -> Request {
    let fields = request.headers().iter();
    let headers = fields.map(|h| (h.field.to_string(), h.value.to_string())).collect();
    head::read(request.method().to_string(), request.url(), headers)
}

/// Whether the client speaks HTTP/1.0: it understands no chunks, and need not say a host.
fn is_old(request: &tiny_http::Request) -> bool {
    *request.http_version() <= (1, 0)
}

/// Whether nothing is left to be read of this request.
fn is_in_memory(request: &tiny_http::Request, head: &Request) -> bool {
    let most = if is_upgrade(head) { 0 } else { PREREAD_BYTES };
    let small = request.body_length().is_none_or(|bytes| bytes <= most);
    let streams = |name| request.headers().iter().any(|header| header.field.equiv(name));
    small && !streams("Transfer-Encoding") && !streams("Expect")
}

/// Lets go of a request of a closed connection, without an answer.
fn dispose(request: tiny_http::Request) {
    let can_be_had = |bytes| {
        let mut memory = Vec::<u8>::new();
        let is_there = memory.try_reserve_exact(bytes).is_ok();
        // Otherwise the compiler may do without.
        black_box(&memory);
        is_there
    };
    let announced = request.body_length().unwrap_or_default();
    if announced > MAX_DISCARD_BYTES || !can_be_had(announced) {
        // Dropping would abort the process. What is lost is counted by the guard.
        mem::forget(request);
    } else {
        // Dropped whole it would wait for its turn to answer an empty 500.
        drop(request.into_writer());
    }
}
