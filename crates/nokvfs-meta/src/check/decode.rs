//! Every record decodes, and what one says is possible by itself.

use nokvfs_types::{MetaError, MountId, Severity, VolumeId};

use super::rules::{body_of_chunk, body_of_inode};
use super::{AGAIN, Checker, DAMAGED, PAGE, Problem};
use crate::layout::{
    AllocatorRecord, ChunkRecord, Content, CountersRecord, DentryRecord, Family, GarbageRecord, HistoryRecord,
    InodeRecord, Key, OrphanRecord, PackRecord, ParentRecord, PinRecord, Record, ServerRecord, SessionByMountRecord,
    SessionRecord, SliceRecord, SlotRecord, TopologyRecord, Tree, VolumeNameRecord, VolumeRecord, VolumeUuidRecord,
    XattrRecord, open_content, open_value, tree_of,
};
use crate::service::MetaResult;
use crate::store::{ReadRecords, read_whole};

impl Checker {
    /// Reads all records of the store. Those that can't be read are reported and left out from then on.
    pub(super) fn decode_all(&mut self) -> MetaResult<()> {
        for tree in Tree::ALL {
            self.sink.phase(format!("records of the tree {}", tree.name()));
            let mut after: Option<Vec<u8>> = None;
            loop {
                let (suspects, last, count) = self.core.store.view(|reads| {
                    let (mut suspects, mut last, mut count) = (Vec::new(), None, 0);
                    reads.scan_raw(tree, &[], after.as_deref(), PAGE, &mut |key, value, _| {
                        if is_wrong(tree, key, value) {
                            suspects.push(key.to_vec());
                        }
                        last = Some(key.to_vec());
                        count += 1;
                        Ok(true)
                    })?;
                    Ok((suspects, last, count))
                })?;
                self.sink.check_asked()?;
                self.sink.looked(count);
                self.look_again(tree, suspects)?;
                if count < PAGE {
                    break;
                }
                after = last;
            }
        }
        Ok(())
    }

