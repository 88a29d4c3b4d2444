//! Unpublished writes that outlive their last close: of a process that was killed, of a mapping, or after a close that
//! failed.

use std::sync::Arc;
use std::time::Duration;

use nokvfs_body::{BodyError, OpenFile};
use nokvfs_types::{InodeId, MetaError};

use crate::core::Core;

/// First and longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Core {
    /// The kernel has let go of a handle. What nobody will flush any more is published in the background.
    pub(crate) fn release(self: &Arc<Self>, number: u64) {
        let Some(handle) = self.handles.remove_file(number) else { return };
        let inode = handle.inode();
        let orphan = self.opens.is_orphan(inode);
        let file = Arc::clone(&handle.file);
        drop(handle);
        if self.opens.is_open(inode) || !file.is_dirty() {
            return;
        }
        if orphan {
            file.discard();
        } else if self.settling.lock().insert(inode) {
            // At most one task per file, and the stage bounds how many files can have unpublished writes.
            self.runtime.spawn(settle(Arc::clone(self), file, inode));
        }
    }
}

async fn settle(core: Arc<Core>, file: Arc<OpenFile>, inode: InodeId) {
    let mut pause = FIRST_PAUSE;
    while file.is_dirty() {
        let Err(error) = file.sync(&core.background_context()).await else { break };
        if is_final(&error) && !core.opens.is_open(inode) {
            if !matches!(error, BodyError::Meta(MetaError::NotFound)) {
                tracing::error!(inode = inode.0, "unpublished writes are lost: {error}");
            }
            file.discard();
            break;
        }
        tracing::warn!(inode = inode.0, again_in = ?pause, "unpublished writes are kept: {error}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    core.settling.lock().remove(&inode);
}

/// Whether publishing can never succeed any more. (The close that came before answered with the same error.)
fn is_final(error: &BodyError) -> bool {
    match error {
        BodyError::TooLarge => true,
        BodyError::Meta(error) => matches!(
            error,
            MetaError::NotFound
                | MetaError::SessionExpired(_)
                | MetaError::Superseded(_)
                | MetaError::QuotaExceeded(_)
                | MetaError::NoSpace(_)
                | MetaError::ReadOnly
                | MetaError::TooLarge
        ),
        _ => false,
    }
}
