//! What planning yields.

use nokvfs_types::{Event, MountId, Version};

use crate::layout::{Content, Tree};

/// Most bytes of one command. With the batch that it joins and the copy in the journal entry it
/// stays below the engine's 16 MiB: 2 x (6 + 1.25) = 14.5.
pub const COMMAND_LIMIT: usize = 6 << 20;
/// A batch takes no further command when it is larger.
pub(crate) const BATCH_TARGET: usize = 5 << 18;
/// What a change costs beside key and value: value head, checksum, lengths, log framing.
const CHANGE_COST: usize = 64;

/// The writes of one command and what they rely on beside the records that they read. Those are fenced by the batch,
/// at the versions that its commands first read.
#[derive(Debug, Default)]
pub struct MetadataCommand {
    /// The commit.
    pub version: Version,
    /// Prefixes that must have nothing in the store.
    pub empty: Vec<(Tree, Vec<u8>)>,
    /// What is left under each key, or `None` to delete; in the order of keys.
    pub mutations: Vec<(Vec<u8>, Option<Content>)>,
    /// For watchers.
    pub events: Vec<(MountId, Event)>,
}

impl MetadataCommand {
    /// Its share of a batch, in bytes.
    pub fn cost(&self) -> usize {
        let changes: usize = self
            .mutations
            .iter()
            .map(|(key, content)| {
                let payload = content.as_ref().and_then(Content::record);
                key.len() + payload.map_or(0, <[u8]>::len) + CHANGE_COST
            })
            .sum();
        // A name is the longest part of an event.
        changes + self.events.len() * 300
    }
}