    fn look_again(&mut self, tree: Tree, suspects: Vec<Vec<u8>>) -> MetaResult<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        std::thread::sleep(AGAIN);
        for key in suspects {
            let found = self.core.store.view(|reads| match read_whole(reads, tree, &key) {
                Err(MetaError::Corrupt(reason)) => Ok(Err(reason)),
                Err(error) => Err(error),
                Ok(None) => Ok(Ok(Vec::new())),
                Ok(Some(stored)) => Ok(match decoded(tree, &key, &stored.value) {
                    Err(error) => Err(error.to_string()),
                    Ok(content) => Ok(impossible(&key, &content)),
                }),
            })?;
            match found {
                Ok(wrong) => {
                    for what in wrong {
                        let volume = self.volume_of(&key)?;
                        let place = place(&key);
                        self.sink.report(&Problem { severity: Severity::Error, rule: "body", volume, place, what })?;
                    }
                }
                Err(reason) => self.damaged(key, reason)?,
            }
        }
        Ok(())
    }

    fn damaged(&mut self, key: Vec<u8>, reason: String) -> MetaResult<()> {
        let volume = self.volume_of(&key)?;
        self.sink.report(&Problem {
            severity: Severity::Error,
            rule: "damaged-record",
            volume,
            place: place(&key),
            what: format!("can't be read: {reason}"),
        })?;
        if self.damaged.len() >= DAMAGED {
            return Err(MetaError::Corrupt(format!(
                "more than {DAMAGED} records are damaged; stop the server and restore its metadata"
            )));
        }
        self.damaged.insert(key);
        Ok(())
    }

    /// The volume of a record, where its key tells one.
    fn volume_of(&self, key: &[u8]) -> MetaResult<Option<VolumeId>> {
        let key = if key.first() == Some(&(Family::History as u8)) { &key[1..] } else { key };
        let of_mount = key.first().is_some_and(|code| Family::OF_MOUNT.iter().any(|family| *family as u8 == *code));
        let Some(mount) = key.get(1..9).filter(|_| of_mount).and_then(|bytes| bytes.try_into().ok()) else {
            return Ok(None);
        };
        match self.core.store.get::<VolumeRecord>(&Key::Volume(MountId(u64::from_be_bytes(mount)))) {
            Ok(volume) => Ok(volume.map(|(volume, _)| volume.id)),
            Err(MetaError::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A record, for people.
fn place(key: &[u8]) -> String {
    match Key::decode(key) {
        Ok(Key::History(of, until)) => match Key::decode(&of) {
            Ok(of) => format!("what {of:?} was until commit {until}"),
            Err(_) => format!("the history record {}", hex::encode(key)),
        },
        Ok(key) => format!("{key:?}"),
        Err(_) => format!("the record {}", hex::encode(key)),
    }
}

fn is_wrong(tree: Tree, key: &[u8], value: &[u8]) -> bool {
    decoded(tree, key, value).map_or(true, |content| !impossible(key, &content).is_empty())
}

/// What a sealed value holds, if all of it can be read.
fn decoded(tree: Tree, key: &[u8], value: &[u8]) -> MetaResult<Content> {
    open_value(key, value)?;
    let parsed = Key::decode(key)?;
    if tree_of(key) != tree {
        return Err(MetaError::Corrupt(format!("{parsed:?} is in the tree {}", tree.name())));
    }
    let (_, content) = open_content(key, value)?;
    if let Content::Record(payload) = &content {
        decode_payload(&parsed, payload)?;
    }
    Ok(content)
}

fn decode_payload(key: &Key, payload: &[u8]) -> MetaResult<()> {
    fn whole<R: Record>(payload: &[u8]) -> MetaResult<()> {
        R::decode(payload).map(drop)
    }
    match key.family() {
        Family::Inode => whole::<InodeRecord>(payload),
        Family::Dentry => whole::<DentryRecord>(payload),
        Family::Chunk => whole::<ChunkRecord>(payload),
        Family::Xattr => whole::<XattrRecord>(payload),
        Family::Parent => whole::<ParentRecord>(payload),
        Family::Orphan => whole::<OrphanRecord>(payload),
        Family::Garbage => whole::<GarbageRecord>(payload),
        Family::Volume => whole::<VolumeRecord>(payload),
        Family::VolumeName => whole::<VolumeNameRecord>(payload),
        Family::VolumeUuid => whole::<VolumeUuidRecord>(payload),
        Family::Counters => whole::<CountersRecord>(payload),
        Family::Allocator => whole::<AllocatorRecord>(payload),
        Family::Server => whole::<ServerRecord>(payload),
        Family::Session => whole::<SessionRecord>(payload),
        Family::SessionByMount => whole::<SessionByMountRecord>(payload),
        Family::Slot => whole::<SlotRecord>(payload),
        Family::Topology => whole::<TopologyRecord>(payload),
        Family::Pack => whole::<PackRecord>(payload),
        Family::Pin => whole::<PinRecord>(payload),
        Family::Slice => whole::<SliceRecord>(payload),
        Family::History => {
            let was = HistoryRecord::decode(payload)?;
            let Key::History(of, _) = key else { return Ok(()) };
            match &was.content {
                Content::Record(payload) => decode_payload(&Key::decode(of)?, payload),
                Content::Removed => Ok(()),
            }
        }
    }
}

/// What a record that was read can't be.
fn impossible(key: &[u8], content: &Content) -> Vec<String> {
    let (Ok(key), Content::Record(payload)) = (Key::decode(key), content) else { return Vec::new() };
    match key {
        Key::History(of, _) => {
            HistoryRecord::decode(payload).map_or_else(|_| Vec::new(), |was| impossible(&of, &was.content))
        }
        Key::Inode(_, inode) => {
            InodeRecord::decode(payload).map_or_else(|_| Vec::new(), |record| body_of_inode(inode, &record))
        }
        Key::Chunk(_, inode, chunk) => ChunkRecord::decode(payload)
            .map_or_else(|_| Vec::new(), |record| body_of_chunk(inode, chunk, &record.extents)),
        _ => Vec::new(),
    }
}
