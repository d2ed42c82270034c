//! Finds and closes connections, which tiny_http cannot: it accepts, and never lets go.
//!
//! Every open descriptor of this process is listed in `/dev/fd`, and a socket says who its peer is
//! and how much was read of it. A look at all descriptors is dear. So the guard rests after each
//! look, for much longer than the look took, and looks earlier only for a connection that somebody
//! asks for.

#![expect(unsafe_code, reason = "descriptors of tiny_http are borrowed by number, see `borrow`")]

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{mem, thread};

use crossbeam::channel::{Receiver, Sender, unbounded};
use log::{debug, warn};
use socket2::SockRef;

use super::farewell::Farewells;
use super::stats::Figures;
use super::turns::{Seen, Turns};
use crate::locked::locked;
use crate::seldom::Seldom;

/// Between two log lines about connections that speak another protocol.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The shortest time between two looks for connections that must be closed.
pub const TICK: Duration = Duration::from_millis(250);

/// That time for each open connection, as a look takes longer with many; half a timeout is the
/// most.
const TICK_PER_CONNECTION: Duration = Duration::from_millis(2);

/// After any look the guard rests for so many times its duration: all who ask for a connection in
/// the meantime share one look.
const REST: u32 = 4;

/// So many clients are refused after one look, as long as there is room for more connections: those
/// that come again and again are held up more than others are by them.
const MOST_REFUSALS: usize = 16;

/// A closed connection whose descriptor is still held after this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Requests of a closed connection may be on their way for so long in any case.
const HELD_AT_LEAST: Duration = Duration::from_secs(1);

/// Descriptors that a node keeps for everything that is not a connection of a client.
const OTHER_DESCRIPTORS: u64 = 64;

/// What is done with a connection, or without it when it is gone.
type Done = dyn FnOnce(&Guard, Option<Handle>) + Send;

/// What is to be done with the connection of a peer.
struct Order {
    peer: SocketAddr,
    is_refusal: bool,
    done: Box<Done>,
}

/// Peers, and the descriptors of the connection that each has made.
type Descriptors = HashMap<SocketAddr, Vec<RawFd>>;

/// Finds and closes the connections of one server.
pub(super) struct Guard {
    pub(super) figures: Arc<Figures>,
    pub(super) turns: Mutex<Turns<tiny_http::Request>>,
    port: u16,
    orders: (Sender<Order>, Receiver<Order>),
    pub(super) farewells: Farewells,
    closed: Mutex<HashMap<SocketAddr, Vec<Closed>>>,
    foreign: Seldom,
}

/// A handle of our own to a connection, and tiny_http's descriptors of it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) stream: TcpStream,
    descriptors: Vec<RawFd>,
    inode: u64,
}

/// A connection that was closed and whose descriptors tiny_http should give back soon.
#[derive(Debug)]
struct Closed {
    at: Instant,
    descriptors: Vec<RawFd>,
    inode: u64,
}

impl Guard {
    /// For connections that are made to this port.
    pub(super) fn new(port: u16, figures: Arc<Figures>) -> Guard {
        Guard {
            figures,
            turns: Mutex::new(Turns::new()),
            port,
            orders: unbounded(),
            farewells: Farewells::new(),
            closed: Mutex::default(),
            foreign: Seldom::new(LOG_INTERVAL),
        }
    }

    /// Looks after the connections until the server is over. Those that have been idle or
    /// trickling for a whole timeout are closed within half a timeout more.
    pub(super) fn watch(&self) {
        let mut due = Instant::now();
        let mut refusals = VecDeque::new();
        // Kept so that a look has what it needs when all other descriptors are used up.
        let mut spare = spare_descriptors();
        while !self.figures.is_over() {
            let wait = if refusals.is_empty() { due } else { Instant::now() };
            let mut orders = Vec::from_iter(self.orders.1.recv_deadline(wait));
            orders.extend(self.orders.1.try_iter());
            refusals.extend(orders.extract_if(.., |order| order.is_refusal));
            spare.clear();
            let begun = Instant::now();
            let open = connections_to(self.port);
            let is_tight = open.as_ref().is_ok_and(|open| open.len() > max_connections() / 2);
            let most = if is_tight { refusals.len() } else { MOST_REFUSALS.min(refusals.len()) };
            for order in orders.into_iter().chain(refusals.drain(..most)) {
                let found = open.as_ref().map(|open| match open.get(&order.peer) {
                    Some(held) => Handle::of(order.peer, held),
                    None => Ok(None),
                });
                match found {
                    Ok(Ok(handle)) => (order.done)(self, handle),
                    // All descriptors are used up: until the next look.
                    _ => _ = self.orders.0.send(order),
                }
            }
            if begun >= due {
                open.iter().for_each(|open| self.close_overdue(open, begun));
                self.count_stuck();
                let count = open.map_or(0, |open| u32::try_from(open.len()).unwrap_or(u32::MAX));
                let rest = TICK_PER_CONNECTION.saturating_mul(count);
                due = begun + rest.min(self.figures.limits.timeout / 2).max(TICK);
            }
            spare = spare_descriptors();
            thread::sleep(REST * begun.elapsed());
        }
    }

