//! Iteration 0: a TCP echo server and a client for it, with the standard library alone.
//!
//! Nothing is replicated yet. The pair proves that two programs can talk on this machine, and it
//! meets, in the smallest program that has them, the questions every later node has to answer.
//!
//! ```text
//! $ echo-server 9009                       $ echo-client 127.0.0.1 9009 "hello world"
//! listening on 127.0.0.1:9009              hello world
//! connected peer=127.0.0.1:51514
//! closed peer=127.0.0.1:51514 bytes=11
//! ```
//!
//! # The protocol
//!
//! There is none: no header, no length, no separator. A TCP connection is two streams of bytes,
//! one in each direction, and each can be ended on its own.
//!
//! 1. The client sends its message and ends its stream (a *half-close*, `shutdown(SHUT_WR)`).
//! 2. The server sends every byte back as it comes. When the client's stream has ended and the
//!    last byte is on its way, the server closes the connection.
//! 3. The client reads until the server's stream ends. What came back must be what was sent.
//!
//! The end of a stream is thus the only mark there is, and it makes a message of no bytes as
//! ordinary as one of a gigabyte. `nc -N 127.0.0.1 9009` speaks this protocol as well.
//!
//! # Where a naive pair breaks
//!
//! **Both sides send and neither reads.** A client that first sends everything and then reads
//! works until the message is longer than the buffers of both kernels together, some megabytes.
//! Then the server waits for the client to read and the client for the server, for ever.
//! [`client::exchange`] sends from a second thread while it reads.
//!
//! **A peer that does not read.** The server holds one buffer of [`CHUNK_BYTES`] per connection
//! and reads the next bytes only after the last ones were handed to the kernel. Who does not read
//! stops being read from: the memory stays as it was.
//!
//! **A peer that is gone without a word.** A cable pulled out sends no end of stream. The client
//! gives up after [`client::TIMEOUT`] without a byte in either direction; the server drops a
//! connection after [`server::Limits::idle`], so a dead peer does not hold its place for ever.
//!
//! **Too many peers.** Each connection costs a thread, so their number has a limit,
//! [`server::Limits::connections`]. Beyond it a connection is closed as soon as it is accepted,
//! which tells the client more than being left to wait would.
//!
//! **A server that cannot accept.** Out of descriptors or threads, `accept` fails at once and
//! goes on failing. The server pauses between attempts instead of spinning, logs when the failure
//! starts and when it ends, and lives on.
//!
//! **A reply that ends early.** Bytes that arrive are no proof that all have arrived. The client
//! compares what came back with what it sent, and says so with its exit code.
//!
//! # What is left out
//!
//! No encryption, no authentication, no retries, no orderly stop: the server ends when it is
//! killed, and its connections with it. A client that sends nothing cannot tell an echo of nothing
//! from a connection that was closed at once.
//!
//! # Where things are
//!
//! [`server`] accepts connections and echoes them, [`client`] sends one message and checks the
//! reply, [`command`] is what both programs share: how they end.

pub mod client;
pub mod command;
pub mod server;

/// Size in bytes of the buffer a connection is read into and of the pieces a message is sent in.
///
/// It bounds the memory of a connection in the server, and it is the step in which the client
/// notices that its message moves on.
pub const CHUNK_BYTES: usize = 16 * 1024;
