//! Keeps away what is no HTTP/1: the preface of HTTP/2, and the hello of TLS.
//!
//! tiny_http loses a thread and two descriptors for good to each connection that begins so. A filter
//! of the system on the listening socket, which its connections inherit, drops the segments that
//! begin so. tiny_http sees a silent connection then, and the guard closes it.
//!
//! The filter knows no connections and looks at each segment, in the middle of a body too. No JSON
//! has a line end inside `PRI * HTTP/2.0`, or the byte 0x16.

use std::io;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD,
    BPF_LEN, BPF_MISC, BPF_RET, BPF_RSH, BPF_SUB, BPF_TAX, BPF_W, BPF_X,
};
use socket2::{SockFilter, Socket};

/// The numbers that a segment begins with: the size, the place and the value of each.
type Beginning = &'static [(u32, u32, u32)];

/// RFC 9113, 3.4.
const HTTP_2: Beginning = &[
    (BPF_W, 0, u32::from_be_bytes(*b"PRI ")),
    (BPF_W, 4, u32::from_be_bytes(*b"* HT")),
    (BPF_W, 8, u32::from_be_bytes(*b"TP/2")),
    (BPF_W, 12, u32::from_be_bytes(*b".0\r\n")),
];

/// RFC 8446, 5.1 and 4.1.2: a record with a handshake of 3.x, in it the hello of a client of 3.x.
const TLS: Beginning = &[(BPF_H, 0, 0x1603), (BPF_B, 5, 1), (BPF_B, 9, 3)];

/// A shorter segment is no foreign one.
const LEAST_BYTES: u32 = 16;

/// Attaches the filter.
///
/// # Errors
/// When the system has no such filters.
pub(super) fn keep_away(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&program(&[HTTP_2, TLS]))
}

/// The filter in classic BPF, whose conditional jumps say how many instructions they pass over.
fn program(foreign: &[Beginning]) -> Vec<SockFilter> {
    let go = |code: u32, k| SockFilter::new(code as u16, 0, 0, k);
    let unless = |condition: u32, k, over: usize| {
        SockFilter::new((BPF_JMP | BPF_K | condition) as u16, 0, over as u8, k)
    };
    let length = |beginning: &Beginning| 2 * beginning.len() + 1;
    let mut program = vec![
        // The segment begins with the header of TCP, whose length becomes the register X.
        go(BPF_LD | BPF_B | BPF_ABS, 12),
        go(BPF_ALU | BPF_RSH | BPF_K, 2),
        go(BPF_ALU | BPF_AND | BPF_K, 0x3c),
        go(BPF_MISC | BPF_TAX, 0),
        go(BPF_LD | BPF_W | BPF_LEN, 0),
        go(BPF_ALU | BPF_SUB | BPF_X, 0),
        unless(BPF_JGE, LEAST_BYTES, foreign.iter().map(length).sum()),
    ];
    for beginning in foreign {
        let end = program.len() + length(beginning);
        for (size, at, value) in *beginning {
            program.push(go(BPF_LD | size | BPF_IND, *at));
            program.push(unless(BPF_JEQ, *value, end - program.len() - 1));
        }
        program.push(go(BPF_RET | BPF_K, 0));
    }
    program.push(go(BPF_RET | BPF_K, u32::MAX));
    program
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    use super::super::Listener;

    /// What of these segments arrives at a listener with the filter.
    fn arrived(segments: &[&[u8]]) -> Vec<u8> {
        let Listener(listener) = Listener::bind("127.0.0.1", 0).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let mut all = Vec::new();
        for segment in segments {
            client.write_all(segment).unwrap();
            let mut read = vec![0; segment.len()];
            if server.read_exact(&mut read).is_err() {
                break;
            }
            all.extend(read);
        }
        client.shutdown(Shutdown::Both).unwrap();
        all
    }

    #[test]
    fn only_foreign_beginnings_are_dropped() {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for foreign in [&hello[..], &preface[..], &preface[..16]] {
            assert_eq!(arrived(&[foreign]), b"", "{foreign:?}");
            assert_eq!(arrived(&[b"GET ", foreign]), b"GET ", "{foreign:?}");
        }
        let mut alert = *hello;
        alert[5] = 2;
        let own: [&[u8]; 6] = [
            b"G",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0 and more text",
            b"PRI ",
            &hello[..15],
            &alert,
        ];
        for own in own {
            assert_eq!(arrived(&[own, own]), [own, own].concat(), "{own:?}");
        }
    }
}
