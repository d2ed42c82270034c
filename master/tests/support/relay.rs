//! A wire between two nodes that can be cut without either of them being told.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::thread;

/// Passes bytes on to another address. While it is cut, everything that is sent over it vanishes;
/// connections over which something has vanished lead nowhere for good.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    /// The directions in which bytes vanish.
    cut: Arc<AtomicU8>,
}

const CALLS: u8 = 1;
const ANSWERS: u8 = 2;

impl Relay {
    /// A relay to this address.
    pub fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let cut = Arc::new(AtomicU8::new(0));
        let now = Arc::clone(&cut);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let cut = Arc::clone(&now);
                thread::spawn(move || connect(near, target, &cut));
            }
        });
        Relay { addr, cut }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on everything vanishes.
    pub fn cut(&self) {
        self.cut.store(CALLS | ANSWERS, SeqCst);
    }

    /// From now on calls arrive, and their answers vanish.
    pub fn cut_answers(&self) {
        self.cut.store(ANSWERS, SeqCst);
    }

    /// From now on new connections work again.
    pub fn mend(&self) {
        self.cut.store(0, SeqCst);
    }
}

fn connect(near: TcpStream, target: SocketAddr, cut: &AtomicU8) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let dead = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| pass_on(&far, &near, || cut.load(SeqCst) & ANSWERS > 0, &dead));
        pass_on(&near, &far, || cut.load(SeqCst) & CALLS > 0, &dead)
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
