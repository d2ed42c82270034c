//! A connection over which the head of a call leaves together with its body.
//!
//! ureq writes them one after the other. Each write wakes the peer, which finds half a request at
//! first: at one call after another that is a tenth of its time.

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};

/// Makes such connections.
#[derive(Debug, Default)]
pub(super) struct WholeCalls(TcpConnector);

/// See the module.
#[derive(Debug)]
pub(super) struct WholeCall<T> {
    inner: T,
    /// The first piece of a call, which waits for the second.
    head: Vec<u8>,
    /// Something of this call has been handed over already.
    begun: bool,
}

impl Connector<()> for WholeCalls {
    type Out = WholeCall<<TcpConnector as Connector<()>>::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let inner = self.0.connect(details, chained)?;
        Ok(inner.map(|inner| WholeCall { inner, head: Vec::new(), begun: false }))
    }
}

impl<T: Transport> WholeCall<T> {
    /// Puts what waits before the `amount` of bytes in the buffer, if there is room.
    fn join(&mut self, amount: usize) -> Option<usize> {
        let (head, output) = (&self.head, self.inner.buffers().output());
        let joined = head.len() + amount;
        let room = output.get_mut(..joined)?;
        room.copy_within(..amount, head.len());
        room[..head.len()].copy_from_slice(head);
        self.head.clear();
        Some(joined)
    }
}

impl<T: Transport> Transport for WholeCall<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if !std::mem::replace(&mut self.begun, true) {
            self.head.extend_from_slice(&self.inner.buffers().output()[..amount]);
            return Ok(());
        }
        if let Some(joined) = self.join(amount) {
            return self.inner.transmit_output(joined, timeout);
        }
        let rest = self.inner.buffers().output()[..amount].to_vec();
        let joined = self.join(0).expect("it came out of this buffer");
        self.inner.transmit_output(joined, timeout)?;
        self.inner.buffers().output()[..amount].copy_from_slice(&rest);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.begun = false;
        if !self.head.is_empty() {
            let alone = self.join(0).expect("it came out of this buffer");
            self.inner.transmit_output(alone, timeout)?;
        }
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::super::Client;

    /// What a peer gets with its first read of each of several calls that carry this body.
    fn first_reads(body: &[u8]) -> Vec<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let length = body.len();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut firsts, mut piece) = (Vec::new(), vec![0; 1 << 20]);
            for _ in 0..20 {
                let first = stream.read(&mut piece).unwrap();
                firsts.push(first);
                let mut call = piece[..first].to_vec();
                let end = b"\r\n\r\n";
                let whole = |call: &[u8]| {
                    call.windows(4).position(|four| four == end).map(|at| at + 4 + length)
                };
                while whole(&call).is_none_or(|whole| call.len() < whole) {
                    let count = stream.read(&mut piece).unwrap();
                    assert!(count > 0, "the call is cut off");
                    call.extend_from_slice(&piece[..count]);
                }
                assert_eq!(call.len(), whole(&call).unwrap(), "more than one call came");
                assert!(call.ends_with(&vec![b'x'; length]), "the body is not as it was sent");
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
            firsts
        });
        let client = Client::new(&base, Duration::from_secs(10));
        (0..20).for_each(|_| assert_eq!(client.post("/", body).unwrap().status, 200));
        peer.join().unwrap()
    }

    #[test]
    fn a_call_arrives_in_one_piece() {
        let firsts = first_reads(&[b'x'; 100]);
        assert!(firsts.iter().all(|first| *first > 150), "{firsts:?}");
        assert!(firsts.windows(2).all(|pair| pair[0] == pair[1]), "{firsts:?}");
    }

    #[test]
    fn a_call_that_is_larger_than_the_buffer_arrives_whole() {
        for length in [0, 1, 16 * 1024 - 200, 16 * 1024, 16 * 1024 + 1, 1 << 20] {
            first_reads(&vec![b'x'; length]);
        }
    }
}
