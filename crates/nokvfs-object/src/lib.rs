//! The boundary to object stores.
//!
//! Owns: the [`ObjectStore`] trait, its S3 backend (`s3`, default on), an in-memory store for tests, and a wrapper that
//! injects faults.
//! Must not: know files, inodes or metadata; offer a directory of files as a store.
//! Invariants: keys and bytes are opaque; every call has a deadline; an acknowledged put is durable and visible.

mod errors;
mod fault;
mod memory;
#[cfg(feature = "s3")]
mod options;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod s3_error;
mod store;

pub use errors::ObjectError;
pub use fault::{Fault, FaultStore, Operation, Stall};
pub use memory::MemoryStore;
#[cfg(feature = "s3")]
pub use options::S3Options;
#[cfg(feature = "s3")]
pub use s3::S3Store;
pub use store::{ListPage, ObjectInfo, ObjectStore};
