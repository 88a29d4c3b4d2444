//! Snapshots, clones and rollback.

mod clones;
mod crowd;
mod large;
mod removal;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::Arc;

use nokvfs_meta::LocalService;
use nokvfs_meta::service::{MetadataService, SnapshotService, VolumeService};
use nokvfs_types::{
    CHUNK_SIZE, CloneSpec, Extent, InodeId, MetaError, Mutation, Publish, SessionRequest, SetAttr, SliceId, Timestamp,
    Token, UploadId, VolumeId, VolumeInfo,
};

use crate::{Mounted, World, context, request};

type Volume = (VolumeInfo, Token);

fn clone_of(source: &Volume, snapshot: Option<&str>, name: &str) -> CloneSpec {
    CloneSpec {
        source: source.0.id,
        snapshot: snapshot.map(str::to_owned),
        name: name.into(),
        quota_bytes: 0,
        quota_inodes: 0,
    }
}

impl World {
    async fn snapshot(&self, volume: &Volume, name: &str) {
        self.engine.create_snapshot(volume.0.id, name).await.expect("a snapshot");
    }

    async fn unsnapshot(&self, volume: &Volume, name: &str) {
        self.engine.delete_snapshot(volume.0.id, name).await.expect("deleted");
    }

    async fn clone_of(&self, source: &Volume, snapshot: Option<&str>, name: &str) -> Volume {
        self.engine.clone_volume(clone_of(source, snapshot, name)).await.expect("a clone")
    }

    async fn roll_back(&self, volume: &Volume, name: &str) {
        self.engine.rollback_volume(volume.0.id, name).await.expect("rolled back");
    }

    async fn read(&self, volume: &Volume, snapshot: &str) -> Mounted {
        let wanted = SessionRequest { snapshot: Some(snapshot.into()), ..request(volume) };
        Mounted(LocalService::open(Arc::clone(&self.engine), wanted).await.expect("a session"))
    }

    async fn is_gone(&self, volume: &Volume) -> bool {
        self.engine.volume(volume.0.id).await == Err(MetaError::NotFound)
    }

    /// Uploads a slice of blocks.
    async fn upload(&self, volume: VolumeId, slice: SliceId, blocks: u32) {
        for block in 0..blocks {
            self.put(&slice.object_key(volume, block)).await;
        }
    }

    fn has(&self, volume: &Volume, slice: SliceId) -> bool {
        self.memory.keys().contains(&slice.object_key(volume.0.id, 0))
    }
}

/// Ten bytes of a slice.
fn extent(slice: SliceId, offset: u64) -> Extent {
    Extent { offset, len: 10, slice, slice_offset: 0, slice_len: 10 }
}

fn publish(inode: InodeId, extents: Vec<Extent>) -> Mutation {
    Mutation::Publish(Publish { inode, truncate: None, size: 0, written: Timestamp(1), extents })
}

fn resize(inode: InodeId, size: u64) -> Mutation {
    Mutation::SetAttr { inode, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

/// Writes ten bytes at places of a file, each its own upload.
async fn write(world: &World, volume: &Volume, mount: &Mounted, inode: InodeId, offsets: &[u64]) -> Vec<SliceId> {
    let first = mount.reserve(offsets.len() as u32).await.0;
    let mut slices = Vec::new();
    for (upload, offset) in (first..).zip(offsets) {
        let slice = SliceId { upload: UploadId(upload), inode, chunk: (offset / CHUNK_SIZE) as u32 };
        world.upload(volume.0.id, slice, 1).await;
        slices.push(slice);
    }
    let extents = slices.iter().zip(offsets).map(|(slice, offset)| extent(*slice, *offset)).collect();
    mount.apply(publish(inode, extents)).await;
    slices
}

async fn body(mount: &Mounted, inode: InodeId) -> Vec<Extent> {
    mount.body(&context(), inode, 0).await.expect("a view").extents
}

/// A directory, by name, as pages of so many entries tell it.
async fn list(mount: &LocalService, dir: InodeId, limit: u32) -> BTreeMap<String, InodeId> {
    let (mut entries, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = mount.readdir(&context(), dir, after, limit, true).await.expect("a page");
        for entry in page.entries {
            assert!(entry.cookie > after, "cookies do not rise");
            after = entry.cookie;
            let attr = entry.attr.expect("attributes");
            assert_eq!(attr.inode, entry.inode);
            assert!(entries.insert(entry.name.to_string(), entry.inode).is_none(), "{} came twice", entry.name);
        }
        if page.end {
            return entries;
        }
    }
}
