//! stub
pub mod client;
pub mod entries;
pub mod http;
pub mod logging;
pub mod node;
pub mod settings;
pub mod wire;
