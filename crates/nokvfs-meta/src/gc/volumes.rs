//! Deletion of volumes: objects first, then records, so that a stop in between loses track of neither.

use std::sync::Arc;

use nokvfs_failpoint::failpoint;
use nokvfs_types::{MountId, VolumeId, VolumeState, owner_key, volume_prefix};

use super::Next;
use crate::commit::Txn;
use crate::engine::{Core, object_error};
use crate::layout::{
    AllocatorRecord, ChunkRecord, CountersRecord, DentryRecord, Family, InodeRecord, Key, KeyPrefix, OrphanRecord,
    PackRecord, ParentRecord, Record, SessionByMountRecord, TopologyRecord, VolumeNameRecord, VolumeRecord,
    XattrRecord,
};
use crate::service::MetaResult;
use crate::store::ReadRecords;

/// Records that one command removes: of the largest, chunks, 17 MiB are read for it.
const STEP: usize = 512;

pub(super) async fn round(core: Arc<Core>) -> MetaResult<Next> {
    let mut deleting = Vec::new();
    core.store.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |key, volume, version| {
        if let Key::Volume(mount) = key
            && volume.state == VolumeState::Deleting
        {
            deleting.push((mount, volume, version));
        }
    })?;
    let mut failed = None;
    for (mount, volume, version) in deleting {
        core.shown(version).await?;
        // One whose objects can't be deleted holds no other up.
        match delete(&core, mount, &volume).await {
            Ok(()) => tracing::info!(volume = %volume.id, name = volume.spec.name, "a volume was deleted"),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(Next::Idle), Err)
}

async fn delete(core: &Core, mount: MountId, volume: &VolumeRecord) -> MetaResult<()> {
    core.check_marker(volume.id).await?;
    let prefix = volume_prefix(volume.id);
    core.delete_listed(&prefix, |_| Ok(true)).await?;
    failpoint!("volume.objects_deleted");
    for family in Family::OF_MOUNT.into_iter().filter(|family| *family != Family::Volume) {
        while core.committer.submit(move |txn| remove(txn, family, mount)).await? == STEP {}
    }
    failpoint!("volume.records_deleted");
    core.orphans.forget(mount);
    core.allocators.forget(mount);
    // What a mount that was cut off put after its session had expired.
    core.delete_listed(&prefix, |_| Ok(true)).await?;
    core.objects.delete(&[owner_key(volume.id)]).await.map_err(|error| object_error(&error))?;
    core.owned.lock().remove(&volume.id);
    let (id, name) = (volume.id, volume.spec.name.clone());
    failpoint!("volume.marker_deleted");
    core.committer.submit(move |txn| finish(txn, mount, id, &name)).await?;
    failpoint!("volume.gone");
    Ok(())
}

/// Removes records of a family; fewer than [`STEP`]: no more are left.
fn remove(txn: &mut Txn<'_>, family: Family, mount: MountId) -> MetaResult<usize> {
    match family {
        Family::Inode => remove_of::<InodeRecord>(txn, mount),
        Family::Dentry => remove_of::<DentryRecord>(txn, mount),
        Family::Chunk => remove_of::<ChunkRecord>(txn, mount),
        Family::Xattr => remove_of::<XattrRecord>(txn, mount),
        Family::Parent => remove_of::<ParentRecord>(txn, mount),
        Family::Orphan => remove_of::<OrphanRecord>(txn, mount),
        Family::Counters => remove_of::<CountersRecord>(txn, mount),
        Family::Allocator => remove_of::<AllocatorRecord>(txn, mount),
        Family::SessionByMount => remove_of::<SessionByMountRecord>(txn, mount),
        Family::Topology => remove_of::<TopologyRecord>(txn, mount),
        Family::Pack => remove_of::<PackRecord>(txn, mount),
        Family::Garbage
        | Family::Volume
        | Family::VolumeName
        | Family::VolumeUuid
        | Family::Server
        | Family::Session
        | Family::Slot => Ok(0),
    }
}

fn remove_of<R: Record>(txn: &mut Txn<'_>, mount: MountId) -> MetaResult<usize> {
    let mut keys = Vec::new();
    let count = txn.scan::<R>(&KeyPrefix::of_mount(R::FAMILY, mount), None, STEP, |key, _| keys.push(key))?;
    for key in keys {
        txn.delete(&key)?;
    }
    Ok(count)
}

fn finish(txn: &mut Txn<'_>, mount: MountId, id: VolumeId, name: &str) -> MetaResult<()> {
    txn.delete(&Key::Volume(mount))?;
    txn.delete(&Key::VolumeUuid(id))?;
    let name = Key::VolumeName(name.to_owned());
    if txn.get::<VolumeNameRecord>(&name)?.is_some_and(|found| found.mount == mount) {
        txn.delete(&name)?;
    }
    Ok(())
}
