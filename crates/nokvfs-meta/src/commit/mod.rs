//! Commands and the thread that commits them.
//!
//! Owns: planning against store and overlay, group commit, checkpoints, the journal's segments.
//! Must not: know what a command means.
//! Invariants: one thread writes; a command takes effect as a whole or not at all; nothing is answered before the batch
//! that it saw is durable.

mod command;
mod committer;
mod journal;
mod overlay;
mod queue;
mod segments;
#[cfg(test)]
mod tests;
mod txn;
mod worker;

pub use command::{COMMAND_LIMIT, MetadataCommand};
pub use committer::{Committer, CommitterOptions, Health, StoreState};
pub use journal::JournalBatch;
pub use segments::{SegmentReader, Segments};
pub use txn::Txn;
