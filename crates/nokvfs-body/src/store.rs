//! All bodies of one mount.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use nokvfs_meta::service::{MetadataService, RequestContext};
use nokvfs_object::ObjectStore;
use nokvfs_types::{BLOCK_SIZE, BodyView, InodeId, VolumeId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::frames::Frames;
use crate::pack::Packer;
use crate::stage::Stage;
use crate::stream::AheadLimit;
use crate::uploads::{UploadIds, background};
use crate::{BodyError, BodyOptions, OpenFile};

/// Files that a shutdown publishes at once.
const SHUTDOWN_PARALLEL: usize = 32;
/// The longest pause between two tries of something that failed.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All bodies of one mount. It counts each file that is open here in [`MetadataService::opened`], once, for as long as
/// a handle or unpublished writes need it.
#[derive(Debug)]
pub struct Bodies {
    pub(crate) service: Arc<dyn MetadataService>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) volume: VolumeId,
    pub(crate) stage: Arc<Stage>,
    pub(crate) frames: Arc<Frames>,
    pub(crate) ids: Arc<UploadIds>,
    pub(crate) uploads: Semaphore,
    pub(crate) packer: Packer,
    pub(crate) upload_parallelism: usize,
    pub(crate) ahead: AheadLimit,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Bytes that are on their way from the stage to the store.
    pub(crate) leaving: AtomicU64,
    files: Mutex<HashMap<InodeId, Weak<OpenFile>>>,
    dirty: Mutex<HashMap<InodeId, Arc<OpenFile>>>,
}

impl Bodies {
    /// Bodies over a session's metadata and a volume's objects. Call inside a tokio runtime.
    pub fn new(
        service: Arc<dyn MetadataService>,
        store: Arc<dyn ObjectStore>,
        options: BodyOptions,
    ) -> Result<Arc<Bodies>, BodyError> {
        options.validate()?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| BodyError::Options("Bodies::new must be called inside a tokio runtime".to_owned()))?;
        let volume = service.volume().id;
        Ok(Arc::new(Bodies {
            ids: UploadIds::new(service.clone(), runtime.clone()),
            frames: Frames::new(store.clone(), service.volume().clone(), &options),
            stage: Stage::new(&options)?,
            uploads: Semaphore::new(options.upload_parallelism),
            packer: Packer::default(),
            upload_parallelism: options.upload_parallelism,
            ahead: AheadLimit::new(options.read_ahead_max, options.read_buffer),
            leaving: AtomicU64::new(0),
            files: Mutex::default(),
            dirty: Mutex::default(),
            service,
            store,
            volume,
            runtime,
        }))
    }

    /// Opens a file: reads its body's descriptor, unless this mount has unpublished writes to it (close-to-open).
    pub async fn open(self: &Arc<Self>, ctx: &RequestContext, inode: InodeId) -> Result<Arc<OpenFile>, BodyError> {
        if let Some(file) = self.find(inode) {
            if !file.is_dirty() {
                file.refresh(ctx, 0).await?;
            }
            return Ok(file);
        }
        let view = self.service.body(ctx, inode, 0).await?;
        Ok(self.adopt(view))
    }

    /// Opens a file that was just created or whose body's descriptor was just read (from its start): no request.
    pub fn adopt(self: &Arc<Self>, view: BodyView) -> Arc<OpenFile> {
        let mut files = self.files.lock();
        let inode = view.attr.inode;
        if let Some(file) = files.get(&inode).and_then(Weak::upgrade) {
            drop(files);
            file.offer(view);
            return file;
        }
        let file = OpenFile::new(self.clone(), view);
        files.insert(inode, Arc::downgrade(&file));
        self.service.opened(inode);
        file
    }

    /// The file, if it is open here or has unpublished writes.
    pub fn find(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        self.files.lock().get(&inode).and_then(Weak::upgrade)
    }

    /// Makes sure that the files are durable that this mount made in a directory.
    pub async fn settle_in(&self, ctx: &RequestContext, dir: InodeId) -> Result<(), BodyError> {
        let open: Vec<_> = self.files.lock().values().filter_map(Weak::upgrade).collect();
        for file in open.into_iter().filter(|file| file.early_in() == Some(dir)) {
            file.settle(ctx).await?;
        }
        Ok(())
    }

    /// Publishes all unpublished writes; the error names the files where that failed.
    pub async fn shutdown(&self, deadline: Instant) -> Result<(), BodyError> {
        let files: Vec<_> = self.dirty.lock().values().cloned().collect();
        let ctx = RequestContext { deadline, ..background() };
        let failed: Vec<_> = futures::stream::iter(files)
            .map(|file| {
                let ctx = ctx.clone();
                async move { file.sync(&ctx).await.err().map(|error| (file.inode(), Box::new(error))) }
            })
            .buffer_unordered(SHUTDOWN_PARALLEL)
            .filter_map(|failed| async { failed })
            .collect()
            .await;
        if failed.is_empty() { Ok(()) } else { Err(BodyError::Unpublished(failed)) }
    }

    /// Files with unpublished writes.
    pub fn dirty(&self) -> usize {
        self.dirty.lock().len()
    }

    /// Keeps a file alive while it has unpublished writes. Called under the file's lock, so that the order of marking
    /// and unmarking is that of the file's states.
    pub(crate) fn mark(&self, file: &Arc<OpenFile>, dirty: bool) {
        let mut all = self.dirty.lock();
        if dirty {
            all.entry(file.inode()).or_insert_with(|| file.clone());
        } else {
            all.remove(&file.inode());
        }
    }

    /// Takes a file that nobody refers to any more out of the table.
    pub(crate) fn forget(&self, inode: InodeId) {
        let mut files = self.files.lock();
        // The number may have been opened again meanwhile.
        if files.get(&inode).is_some_and(|file| file.strong_count() == 0) {
            files.remove(&inode);
        }
        drop(files);
        self.service.closed(inode);
    }

    /// Sends staged blocks to the store while a writer waits for room, at least a quarter of the stage at a time.
    pub(crate) fn make_room(&self) {
        let enough = (self.stage.capacity() / 4).max(BLOCK_SIZE);
        if self.leaving.load(Ordering::Relaxed) >= enough {
            return;
        }
        let files: Vec<_> = self.dirty.lock().values().cloned().collect();
        for file in files {
            file.send_staged();
            if self.leaving.load(Ordering::Relaxed) >= enough {
                return;
            }
        }
    }

    /// Publishes a file later whose sync failed, so that a closed file does not stay behind. Where that can't succeed
    /// and nobody has the file open, its writes are given up: their loss was reported by the sync that failed.
    pub(crate) fn publish_later(&self, file: Arc<OpenFile>) {
        self.runtime.spawn(async move {
            let mut pause = Duration::from_secs(1);
            while file.is_dirty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                match file.publish_all(&background()).await {
                    Ok(_) => break,
                    Err(error) if error.is_final() && file.is_unreferenced() => {
                        tracing::error!(inode = %file.inode(), %error, "unpublished writes of a closed file are lost");
                        file.discard();
                    }
                    Err(error) => tracing::warn!(inode = %file.inode(), %error, "writes are still unpublished"),
                }
            }
            file.stop_publishing_later();
        });
    }
}
