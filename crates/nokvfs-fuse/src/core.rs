//! What all operations of a mount share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fuser::{INodeNo, Notifier};
use nokvfs_body::{Bodies, OpenFile};
use nokvfs_meta::service::{MetadataService, RequestContext};
use nokvfs_types::{Applied, Attr, Caller, InodeId, MetaError, Mutation, OpId, Version};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::task::JoinHandle;

use crate::MountOptions;
use crate::attrs::file_attr;
use crate::errors::OpResult;
use crate::handles::{Handles, Hold, Opens};
use crate::lockers::Lockers;
use crate::reply::Told;

/// Inodes whose last told version is remembered: 64 Ki of about 48 bytes. A forgotten one costs a request.
const REMEMBERED: usize = 65_536;
/// Marks the op ids of work that no request asked for.
const BACKGROUND: u64 = 1 << 62;

/// What the kernel was last told of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) version: Version,
    pub(crate) mode: u16,
}

/// What all operations of a mount share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) service: Arc<dyn MetadataService>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) options: MountOptions,
    pub(crate) handles: Handles,
    pub(crate) opens: Arc<Opens>,
    /// What the kernel was last told of an inode.
    pub(crate) known: Cache<InodeId, Known>,
    /// The version at which a file was last opened: the kernel's pages are of that version or of our own writes.
    pub(crate) pages: Cache<InodeId, Version>,
    /// Files whose unpublished writes are being published after their last close.
    pub(crate) settling: Mutex<HashSet<InodeId>>,
    pub(crate) lockers: Lockers,
    pub(crate) notifier: Mutex<Option<Notifier>>,
    pub(crate) runtime: tokio::runtime::Handle,
    background: AtomicU64,
    no_groups: Arc<[u32]>,
}

impl Core {
    pub(crate) fn new(
        service: Arc<dyn MetadataService>,
        bodies: Arc<Bodies>,
        options: MountOptions,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Self> {
        Arc::new(Core {
            service,
            bodies,
            options,
            handles: Handles::new(),
            opens: Arc::default(),
            known: Cache::new(REMEMBERED),
            pages: Cache::new(REMEMBERED),
            settling: Mutex::default(),
            lockers: Lockers::default(),
            notifier: Mutex::default(),
            runtime,
            background: AtomicU64::new(0),
            no_groups: Arc::from([]),
        })
    }

    /// The context of a request of the kernel.
    pub(crate) fn context(&self, uid: u32, gid: u32, unique: u64) -> RequestContext {
        RequestContext {
            caller: Caller { uid, gid, groups: Arc::clone(&self.no_groups) },
            op: OpId(unique & !(1 << 63)),
            deadline: Instant::now() + self.options.request_deadline,
        }
    }

    /// The context of work that no request asked for.
    pub(crate) fn background_context(&self) -> RequestContext {
        self.context(0, 0, BACKGROUND | self.background.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn hold(&self, inode: InodeId) -> Hold {
        Hold::new(inode, &self.service, &self.opens)
    }

    /// Makes attributes ready for the kernel: with unpublished writes, and remembered as told.
    pub(crate) fn tell(&self, attr: Attr) -> Told {
        let file = self.bodies.find(attr.inode);
        self.tell_with(attr, file.as_deref())
    }

    /// As [`Core::tell`], for a file that was looked for before the attributes were asked for: what was published
    /// meanwhile is newer than they are.
    pub(crate) fn tell_with(&self, mut attr: Attr, file: Option<&OpenFile>) -> Told {
        if let Some(file) = file {
            let heard = file.attr();
            if heard.version > attr.version {
                attr = heard;
            } else {
                file.overlay(&mut attr);
            }
        }
        self.known.insert(attr.inode, Known { version: attr.version, mode: attr.mode });
        Told { attr: file_attr(&attr), attr_ttl: self.options.attr_ttl, entry_ttl: self.options.entry_ttl }
    }

    /// The newest mode that this mount heard of.
    pub(crate) fn mode_of(&self, file: &OpenFile) -> u16 {
        self.known.get(&file.inode()).map_or_else(|| file.attr().mode, |known| known.mode)
    }

    /// Has the kernel ask for an inode's attributes again. Takes no lock that a request of the kernel could hold.
    pub(crate) fn forget_attrs(&self, inode: InodeId) {
        let notifier = self.notifier.lock().clone();
        if let Some(notifier) = notifier
            && let Err(error) = notifier.inval_inode(INodeNo(inode.0), -1, 0)
        {
            tracing::debug!(inode = inode.0, "can't invalidate attributes: {error}");
        }
    }

    /// Has the kernel write back an inode's pages and drop them and its attributes. Waits for pages in use: on a thread of
    /// its own, since a request that we have not answered yet may hold them.
    pub(crate) fn forget_pages(self: &Arc<Self>, inode: InodeId) -> JoinHandle<()> {
        let core = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let notifier = core.notifier.lock().clone();
            if let Some(notifier) = notifier
                && let Err(error) = notifier.inval_inode(INodeNo(inode.0), 0, 0)
            {
                tracing::debug!(inode = inode.0, "can't invalidate pages: {error}");
            }
        })
    }

    /// Changes something. A new file that was lost with its server is made again first.
    pub(crate) async fn change(&self, ctx: &RequestContext, mutation: Mutation) -> OpResult<Applied> {
        let target = match &mutation {
            Mutation::SetAttr { inode, .. }
            | Mutation::SetXattr { inode, .. }
            | Mutation::RemoveXattr { inode, .. }
            | Mutation::Link { inode, .. } => self.bodies.find(*inode).filter(|file| file.early_in().is_some()),
            _ => None,
        };
        let Some(file) = target else { return Ok(self.service.mutate(ctx, mutation).await?) };
        match self.service.mutate(ctx, mutation.clone()).await {
            Err(MetaError::NotFound) => {
                file.restore(ctx).await?;
                Ok(self.service.mutate(ctx, mutation).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Carries out a mutation that answers an inode.
    pub(crate) async fn entry(&self, ctx: &RequestContext, mutation: Mutation) -> OpResult<(Attr, bool)> {
        match self.change(ctx, mutation).await? {
            Applied::Entry { attr, created } => Ok((attr, created)),
            other => {
                Err(MetaError::Internal(format!("the metadata service answered {other:?} instead of an inode")).into())
            }
        }
    }
}
