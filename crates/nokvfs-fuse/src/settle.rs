//! Unpublished writes that outlive their last close: of a process that was killed, of a mapping, or after a close that
//! failed.

use std::sync::Arc;

use nokvfs_body::OpenFile;

use crate::core::Core;

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
            self.runtime.spawn(settle(Arc::clone(self), file));
        }
    }
}

/// One attempt with a deadline; after it the body itself tries again, or gives up what can never be published.
async fn settle(core: Arc<Core>, file: Arc<OpenFile>) {
    if let Err(error) = file.sync(&core.background_context()).await {
        tracing::warn!(inode = file.inode().0, "unpublished writes are kept after the last close: {error}");
    }
    core.settling.lock().remove(&file.inode());
}
