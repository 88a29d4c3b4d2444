//! The boundary to object stores.
//!
//! Owns: the [`ObjectStore`] trait, its S3 backend (`s3`, default on), an in-memory store for tests, and a wrapper that
//! injects faults.
//! Must not: know files, inodes or metadata; offer a directory of files as a store.
//! Invariants: keys and bytes are opaque; every call has a deadline; an acknowledged put is durable and visible.

mod errors;
mod fault;
mod memory;
mod store;

pub use errors::ObjectError;
pub use fault::{Fault, FaultStore, Operation, Stall};
pub use memory::MemoryStore;
pub use store::{ListPage, ObjectInfo, ObjectStore};
