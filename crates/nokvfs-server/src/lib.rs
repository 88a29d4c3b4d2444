//! The metadata server's process: requests in, answers out.
//!
//! Owns: listeners, TLS and roles, connections, what a connection may ask for, HTTP status, metrics, draining.
//! Must not: know records, decide what a request does, touch file bytes.
//! Invariants: no request of a connection touches a session that was not opened or attached on it with the volume's
//! token; a request costs no task of its own; every connection, request and reply has its limit and its deadline.

mod backend;
mod connection;
mod dispatch;
mod engine;
mod http;
mod listener;
mod metrics;
mod options;
mod outbound;
mod peer;
mod probe;
mod server;
mod tls;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Figures};
pub use options::{Limits, Listen, MEMORY_MIN, OptionsError, ServerOptions, TlsFiles};
pub use server::{ServeOptions, Server};
