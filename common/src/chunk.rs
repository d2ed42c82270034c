//! Bytes that several threads read at once: a long log is answered without copying it.

use std::ops::Range;
use std::sync::Arc;

/// A piece of text: its own bytes, or a range of bytes that others hold too.
pub enum Chunk {
    /// Bytes of its own.
    Owned(Vec<u8>),
    /// A range of shared bytes, read without a copy.
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>),
}

impl Chunk {
    /// The bytes of the chunk.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Owned(bytes) => bytes,
            Chunk::Shared(owner, range) => &(**owner).as_ref()[range.clone()],
        }
    }
}
