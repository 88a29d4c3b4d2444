//! The trial S3 server: the S3 protocol over a directory, for `nokv-fs dev`, the chart's trial store and tests.
//!
//! Owns: one bucket in a directory, its layout on disk, and the subset of S3 that NoKV uses.
//! Must not: be linked by the filesystem's data path; it is reached by the S3 protocol only.
//! Invariants: an acknowledged put or delete is durable; an object is visible whole or not at all, kill -9 and a full
//! disk included; `If-None-Match: *` is atomic; one process serves a directory.

mod disk;
mod errors;
mod options;
mod path;
mod read;
mod server;
mod service;
mod stage;

pub use errors::DevStoreError;
pub use options::DevStoreOptions;
pub use server::DevStore;

#[cfg(test)]
mod tests;
