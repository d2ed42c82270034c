//! The way to a connection's own socket, which tiny_http keeps to itself.
//!
//! tiny_http accepts, and never lets go: it has no call to close a connection or to ask how long
//! one has been silent. The kernel knows, though: every open descriptor of this process is listed
//! in `/dev/fd`, and a socket says who its peer is. A descriptor that belongs to somebody else is
//! looked at only through a duplicate of our own, checked again before anything is done with it,
//! so that one which is closed and reused in between comes to no harm.

#![expect(unsafe_code, reason = "descriptors of tiny_http are borrowed by number, see `borrow`")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use socket2::SockRef;

use super::connections::Seen;

/// How often connections are looked at.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Descriptors that a node keeps for everything that is not a connection of a client.
const OTHER_DESCRIPTORS: u64 = 64;

/// A connection found among this process's descriptors. tiny_http holds each by two of them.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) seen: Seen,
    descriptors: Vec<RawFd>,
}

/// A handle of our own to a connection.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) stream: TcpStream,
    closed: Closed,
}

/// A connection that was closed and whose descriptors tiny_http should give back soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closed {
    descriptors: Vec<RawFd>,
    inode: u64,
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

/// All open connections that clients made to this local port.
///
/// # Errors
/// When the list of descriptors cannot be read, as when none is left to read it with.
pub(super) fn connections_to(port: u16) -> io::Result<Vec<Found>> {
    let mut found: HashMap<SocketAddr, Found> = HashMap::new();
    for descriptor in descriptors()? {
        let Some(peer) = peer_of(descriptor, port) else { continue };
        let one = found.entry(peer).or_insert_with(|| {
            let seen = Seen { peer, bytes_read: bytes_read(descriptor) };
            Found { seen, descriptors: Vec::with_capacity(2) }
        });
        one.descriptors.push(descriptor);
    }
    Ok(found.into_values().collect())
}

/// A handle of our own to the connection that this peer made to this local port.
pub(super) fn handle_of(peer: SocketAddr, port: u16) -> Option<Handle> {
    let mut descriptors = descriptors().ok()?;
    descriptors.retain(|descriptor| peer_of(*descriptor, port) == Some(peer));
    Found { seen: Seen { peer, bytes_read: None }, descriptors }.handle()
}

/// Whether this descriptor is a socket that listens at this address.
pub(super) fn listens(descriptor: RawFd, at: SocketAddr) -> bool {
    // SAFETY: see `borrow`; both calls only ask the kernel about the number.
    let socket = unsafe { borrow(descriptor) };
    let socket = SockRef::from(&socket);
    socket.is_listener().unwrap_or(false) && address(socket.local_addr()) == Some(at)
}

impl Found {
    /// A handle of our own, if one of the descriptors still is what it was: tiny_http may be closing
    /// the other one just now.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.descriptors.iter().find_map(|descriptor| self.duplicate(*descriptor))
    }

    fn duplicate(&self, descriptor: RawFd) -> Option<Handle> {
        // SAFETY: see `borrow`. The duplicate is ours; it is used only if it is the same socket.
        let duplicate = unsafe { borrow(descriptor) }.try_clone_to_owned().ok()?;
        let stream = TcpStream::from(duplicate);
        if stream.peer_addr().ok()? != self.seen.peer {
            return None;
        }
        let inode = File::from(OwnedFd::from(stream.try_clone().ok()?)).metadata().ok()?.ino();
        Some(Handle { stream, closed: Closed { descriptors: self.descriptors.clone(), inode } })
    }
}

impl Handle {
    /// Ends the connection at once, which wakes tiny_http's thread to let go of it. Only shut down,
    /// a peer that goes on sending could keep that thread busy for ever: what has arrived is still
    /// read.
    pub(super) fn close(self) -> Closed {
        // Both fail when the peer has ended it already, which is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as _, sa_data: [0; 14] };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe one valid structure that lives through the
        // call. To be connected to nowhere makes Linux drop what has arrived and reset.
        unsafe { libc::connect(self.stream.as_raw_fd(), &raw const nowhere, length) };
        self.closed
    }

    /// Whether the peer has sent its last byte, and all of them have been read.
    pub(super) fn is_at_end(&self) -> bool {
        let (mut byte, flags) = ([MaybeUninit::uninit()], libc::MSG_PEEK | libc::MSG_DONTWAIT);
        matches!(SockRef::from(&self.stream).recv_with_flags(&mut byte, flags), Ok(0))
    }
}

