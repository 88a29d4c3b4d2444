//! Metadata of a NoKV filesystem.
//!
//! Owns: the layout of records, commands with predicates, the Holt store and its committer, the service traits and the
//! in-process service, sessions, the garbage queue and its workers.
//! Must not: know the wire, the kernel, or an object provider.
//! Invariants: the committer is the only writer; a command takes effect as a whole, once; what was acknowledged is
//! durable; a record never names an object that was not durable before it.

#[cfg(feature = "holt")]
mod check;
#[cfg(feature = "holt")]
pub mod commit;
#[cfg(feature = "holt")]
mod engine;
#[cfg(feature = "holt")]
mod gc;
#[cfg(feature = "holt")]
pub mod layout;
#[cfg(feature = "holt")]
mod lineage;
#[cfg(feature = "holt")]
mod local;
#[cfg(feature = "holt")]
mod local_locks;
mod lock_ranges;
mod open_table;
#[cfg(feature = "holt")]
mod plan;
#[cfg(feature = "holt")]
mod read;
pub mod service;
#[cfg(feature = "holt")]
mod session;
mod slots;
#[cfg(feature = "holt")]
pub mod store;

#[cfg(feature = "holt")]
pub use engine::{Engine, EngineOptions, Figures};
#[cfg(feature = "holt")]
pub use local::LocalService;
pub use lock_ranges::{LockPiece, LockRanges};
pub use open_table::OpenTable;
pub use slots::{Slot, Slots};
