//! How records are laid out in the store: keys, values, and the codec of both.
//!
//! Owns: the one key encoder and the bytes of every record.
//! Must not: read or write a store.
//! Invariants: no encoded key followed by a zero byte is a prefix of another (the store would never open again, see
//! [`Key`]); every value carries the commit that wrote it and a checksum over its key and itself.

mod codec;
mod control;
mod file;
mod history;
mod key;
mod reply;
#[cfg(test)]
mod tests;

pub use codec::{Content, MAX_VALUE, Record, open_value, seal_value};
pub use control::{
    AllocatorRecord, BaseRecord, CountersRecord, GarbageRecord, PackRecord, ServerRecord, SessionByMountRecord,
    SessionRecord, SlotRecord, TopologyRecord, VolumeNameRecord, VolumeRecord, VolumeUuidRecord,
};
pub use file::{Body, ChunkRecord, DentryRecord, InodeRecord, OrphanRecord, ParentRecord, XattrRecord};
pub use history::{HistoryRecord, PinRecord, SliceRecord, SnapshotRecord};
pub use key::{Family, Key, KeyPrefix, Tree, dentry_hash};
pub use reply::{MAX_REPLY, decode_reply, encode_reply};

pub(crate) use codec::{Reader, open_content, put_bytes, put_u32, put_u64};
pub(crate) use file::is_file;
pub(crate) use key::tree_of;
pub(crate) use reply::{decode_event, encode_event};