    fn close_overdue(&self, open: &Descriptors, begun: Instant) {
        let look =
            |held: &Vec<RawFd>| held.iter().find_map(|one| look_at(*one)).unwrap_or_default();
        let seen: HashMap<_, _> = open.iter().map(|(peer, held)| (*peer, look(held))).collect();
        let (most, limits) = (max_connections(), &self.figures.limits);
        let overdue = locked(&self.turns).overdue(&seen, begun, limits, most);
        for peer in overdue {
            if seen[&peer].is_foreign {
                self.note_foreign(peer);
            }
            let handle = Handle::of(peer, &open[&peer]).ok().flatten();
            handle.into_iter().for_each(|handle| self.close(peer, Some(handle)));
        }
    }

    fn note_foreign(&self, peer: SocketAddr) {
        self.figures.change(|stats| stats.foreign += 1);
        if let Some(count) = self.foreign.count() {
            warn!(
                "closed connections of TLS or HTTP/2, which it does not speak count={count} peer={peer}"
            );
        }
    }

    /// Has a connection closed soon, and something done after that.
    pub(super) fn close_soon(&self, peer: SocketAddr, leftover: impl FnOnce() + Send + 'static) {
        locked(&self.turns).doom(peer);
        self.order(peer, false, move |guard, handle| {
            guard.close(peer, handle);
            leftover();
        });
    }

    /// Has the connection of a peer closed soon whose request was told to give way, unless that
    /// request is over by then.
    pub(super) fn give_way(&self, peer: SocketAddr) {
        self.order(peer, false, move |guard, handle| {
            let is_there = locked(&guard.turns).is_giving_way(peer);
            if is_there {
                guard.close(peer, handle);
            }
        });
    }

    /// Has something done with the connection of this peer, or without it if it is gone. A refusal
    /// can wait a little.
    pub(super) fn order(
        &self,
        peer: SocketAddr,
        is_refusal: bool,
        done: impl FnOnce(&Guard, Option<Handle>) + Send + 'static,
    ) {
        // Both ends of the channel live as long as the guard.
        let _ = self.orders.0.send(Order { peer, is_refusal, done: Box::new(done) });
    }

    /// Closes a connection at once. Requests may be left over of one that its peer has ended, too.
    pub(super) fn close(&self, peer: SocketAddr, handle: Option<Handle>) {
        debug!("closed a connection peer={peer}");
        let (descriptors, inode) = match &handle {
            Some(handle) => (handle.descriptors.clone(), handle.inode),
            None => (Vec::new(), 0),
        };
        // Before the end, after which a new connection may come from there.
        locked(&self.turns).close(peer);
        let mut closed = locked(&self.closed);
        let of_peer = closed.entry(peer).or_default();
        of_peer.retain(|other| other.inode != inode);
        of_peer.push(Closed { at: Instant::now(), descriptors, inode });
        drop(closed);
        handle.iter().for_each(Handle::disconnect);
    }

    /// Whether a request of this peer may have been left over of a connection that was closed.
    pub(super) fn is_suspect(&self, peer: SocketAddr) -> bool {
        // What has not turned up until it counts as stuck never will.
        locked(&self.closed).get(&peer).is_some_and(|of| of.iter().any(|one| !one.is_old()))
    }

    fn count_stuck(&self) {
        let mut stuck = 0;
        locked(&self.closed).retain(|peer, of_peer| {
            of_peer.retain(Closed::is_held);
            // A handler that waits holds its connection too.
            if !locked(&self.turns).is_used(*peer) {
                stuck += of_peer.iter().filter(|one| one.is_old()).count();
            }
            !of_peer.is_empty()
        });
        let mut before = 0;
        self.figures.change(|stats| before = mem::replace(&mut stats.stuck, stuck));
        if stuck > before {
            warn!(
                "lost connections, with two descriptors and a thread each, for good stuck={stuck}"
            );
        }
    }
}

