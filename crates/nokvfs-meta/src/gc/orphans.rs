//! Sessions that fell silent, and inodes that nobody has open any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use nokvfs_failpoint::failpoint;
use nokvfs_types::{InodeId, MetaError, MountId, VolumeState};

use super::{Next, nobody};
use crate::engine::Core;
use crate::layout::{Key, VolumeRecord};
use crate::plan::{Plan, Target};
use crate::service::MetaResult;

/// Orphans of one round, and of those that are removed at once: they share batches.
const ROUND: usize = 1024;
const PARALLEL: usize = 64;
/// Every so many intervals what the store knows and this process does not is looked for: what was left by callers who
/// gave up before their commit was durable.
const ADOPT: u32 = 6;

pub(super) async fn round(core: Arc<Core>) -> MetaResult<Next> {
    for live in core.sessions.expired() {
        tracing::warn!(session = %live.session, volume = %live.volume, "a session was silent for too long and ends");
        failpoint!("session.expired");
        // What its client is uploading still arrives for a while.
        match core.end_session(&live, core.options.session_expiry).await {
            // Another client took it over in this moment.
            Ok(()) | Err(MetaError::Superseded(_)) => {}
            Err(error) => return Err(error),
        }
    }
    core.adopt_now_and_then()?;
    let mut more = false;
    for mount in core.orphans.volumes() {
        let sessions = core.sessions.of_now(mount);
        let closed = core.orphans.take_closed(mount, &sessions, ROUND);
        more |= closed.len() == ROUND;
        // Made before any of them begins: when one fails, all that are left are worked on again.
        let reclaims: Vec<_> = closed
            .into_iter()
            .map(|inode| reclaim(Reclaiming { core: Arc::clone(&core), mount, inode, gone: false }))
            .collect();
        futures::stream::iter(reclaims).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        if core.orphans.take_more(mount) {
            core.adopt_orphans(mount)?;
        }
    }
    let tick = (core.options.session_expiry / 10).min(Duration::from_secs(1));
    Ok(if more { Next::Now } else { Next::Within(tick) })
}

/// Removes an orphan.
async fn reclaim(mut orphan: Reclaiming) -> MetaResult<()> {
    let (mount, inode) = (orphan.mount, orphan.inode);
    loop {
        let core = Arc::clone(&orphan.core);
        let step = move |txn: &mut crate::commit::Txn<'_>| {
            let Some(volume) = txn.get::<VolumeRecord>(&Key::Volume(mount))? else { return Ok(None) };
            if volume.state == VolumeState::Deleting {
                return Ok(None);
            }
            let caller = nobody();
            let target = Target::new(mount, &volume);
            let plan = Plan::new(txn, target, &caller, &core.server.hash_secret, &core.allocators);
            plan.reclaim(inode).map(Some)
        };
        failpoint!("orphan.reclaiming");
        let Some(outcome) = orphan.core.committer.submit(step).await? else { break };
        failpoint!("orphan.reclaimed");
        if outcome.garbage {
            orphan.core.wake.garbage.notify_one();
        }
        if !outcome.more {
            break;
        }
    }
    orphan.gone = true;
    Ok(())
}

/// An orphan that is being removed; worked on again if that ends early.
struct Reclaiming {
    core: Arc<Core>,
    mount: MountId,
    inode: InodeId,
    gone: bool,
}

impl Drop for Reclaiming {
    fn drop(&mut self) {
        self.core.orphans.reclaimed(self.mount, self.inode, self.gone);
    }
}

impl Core {
    fn adopt_now_and_then(&self) -> MetaResult<()> {
        {
            let mut adopted = self.adopted.lock();
            if adopted.elapsed() < self.options.interval * ADOPT {
                return Ok(());
            }
            *adopted = Instant::now();
        }
        self.adopt()
    }
}
