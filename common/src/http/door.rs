//! The way to a connection's own socket, which tiny_http keeps to itself.
//!
//! tiny_http accepts, and never lets go: it has no call to close a connection or to ask how long
//! one has been silent. The kernel knows, though: every open descriptor of this process is listed
//! in `/dev/fd`, and a socket says who its peer is. A descriptor that belongs to somebody else is
//! looked at only through a duplicate of our own, checked again before anything is done with it,
//! so that one which is closed and reused in between comes to no harm.

#![expect(unsafe_code, reason = "descriptors of tiny_http are borrowed by number, see `borrow`")]

use std::fs::{self, File};
use std::io;
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

/// A connection found among this process's descriptors.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) seen: Seen,
    descriptor: RawFd,
}

/// A connection that was closed and whose descriptor tiny_http should give back soon.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed {
    descriptor: RawFd,
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
    let mut found: Vec<Found> = Vec::new();
    for descriptor in descriptors()? {
        // SAFETY: see `borrow`; both calls only ask the kernel about the number.
        let socket = unsafe { borrow(descriptor) };
        let socket = SockRef::from(&socket);
        let (Some(peer), Some(local)) = (address(socket.peer_addr()), address(socket.local_addr()))
        else {
            continue;
        };
        if local.port() == port {
            let bytes_read = bytes_read(descriptor);
            found.push(Found { seen: Seen { peer, bytes_read }, descriptor });
        }
    }
    // tiny_http holds each connection by two descriptors; one is enough to know it by.
    found.sort_by_key(|found| (found.seen.peer, found.descriptor));
    found.dedup_by_key(|found| found.seen.peer);
    Ok(found)
}

/// The connection that this peer made to this local port.
pub(super) fn find(peer: SocketAddr, port: u16) -> Option<Found> {
    connections_to(port).ok()?.into_iter().find(|found| found.seen.peer == peer)
}

impl Found {
    /// A handle of our own, if the descriptor still is what it was.
    pub(super) fn handle(&self) -> Option<TcpStream> {
        // SAFETY: see `borrow`. The duplicate is ours; it is used only if it is the same socket.
        let duplicate = unsafe { borrow(self.descriptor) }.try_clone_to_owned().ok()?;
        let stream = TcpStream::from(duplicate);
        (stream.peer_addr().ok()? == self.seen.peer).then_some(stream)
    }

    /// Ends the connection, which wakes tiny_http's thread to let go of it.
    pub(super) fn close(&self) -> Option<Closed> {
        let stream = self.handle()?;
        end(&stream);
        let inode = File::from(OwnedFd::from(stream)).metadata().ok()?.ino();
        Some(Closed { descriptor: self.descriptor, inode })
    }
}

/// Ends a connection at once, whoever else holds it: nothing more is sent or read. A peer that
/// goes on sending could keep a connection which was only shut down busy for ever, for what has
/// arrived is still read.
fn end(stream: &TcpStream) {
    // Both fail when the peer has ended the connection already, which is as good.
    let _ = stream.shutdown(Shutdown::Both);
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as _, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe one valid structure that lives through the call.
    // Connecting to nowhere makes Linux drop what has arrived and reset the connection.
    unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, length) };
}

impl Closed {
    /// Whether tiny_http still holds the descriptor.
    pub(super) fn is_held(&self) -> bool {
        let link = fs::read_link(format!("/proc/self/fd/{}", self.descriptor));
        link.is_ok_and(|link| link.as_os_str() == format!("socket:[{}]", self.inode).as_str())
    }
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

#[cfg(target_os = "linux")]
fn bytes_read(descriptor: RawFd) -> Option<u64> {
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
    if answer != 0 || usize::try_from(length).ok()? < known {
        return None;
    }
    // What waits in the kernel has not been read. Asked second, so that the difference errs on
    // the small side.
    let mut waiting: libc::c_int = 0;
    // SAFETY: the pointer is to a valid integer that lives through the call.
    let answer = unsafe { libc::ioctl(descriptor, libc::FIONREAD, &raw mut waiting) };
    let waiting = if answer == 0 { u64::try_from(waiting).ok()? } else { return None };
    Some(info.tcpi_bytes_received.saturating_sub(waiting))
}

#[cfg(not(target_os = "linux"))]
fn bytes_read(_descriptor: RawFd) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_connection_is_found_by_its_peer_with_what_was_read_and_can_be_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 3]).unwrap();

        let found = connections_to(port).unwrap();
        let seen: Vec<_> = found.iter().map(|f| (f.seen.peer, f.seen.bytes_read)).collect();
        assert_eq!(seen, [(peer, Some(3))]);

        let closed = found[0].close().unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the client must see the end");
        assert!(closed.is_held());
        drop(server);
        assert!(!closed.is_held());
        assert!(found[0].close().is_none(), "the number no longer stands for this connection");
    }
}
