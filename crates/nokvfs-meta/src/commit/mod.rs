//! Commands and the thread that commits them.
//!
//! Owns: planning against store and overlay, group commit, checkpoints, the journal's segments.
//! Must not: know what a command means.
//! Invariants: one thread plans, one writes, a batch at a time; a command takes effect as a whole or not at all; nothing is
//! answered before the batch that it saw is durable, but for commands that ask for it ([`Committer::submit_early`]).

mod command;
mod committer;
mod flight;
mod journal;
mod overlay;
mod queue;
mod segments;
#[cfg(test)]
mod tests;
mod txn;
mod unsettled;
mod worker;
mod writer;

pub use command::{COMMAND_LIMIT, MetadataCommand};
pub use committer::{Committer, CommitterOptions, Health, StoreState};
pub use journal::JournalBatch;
pub use segments::{SegmentReader, Segments};
pub use txn::Txn;