impl Handle {
    /// Made of the first descriptor that is still what it was; tiny_http may be closing the other.
    /// Fails when no descriptor is left for a duplicate.
    fn of(peer: SocketAddr, descriptors: &[RawFd]) -> io::Result<Option<Handle>> {
        for descriptor in descriptors {
            // SAFETY: see `borrow`. The duplicate is ours; it is used only if it is the same one.
            let duplicate = unsafe { borrow(*descriptor) }.try_clone_to_owned();
            let stream: TcpStream = match duplicate {
                Ok(duplicate) => duplicate.into(),
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
                Err(error) => return Err(error),
            };
            if stream.peer_addr().is_ok_and(|of| of == peer)
                && let Some(inode) = inode(stream.as_raw_fd())
            {
                return Ok(Some(Handle { stream, descriptors: descriptors.to_vec(), inode }));
            }
        }
        Ok(None)
    }

    /// Whether the peer has not taken everything yet that was sent to it.
    pub(super) fn is_sending(&self) -> bool {
        let mut unsent: libc::c_int = 0;
        // SAFETY: the pointer is to a valid integer that lives through the call.
        let answer =
            unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
        answer == 0 && unsent > 0
    }

    /// Ends the connection, which wakes tiny_http's thread to let go of it. Only shut down, a peer
    /// that goes on sending could keep that thread busy for ever: what has arrived is still read.
    fn disconnect(&self) {
        // Both fail when the peer has ended it already, which is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as _, sa_data: [0; 14] };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe one valid structure that lives through the
        // call. To be connected to nowhere makes Linux drop what has arrived and reset.
        unsafe { libc::connect(self.stream.as_raw_fd(), &raw const nowhere, length) };
    }
}

impl Closed {
    /// Whether tiny_http may still hold a descriptor of it, and with that have requests of it.
    fn is_held(&self) -> bool {
        self.at.elapsed() < HELD_AT_LEAST
            || self.descriptors.iter().any(|one| inode(*one) == Some(self.inode))
    }

    fn is_old(&self) -> bool {
        self.at.elapsed() > STUCK_AFTER
    }
}

/// What tells a socket from any other one, as long as it is open.
fn inode(descriptor: RawFd) -> Option<u64> {
    let metadata = fs::metadata(format!("/dev/fd/{descriptor}")).ok()?;
    metadata.file_type().is_socket().then_some(metadata.ino())
}

/// How many connections a node keeps open at most: two descriptors each, half of what the process
/// may have.
pub fn max_connections() -> usize {
    let limit = descriptor_limit().map_or(1024, |limit| limit.rlim_cur);
    usize::try_from((limit.saturating_sub(OTHER_DESCRIPTORS) / 4).clamp(8, 16_384))
        .expect("clamped to a small number")
}

