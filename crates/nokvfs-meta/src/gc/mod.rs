//! Workers: what has ended is removed, and its objects after it.
//!
//! Owns: expiry of sessions, orphans, the garbage queue, sweeps of uploads, history that no pin needs, deletion of
//! volumes.
//! Must not: delete an object that a body names.
//! Invariants: metadata forgets an object before the object goes, except in volumes that nobody can open any more; a
//! record that says what is to be deleted stays until that is deleted.

mod garbage;
mod history;
mod objects;
mod orphans;
mod sweep;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use nokvfs_types::{Caller, MetaError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::engine::Core;
use crate::layout::Content;
use crate::plan::named_in;
use crate::service::MetaResult;

/// Records that one command looks at: of the largest, chunks, 17 MiB are read for it.
const STEP: usize = 512;
/// Bytes that it may grow to.
const STEP_COST: usize = 4 << 20;
/// Bytes that a removed record, and each slice that it names, may cost.
const REMOVED_COST: usize = 160;

/// What the removal of a record may cost a command, in bytes.
fn removal_cost(key: &[u8], content: &Content) -> MetaResult<usize> {
    Ok(REMOVED_COST + named_in(key, content)?.len() * REMOVED_COST)
}

/// Who asks for what a worker does.
fn nobody() -> Caller {
    Caller { uid: 0, gid: 0, groups: Arc::from([]) }
}

/// Shortest and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Starts the workers; they end when `stop` becomes true.
pub(crate) fn start(core: &Arc<Core>, stop: &watch::Sender<bool>) -> Vec<JoinHandle<()>> {
    let task = |name, wake: fn(&Core) -> &Notify, work: fn(Arc<Core>) -> Work| {
        let (core, mut stop) = (Arc::clone(core), stop.subscribe());
        tokio::spawn(async move {
            // It can end anywhere: each step is a command.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = repeat(&core, name, wake(&core), work) => {}
            }
        })
    };
    vec![
        task("orphans", |core| &core.wake.orphans, |core| Box::pin(orphans::round(core))),
        task("garbage", |core| &core.wake.garbage, |core| Box::pin(garbage::round(core))),
        task("sweep", |core| &core.wake.sweep, |core| Box::pin(sweep::round(core))),
        task("history", |core| &core.wake.history, |core| Box::pin(history::round(core))),
        task("volumes", |core| &core.wake.volumes, |core| Box::pin(volumes::round(core))),
    ]
}

type Work = std::pin::Pin<Box<dyn Future<Output = MetaResult<Next>> + Send>>;

/// When a worker has its next round.
enum Next {
    /// At once: there is more to do.
    Now,
    /// After so long.
    After(Duration),
    /// When woken, at the latest after so long.
    Within(Duration),
    /// When woken, or at the next interval.
    Idle,
}

async fn repeat(core: &Arc<Core>, name: &str, wake: &Notify, work: fn(Arc<Core>) -> Work) {
    let mut pause = PAUSE.0;
    loop {
        let next = match work(Arc::clone(core)).await {
            Ok(next) => {
                pause = PAUSE.0;
                next
            }
            Err(error) => {
                let quiet = matches!(error, MetaError::Unavailable(_));
                if quiet {
                    tracing::warn!(worker = name, %error, "a worker of the metadata tries again later");
                } else {
                    tracing::error!(worker = name, %error, "a worker of the metadata failed; it tries again later");
                }
                let now = pause;
                pause = (pause * 2).min(PAUSE.1);
                tokio::time::sleep(now).await;
                continue;
            }
        };
        match next {
            Next::Now => tokio::task::yield_now().await,
            Next::After(wait) => tokio::time::sleep(wait.min(core.options.interval)).await,
            Next::Within(wait) => woken(wake, wait.min(core.options.interval)).await,
            Next::Idle => woken(wake, core.options.interval).await,
        }
    }
}

async fn woken(wake: &Notify, wait: Duration) {
    tokio::select! {
        () = wake.notified() => {}
        () = tokio::time::sleep(wait) => {}
    }
}
