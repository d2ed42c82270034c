//! The pair from outside: the real programs, on ports the system picks. One file per promise.

mod broken;
mod calling;
mod exact;
mod harness;
mod netcat;
mod survival;