/// Raises this process's soft limit on descriptors to its hard limit, as far as is useful.
pub(super) fn raise_descriptor_limit() {
    if let Some(mut limit) = descriptor_limit() {
        limit.rlim_cur = limit.rlim_max.min(65_536).max(limit.rlim_cur);
        // SAFETY: the pointer is to a valid structure that lives through the call.
        // A refusal leaves the limit as it is, which the caller reads next.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

fn descriptor_limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a valid structure that lives through the call.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (answer == 0).then_some(limit)
}

/// Four of them, if so many are left: a new reception of requests needs as many.
pub(super) fn spare_descriptors() -> Vec<File> {
    (0..4).filter_map(|_| File::open("/dev/null").ok()).collect()
}

/// All open connections that clients made to this local port.
fn connections_to(port: u16) -> io::Result<Descriptors> {
    let mut found = Descriptors::new();
    for entry in fs::read_dir("/dev/fd")? {
        let number = entry?.file_name();
        let Some(number) = number.to_str().and_then(|number| number.parse().ok()) else { continue };
        // SAFETY: see `borrow`; both calls only ask the system about the number.
        let socket = unsafe { borrow(number) };
        let socket = SockRef::from(&socket);
        let Some(peer) = address(socket.peer_addr()) else { continue };
        if address(socket.local_addr()).is_some_and(|local| local.port() == port) {
            found.entry(peer).or_default().push(number);
        }
    }
    Ok(found)
}

/// Whether this descriptor is a socket that listens at this address.
pub(super) fn listens(descriptor: RawFd, at: SocketAddr) -> bool {
    // SAFETY: see `borrow`; both calls only ask the system about the number.
    let socket = unsafe { borrow(descriptor) };
    let socket = SockRef::from(&socket);
    socket.is_listener().unwrap_or(false) && address(socket.local_addr()) == Some(at)
}

/// Looks at a descriptor that somebody else owns.
///
/// # Safety
/// The number may be closed or reused at any moment: ask only what does no harm to a stranger,
/// and act only on a duplicate that was checked. It must not be -1.
unsafe fn borrow(descriptor: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller keeps to the rule above.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

fn address(answer: io::Result<socket2::SockAddr>) -> Option<SocketAddr> {
    answer.ok()?.as_socket()
}

/// How a connection stands.
#[cfg(target_os = "linux")]
fn look_at(descriptor: RawFd) -> Option<Seen> {
    /// The states of Linux in which the peer has not ended its side: established, and our own end
    /// sent before.
    const OPEN: [u8; 3] = [1, 4, 5];
    const SEGMENTS_OUT: usize = std::mem::offset_of!(libc::tcp_info, tcpi_data_segs_out) + 4;
    let mut unread: libc::c_int = 0;
    // SAFETY: the pointer is to a valid integer that lives through the call.
    let answer = unsafe { libc::ioctl(descriptor, libc::FIONREAD, &raw mut unread) };
    let unread = u64::try_from(unread).ok().filter(|_| answer == 0)?;
    // SAFETY: all bits zero is a valid value of this structure of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the pointer and the length describe one valid structure; the kernel writes at most
    // that many bytes, and older kernels fewer.
    let answer = unsafe {
        let into = (&raw mut info).cast();
        libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length)
    };
    let known = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_received) + 8;
    let has_bytes = usize::try_from(length).ok()? >= known;
    let was_sent = usize::try_from(length).ok()? < SEGMENTS_OUT || info.tcpi_data_segs_out > 0;
    let is_silent = has_bytes && info.tcpi_bytes_received == 0;
    // Beyond the filter the system drops probes too. Those it counts; the first one counted is the
    // end of the handshake.
    let probes = info.tcpi_segs_in.saturating_sub(1);
    (answer == 0).then_some(Seen {
        read: has_bytes.then(|| info.tcpi_bytes_received.saturating_sub(unread)),
        is_ended: !OPEN.contains(&info.tcpi_state),
        unsent_for: (!was_sent).then(|| Duration::from_millis(info.tcpi_last_data_sent.into())),
        is_foreign: is_silent && dropped(descriptor) > probes,
    })
}

/// How many segments of this connection the system has dropped.
#[cfg(target_os = "linux")]
fn dropped(descriptor: RawFd) -> u32 {
    let mut figures = [0_u32; 16];
    let mut length = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: the pointer and the length describe one valid array; the kernel writes at most that
    // many bytes.
    let answer = unsafe {
        let into = figures.as_mut_ptr().cast();
        libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_MEMINFO, into, &raw mut length)
    };
    if answer == 0 { figures[libc::SK_MEMINFO_DROPS as usize] } else { 0 }
}

#[cfg(not(target_os = "linux"))]
fn look_at(_descriptor: RawFd) -> Option<Seen> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A listener's port, a client, and the server's end of its connection.
    fn connection() -> (u16, TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, peer) = listener.accept().unwrap();
        (address.port(), client, server, peer)
    }

    #[test]
    fn a_connection_is_found_and_closed() {
        let (port, mut client, mut server, peer) = connection();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 3]).unwrap();
        let found = connections_to(port).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&peer]);
        let held = &found[&peer];
        let look = || look_at(held[0]).unwrap();
        assert_eq!((look().read, look().is_ended), (Some(3), false));
        assert!(look().unsent_for.unwrap() < Duration::from_secs(60), "{:?}", look());

        let handle = Handle::of(peer, held).unwrap().unwrap();
        let socket = inode(server.as_raw_fd());
        assert_eq!(Some(handle.inode), socket);
        handle.disconnect();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the client must see the end");
        assert!(server.write(b"x").is_err() && server.read(&mut [0; 1]).is_err());
        assert!(Handle::of(peer, held).unwrap().is_none(), "the number no longer stands for it");
    }

    #[test]
    fn either_descriptor_gives_a_handle() {
        let (_, _client, server, peer) = connection();
        for closed_first in [true, false] {
            let (one, other) = (server.try_clone().unwrap(), server.try_clone().unwrap());
            let mut descriptors = vec![one.as_raw_fd(), other.as_raw_fd()];
            if !closed_first {
                descriptors.reverse();
            }
            drop(one);
            assert!(
                Handle::of(peer, &descriptors).unwrap().is_some(),
                "closed first: {closed_first}"
            );
        }
    }

    #[test]
    fn a_listener_is_told_from_other_descriptors() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(listener.try_clone().unwrap().as_raw_fd(), address));
        assert!(!listens(TcpStream::connect(address).unwrap().as_raw_fd(), address));
        assert!(!listens(File::open("/dev/null").unwrap().as_raw_fd(), address));
    }
}
