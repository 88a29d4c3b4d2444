//! Uploads of sessions that ended: objects that no body names go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use nokvfs_types::{InodeId, MetaError, MountId, SessionId, SliceId, UploadId, VolumeId, VolumeState, upload_prefix};

use super::Next;
use crate::commit::Txn;
use crate::engine::Core;
use crate::layout::{Key, KeyPrefix, PackRecord, SessionRecord, VolumeRecord};
use crate::service::MetaResult;
use crate::session::ENDED;
use crate::store::ReadRecords;

/// Uploads that are listed at once.
const PARALLEL: usize = 16;
/// Uploads of one step: what a restart may list again.
const STEP: u64 = 1024;
/// The next try after the object store failed.
const RETRY: Duration = Duration::from_secs(30);

pub(super) async fn round(core: Arc<Core>) -> MetaResult<Next> {
    let now = Instant::now();
    let (due, next) = {
        let ended = core.ended.lock();
        let due = ended.iter().find(|(_, at)| **at <= now).map(|(session, _)| *session);
        (due, ended.values().min().copied())
    };
    let Some(session) = due else {
        return Ok(next.map_or(Next::Idle, |next| Next::Within(next.saturating_duration_since(now))));
    };
    match step(&core, session).await {
        Ok(true) => {
            core.ended.lock().remove(&session);
            // A deletion may have waited for it.
            core.wake.volumes.notify_one();
        }
        Ok(false) => {}
        Err(error) => {
            // Others may be more lucky meanwhile.
            core.ended.lock().insert(session, now + RETRY);
            return Err(error);
        }
    }
    Ok(Next::Now)
}

/// Sweeps one step of a session; answers whether nothing is left.
async fn step(core: &Arc<Core>, session: SessionId) -> MetaResult<bool> {
    let Some((record, _)) = core.store.get::<SessionRecord>(&Key::Session(session))? else { return Ok(true) };
    if record.generation != ENDED {
        return Ok(true);
    }
    let volume = core.store.get::<VolumeRecord>(&Key::Volume(record.mount))?;
    // The objects of a deleted volume are deleted with it, unless it is what a rollback left behind.
    let mut volume = volume.map(|(volume, _)| volume).filter(|volume| {
        volume.state != VolumeState::Deleting || volume.bases.iter().any(|base| base.volume == volume.id)
    });
    if let Some(active) = &volume
        && core.is_foreign(active.id).await?
    {
        volume = None;
    }
    let swept = match (volume, record.uploads.first()) {
        (Some(volume), Some((first, end))) => {
            let end = UploadId(end.0.min(first.0.saturating_add(STEP)));
            let uploads = futures::stream::iter(first.0..end.0);
            let deleted: Vec<usize> = uploads
                .map(|upload| sweep(core, record.mount, volume.id, UploadId(upload)))
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
            let deleted: usize = deleted.into_iter().sum();
            if deleted > 0 {
                tracing::info!(%session, volume = %volume.id, deleted, "objects of an ended session were deleted");
            }
            end
        }
        _ => UploadId(u64::MAX),
    };
    let mount = record.mount;
    core.committer
        .submit(move |txn| {
            let key = Key::Session(session);
            let Some(mut record) = txn.get::<SessionRecord>(&key)? else { return Ok(true) };
            if let Some((first, _)) = record.uploads.first() {
                drop_packs(txn, mount, session, *first..swept)?;
            }
            record.uploads.retain(|(_, end)| *end > swept);
            if let Some((first, _)) = record.uploads.first_mut() {
                *first = swept.max(*first);
                txn.put(&key, &record)?;
                return Ok(false);
            }
            txn.delete(&key)?;
            Ok(true)
        })
        .await
}

/// Deletes the objects of an upload that no body names; answers how many there were.
async fn sweep(core: &Core, mount: MountId, volume: VolumeId, upload: UploadId) -> MetaResult<usize> {
    let prefix = upload_prefix(volume, upload);
    // Nobody can publish them any more, so what is not named now never will be.
    let mut named: HashMap<SliceId, u32> = HashMap::new();
    core.delete_listed(&prefix, |key| {
        let Some((slice, block)) = parse(&prefix, upload, key) else {
            return Err(MetaError::Corrupt(format!("object {key} is none of ours; move it out of this prefix")));
        };
        let blocks = match named.get(&slice) {
            Some(blocks) => *blocks,
            None => {
                let (blocks, seen) = core.named_blocks(mount, &slice)?;
                if seen > core.committer.durable_version() {
                    return Err(MetaError::Unavailable(format!("inode {} is just being changed", slice.inode)));
                }
                named.insert(slice, blocks);
                blocks
            }
        };
        Ok(block >= blocks)
    })
    .await
}

/// Removes the records of packs whose objects were swept.
fn drop_packs(txn: &mut Txn<'_>, mount: MountId, owner: SessionId, swept: std::ops::Range<UploadId>) -> MetaResult<()> {
    let mut keys = Vec::new();
    txn.scan::<PackRecord>(&KeyPrefix::packs_from(mount, swept.start), None, STEP as usize, |key, pack| {
        let ours = pack.owner == owner && matches!(key, Key::Pack(_, upload) if upload < swept.end);
        if ours && pack.named == 0 {
            keys.push(key);
        }
    })?;
    keys.iter().try_for_each(|key| txn.delete(key))
}

/// Slice and block of an object's key.
fn parse(prefix: &str, upload: UploadId, key: &str) -> Option<(SliceId, u32)> {
    let mut parts = key.strip_prefix(prefix)?.split('/');
    let inode = InodeId(parts.next()?.parse().ok()?);
    let chunk = parts.next()?.parse().ok()?;
    let block = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((SliceId { upload, inode, chunk }, block))
}
