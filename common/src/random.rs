//! Random numbers that spread pauses, epochs and names. They guard no secret.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A random number.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
