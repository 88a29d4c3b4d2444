//! History that no pin needs any more.

use std::sync::Arc;

use nokvfs_types::{Applied, MountId, Version, VolumeState};

use super::{Next, STEP, STEP_COST, nobody, removal_cost};
use crate::commit::Txn;
use crate::engine::{Core, pinned};
use crate::layout::{Content, Family, HistoryRecord, Key, KeyPrefix, Record, VolumeRecord};
use crate::lineage::Contents;
use crate::plan::{Plan, Target};
use crate::service::MetaResult;
use crate::store::ReadRecords;

pub(super) async fn round(core: Arc<Core>) -> MetaResult<Next> {
    let mut due = Vec::new();
    core.store.scan::<VolumeRecord>(&KeyPrefix::volumes(), None, usize::MAX, |key, volume, version| {
        if let Key::Volume(mount) = key
            && volume.prune > Version(0)
            && volume.state != VolumeState::Deleting
        {
            due.push((mount, volume.prune, version));
        }
    })?;
    for (mount, asked, version) in due {
        core.shown(version).await?;
        prune(&core, mount, asked).await?;
    }
    Ok(Next::Idle)
}

/// Removes what pins that were removed up to `asked` kept. Of a hidden volume the present goes too.
async fn prune(core: &Arc<Core>, mount: MountId, asked: Version) -> MetaResult<()> {
    for family in Family::VERSIONED {
        for prefix in [KeyPrefix::of_mount(family, mount), KeyPrefix::history_of(family, mount)] {
            let mut after = None;
            loop {
                let (planner, prefix, from) = (Arc::clone(core), prefix.clone(), after.clone());
                let plan = move |txn: &mut Txn<'_>| step(&planner, txn, mount, &prefix, from.as_deref());
                let Some((reached, garbage)) = core.committer.submit(plan).await? else { break };
                if garbage {
                    core.wake.garbage.notify_one();
                }
                after = Some(reached);
            }
        }
    }
    core.committer
        .submit(move |txn| {
            let key = Key::Volume(mount);
            let Some(mut volume) = txn.get::<VolumeRecord>(&key)? else { return Ok(()) };
            if volume.prune == asked {
                volume.prune = Version(0);
                txn.put(&key, &volume)?;
            }
            Ok(())
        })
        .await
}

/// Looks at some records after a key; answers the last one, and whether there is garbage; nothing at the end.
fn step(
    core: &Core,
    txn: &mut Txn<'_>,
    mount: MountId,
    prefix: &KeyPrefix,
    after: Option<&[u8]>,
) -> MetaResult<Option<(Vec<u8>, bool)>> {
    let Some(volume) = txn.get::<VolumeRecord>(&Key::Volume(mount))? else { return Ok(None) };
    let history = prefix.family() == Family::History;
    if volume.state == VolumeState::Deleting || !(history || volume.state == VolumeState::Hidden) {
        return Ok(None);
    }
    let pins = pinned(txn, mount)?;
    let found = txn.contents(prefix.bytes(), after, STEP)?;
    let caller = nobody();
    let target = Target::new(mount, &volume);
    let mut plan = Plan::new(txn, target, &caller, &core.server.hash_secret, &core.allocators);
    let (mut cost, mut reached) = (0, None);
    for (key, version, content) in found {
        cost += removal_cost(&key, &content)?;
        if reached.is_some() && cost > STEP_COST {
            break;
        }
        let needed = match history {
            true => is_needed(&pins, &key, &content)?,
            false => version <= volume.pinned,
        };
        if !needed {
            plan.txn().purge(key.clone())?;
        }
        reached = Some(key);
    }
    let garbage = plan.finish(Ok(Applied::Unit))?.garbage;
    Ok(reached.map(|reached| (reached, garbage)))
}

/// Whether a pin is in the time for which a history record holds.
fn is_needed(pins: &[Version], key: &[u8], content: &Content) -> MetaResult<bool> {
    let (Key::History(_, until), Content::Record(payload)) = (Key::decode(key)?, content) else { return Ok(true) };
    let from = HistoryRecord::decode(payload)?.version;
    let first = pins.partition_point(|pin| *pin < from);
    Ok(pins.get(first).is_some_and(|pin| *pin < until))
}
