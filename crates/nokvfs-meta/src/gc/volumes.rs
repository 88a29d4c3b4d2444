//! Deletion of volumes: objects first, then records, so that a stop in between loses track of neither.

use std::sync::Arc;

use nokvfs_failpoint::failpoint;
use nokvfs_types::{Applied, MountId, Version, VolumeId, VolumeState, owner_key, volume_prefix};

use super::{Next, STEP, STEP_COST, nobody, removal_cost};
use crate::commit::Txn;
use crate::engine::{Core, object_error, unpin};
use crate::layout::{Family, Key, KeyPrefix, SessionRecord, VolumeNameRecord, VolumeRecord, VolumeUuidRecord};
use crate::lineage::Contents;
use crate::plan::{Plan, Target};
use crate::service::MetaResult;
use crate::store::ReadRecords;

pub(super) async fn round(core: Arc<Core>) -> MetaResult<Next> {
    let mut deleting = Vec::new();
    core.store.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |key, volume, version| {
        if let Key::Volume(mount) = key
            && volume.state == VolumeState::Deleting
        {
            deleting.push((mount, volume, version));
        }
    })?;
    let (mut failed, mut next) = (None, Next::Idle);
    for (mount, volume, version) in deleting {
        core.shown(version).await?;
        // One whose objects can't be deleted holds no other up.
        match delete(&core, mount, &volume).await {
            Ok(true) => {
                tracing::info!(volume = %volume.id, name = volume.spec.name, "a volume was deleted");
                // It may have been the last that built on another.
                next = Next::Now;
            }
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(next), Err)
}

async fn delete(core: &Arc<Core>, mount: MountId, volume: &VolumeRecord) -> MetaResult<bool> {
    core.check_marker(volume.id).await?;
    // One that was rolled back shares its objects' prefix with what it was before.
    let alone = volume.bases.iter().all(|base| base.volume != volume.id);
    let prefix = volume_prefix(volume.id);
    if alone {
        core.delete_listed(&prefix, |_| Ok(true)).await?;
        failpoint!("volume.objects_deleted");
    } else if core.is_unswept(mount)? {
        return Ok(false);
    }
    for prefix in prefixes(mount) {
        while remove(core, mount, volume, prefix.clone(), alone).await? {}
    }
    failpoint!("volume.records_deleted");
    core.orphans.forget(mount);
    core.allocators.forget(mount);
    if alone {
        // What a mount that was cut off put after its session had expired.
        core.delete_listed(&prefix, |_| Ok(true)).await?;
        core.objects.delete(&[owner_key(volume.id)]).await.map_err(|error| object_error(&error))?;
        core.owned.lock().remove(&volume.id);
    }
    let (id, name) = (volume.id, volume.spec.name.clone());
    failpoint!("volume.marker_deleted");
    let base = volume.bases.first().map(|base| (base.mount, base.version));
    core.committer.submit(move |txn| finish(txn, mount, id, &name, base)).await?;
    failpoint!("volume.gone");
    core.wake.history.notify_one();
    Ok(true)
}

/// All records of a volume but its own; those that name slices before those that count who does.
fn prefixes(mount: MountId) -> impl Iterator<Item = KeyPrefix> {
    let all_that_was = Family::VERSIONED.into_iter().map(move |family| KeyPrefix::history_of(family, mount));
    let rest = Family::OF_MOUNT.into_iter().filter(|family| !family.is_versioned() && *family != Family::Volume);
    let of_mount = move |family| KeyPrefix::of_mount(family, mount);
    Family::VERSIONED.into_iter().map(of_mount).chain(all_that_was).chain(rest.map(of_mount))
}

/// Removes records of a prefix; answers whether some may be left.
async fn remove(
    core: &Arc<Core>,
    mount: MountId,
    volume: &VolumeRecord,
    prefix: KeyPrefix,
    alone: bool,
) -> MetaResult<bool> {
    let (planner, target) = (Arc::clone(core), Target::new(mount, volume));
    let step = move |txn: &mut Txn<'_>| {
        let found = txn.contents(prefix.bytes(), None, STEP)?;
        let caller = nobody();
        let mut plan = Plan::new(txn, target.clone(), &caller, &planner.server.hash_secret, &planner.allocators);
        if alone {
            plan = plan.whole();
        }
        let (mut cost, mut removed) = (0, 0);
        for (key, _, content) in &found {
            cost += removal_cost(key, content)?;
            if removed > 0 && cost > STEP_COST {
                break;
            }
            plan.txn().purge(key.clone())?;
            removed += 1;
        }
        let outcome = plan.finish(Ok(Applied::Unit))?;
        Ok((removed > 0 && (found.len() == STEP || removed < found.len()), outcome.garbage))
    };
    let (more, garbage) = core.committer.submit(step).await?;
    if garbage {
        core.wake.garbage.notify_one();
    }
    Ok(more)
}

fn finish(
    txn: &mut Txn<'_>,
    mount: MountId,
    id: VolumeId,
    name: &str,
    base: Option<(MountId, Version)>,
) -> MetaResult<()> {
    txn.delete(&Key::Volume(mount))?;
    let identity = Key::VolumeUuid(id);
    if txn.get::<VolumeUuidRecord>(&identity)?.is_some_and(|found| found.mount == mount) {
        txn.delete(&identity)?;
    }
    let name = Key::VolumeName(name.to_owned());
    if txn.get::<VolumeNameRecord>(&name)?.is_some_and(|found| found.mount == mount) {
        txn.delete(&name)?;
    }
    match base {
        Some((mount, version)) => unpin(txn, mount, version, |pin| pin.clones = pin.clones.saturating_sub(1)),
        None => Ok(()),
    }
}

impl Core {
    /// Whether a session of a volume has uploads that are to be swept yet.
    fn is_unswept(&self, mount: MountId) -> MetaResult<bool> {
        let mut unswept = false;
        self.store.scan::<SessionRecord>(&KeyPrefix::sessions(), None, usize::MAX, |_, session, _| {
            unswept |= session.mount == mount;
        })?;
        Ok(unswept)
    }
}
