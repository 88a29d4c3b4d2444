//! Metadata of a NoKV filesystem.
//!
//! Owns: the layout of records, commands with predicates, the Holt store and its committer, the service traits and the
//! in-process service, sessions, the garbage queue and its workers.
//! Must not: know the wire, the kernel, or an object provider.
//! Invariants: the committer is the only writer; a command takes effect as a whole, once; what was acknowledged is
//! durable; a record never names an object that was not durable before it.

#[cfg(feature = "holt")]
pub mod commit;
#[cfg(feature = "holt")]
pub mod layout;
pub mod service;
#[cfg(feature = "holt")]
pub mod store;
