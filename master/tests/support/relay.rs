//! A wire between two nodes that can be cut without either of them being told.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

/// Passes bytes on to another address. While it is cut, everything that is sent over it vanishes;
/// connections over which something has vanished lead nowhere for good.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Relay {
    /// A relay to this address.
    pub fn to(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let cut = Arc::clone(&cut);
                thread::spawn(move || connect(near, target, &cut));
            }
        });
        Relay { addr, is_cut }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on everything vanishes.
    pub fn cut(&self) {
        self.is_cut.store(true, SeqCst);
    }

    /// From now on new connections work again.
    pub fn mend(&self) {
        self.is_cut.store(false, SeqCst);
    }
}

fn connect(near: TcpStream, target: SocketAddr, cut: &AtomicBool) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let dead = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| pass_on(&far, &near, cut, &dead));
        pass_on(&near, &far, cut, &dead)
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream, cut: &AtomicBool, dead: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    // Nobody is told of an error: the other side finds out by its end of the wire.
    let mut pass = || -> io::Result<usize> {
        let count = from.read(&mut buffer)?;
        if cut.load(SeqCst) {
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
