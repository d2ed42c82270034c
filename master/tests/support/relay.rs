//! A wire between two nodes that can be cut without either of them being told.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{SOON, wait_until};

/// Passes bytes on to another address. While it is cut, everything that is sent over it vanishes;
/// connections from before it is mended lead nowhere then.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The directions in which bytes vanish.
    cut: AtomicU8,
    /// How often it was mended.
    mended: AtomicUsize,
    /// Whose connections were taken.
    taken: Mutex<Vec<SocketAddr>>,
}

const CALLS: u8 = 1;
const ANSWERS: u8 = 2;

impl Relay {
    /// A relay to this address.
    pub fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((near, peer)) = listener.accept() {
                let (shared, born) = (Arc::clone(&theirs), theirs.mended.load(SeqCst));
                thread::spawn(move || connect(near, target, &shared, born));
                theirs.taken.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
            }
        });
        Relay { addr, shared }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on everything vanishes.
    pub fn cut(&self) {
        self.shared.cut.store(CALLS | ANSWERS, SeqCst);
    }

    /// From now on calls arrive, and their answers vanish.
    pub fn cut_answers(&self) {
        self.shared.cut.store(ANSWERS, SeqCst);
    }

    /// From now on new connections work again.
    pub fn mend(&self) {
        if self.shared.cut.load(SeqCst) == 0 {
            return;
        }
        // All that were made before this one are taken when it is.
        let last = TcpStream::connect(self.addr).expect("it listens");
        let last = last.local_addr().expect("it is connected");
        wait_until("taken", SOON, || {
            let taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
            if taken.contains(&last) { Ok(()) } else { Err(taken.len()) }
        });
        self.shared.mended.fetch_add(1, SeqCst);
        self.shared.cut.store(0, SeqCst);
    }
}

fn connect(near: TcpStream, target: SocketAddr, shared: &Shared, born: usize) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let dead = AtomicBool::new(false);
    let is_cut =
        |direction| shared.cut.load(SeqCst) & direction > 0 || shared.mended.load(SeqCst) != born;
    thread::scope(|scope| {
        scope.spawn(|| pass_on(&far, &near, || is_cut(ANSWERS), &dead));
        pass_on(&near, &far, || is_cut(CALLS), &dead)
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream, is_cut: impl Fn() -> bool, dead: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    // Nobody is told of an error: the other side finds out by its end of the wire.
    let mut pass = || -> io::Result<usize> {
        let count = from.read(&mut buffer)?;
        if is_cut() {
            dead.store(true, SeqCst);
        }
        if count > 0 && !dead.load(SeqCst) {
            to.write_all(&buffer[..count])?;
        }
        Ok(count)
    };
    while pass().is_ok_and(|count| count > 0) {}
    if !dead.load(SeqCst) {
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}