impl Closed {
    /// Whether tiny_http still holds a descriptor of it.
    pub(super) fn is_held(&self) -> bool {
        let name = format!("socket:[{}]", self.inode);
        self.descriptors.iter().any(|descriptor| {
            let link = fs::read_link(format!("/proc/self/fd/{descriptor}"));
            link.is_ok_and(|link| link.as_os_str() == name.as_str())
        })
    }
}

/// The peer of a connection that was made to this local port, if the descriptor is one.
fn peer_of(descriptor: RawFd, port: u16) -> Option<SocketAddr> {
    // SAFETY: see `borrow`; both calls only ask the kernel about the number.
    let socket = unsafe { borrow(descriptor) };
    let socket = SockRef::from(&socket);
    let local = address(socket.local_addr())?;
    if local.port() == port { address(socket.peer_addr()) } else { None }
}

fn descriptors() -> io::Result<Vec<RawFd>> {
    let names =
        fs::read_dir("/dev/fd")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// Looks at a descriptor that somebody else owns.
///
/// # Safety
/// The number may be closed or reused at any moment: ask only what does no harm to a stranger,
/// and act only on a duplicate that was checked.
unsafe fn borrow(descriptor: RawFd) -> BorrowedFd<'static> {
    // SAFETY: descriptors in `/dev/fd` are never -1; the caller keeps to the rule above.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

fn address(answer: io::Result<socket2::SockAddr>) -> Option<SocketAddr> {
    answer.ok()?.as_socket()
}

/// Bytes that arrived, without those that nobody has read yet.
fn bytes_read(descriptor: RawFd) -> Option<u64> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the pointer is to a valid integer that lives through the call.
    let answer = unsafe { libc::ioctl(descriptor, libc::FIONREAD, &raw mut unread) };
    let unread = u64::try_from(unread).ok().filter(|_| answer == 0)?;
    Some(bytes_received(descriptor)?.saturating_sub(unread))
}

#[cfg(target_os = "linux")]
fn bytes_received(descriptor: RawFd) -> Option<u64> {
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
    (answer == 0 && usize::try_from(length).ok()? >= known).then_some(info.tcpi_bytes_received)
}

#[cfg(not(target_os = "linux"))]
fn bytes_received(_descriptor: RawFd) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_connection_is_found_by_its_peer_with_what_was_read_of_it_and_can_be_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 3]).unwrap();

        let found = connections_to(address.port()).unwrap();
        let seen: Vec<_> = found.iter().map(|f| (f.seen.peer, f.seen.bytes_read)).collect();
        assert_eq!(seen, [(peer, Some(3))]);

        let handle = handle_of(peer, address.port()).unwrap();
        assert!(!handle.is_at_end());
        let closed = handle.close();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the client must see the end");
        assert!(closed.is_held());
        drop(server);
        assert!(!closed.is_held());
        assert!(found[0].handle().is_none(), "the number no longer stands for this connection");
    }

    #[test]
    fn a_connection_is_had_by_whichever_of_its_descriptors_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (server, peer) = listener.accept().unwrap();
        for closed_first in [true, false] {
            let (one, other) = (server.try_clone().unwrap(), server.try_clone().unwrap());
            let mut descriptors = vec![one.as_raw_fd(), other.as_raw_fd()];
            if !closed_first {
                descriptors.reverse();
            }
            drop(one);
            let found = Found { seen: Seen { peer, bytes_read: None }, descriptors };
            assert!(found.handle().is_some(), "the first was closed: {closed_first}");
        }
    }

    #[test]
    fn the_end_of_what_a_peer_sends_is_seen_when_all_of_it_has_been_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let handle = handle_of(peer, address.port()).unwrap();
        assert!(!handle.is_at_end());
        server.read_to_end(&mut Vec::new()).unwrap();
        assert!(handle.is_at_end());
    }

    #[test]
    fn a_copy_of_a_listener_is_told_from_other_descriptors_and_from_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let copy = listener.try_clone().unwrap();
        let descriptor = copy.as_raw_fd();
        assert!(listens(descriptor, address));
        assert!(!listens(TcpStream::connect(address).unwrap().as_raw_fd(), address));
        assert!(!listens(File::open("/dev/null").unwrap().as_raw_fd(), address));
    }
}
