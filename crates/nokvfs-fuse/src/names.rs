//! Operations on names and attributes.

use std::sync::Arc;

use bytes::Bytes;
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{Ack, Applied, FileKind, InodeId, Mutation, Name, NewNode, RenameMode, SetAttr, SetTime, Timestamp};

use crate::attrs::without_set_id;
use crate::core::Core;
use crate::errors::{OpResult, Refusal};
use crate::reply::Told;

/// What setattr asks for. More than one of these comes in one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) mode: Option<u16>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<SetTime>,
    pub(crate) mtime: Option<SetTime>,
    pub(crate) ctime: Option<Timestamp>,
}

/// What mknod makes. Device numbers come as they are kept (`new_encode_dev`).
pub(crate) fn special(mode: u32, rdev: u32) -> OpResult<NewNode> {
    let kind = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => return Ok(NewNode::File),
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => return Err(Refusal::Errno(libc::EINVAL)),
    };
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    Ok(NewNode::Special { kind, rdev: if is_device { rdev } else { 0 } })
}

/// The low 12 bits of a mode.
pub(crate) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

impl Core {
    pub(crate) async fn lookup(self: Arc<Self>, ctx: RequestContext, parent: InodeId, name: Bytes) -> OpResult<Told> {
        let attr = self.service.lookup(&ctx, parent, &Name::new(name)?).await?;
        Ok(self.tell(attr))
    }

    pub(crate) async fn getattr(self: Arc<Self>, ctx: RequestContext, inode: InodeId) -> OpResult<Told> {
        let file = self.bodies.find(inode);
        let attr = self.service.getattr(&ctx, inode).await?;
        match file {
            Some(file) => Ok(self.tell_with(attr, Some(&file))),
            None => Ok(self.tell(attr)),
        }
    }

    /// Makes anything but an open file.
    pub(crate) async fn make(
        self: Arc<Self>,
        ctx: RequestContext,
        parent: InodeId,
        name: Bytes,
        node: NewNode,
        mode: u16,
    ) -> OpResult<Told> {
        let name = Name::new(name)?;
        let create = Mutation::Create { parent, name, node, mode, open_existing: false, ack: Ack::Durable };
        let (attr, _) = self.entry(&ctx, create).await?;
        Ok(self.tell(attr))
    }

    pub(crate) async fn link(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        parent: InodeId,
        name: Bytes,
    ) -> OpResult<Told> {
        let (attr, _) = self.entry(&ctx, Mutation::Link { inode, parent, name: Name::new(name)? }).await?;
        Ok(self.tell(attr))
    }

    pub(crate) async fn unlink(self: Arc<Self>, ctx: RequestContext, parent: InodeId, name: Bytes) -> OpResult<()> {
        let name = Name::new(name)?;
        if let Applied::Removed { inode, nlink: 0 } =
            self.service.mutate(&ctx, Mutation::Unlink { parent, name }).await?
            && !self.opens.orphaned(inode)
            && let Some(file) = self.bodies.find(inode)
        {
            // Nobody can read it any more.
            file.discard();
        }
        Ok(())
    }

    pub(crate) async fn rmdir(self: Arc<Self>, ctx: RequestContext, parent: InodeId, name: Bytes) -> OpResult<()> {
        self.service.mutate(&ctx, Mutation::Rmdir { parent, name: Name::new(name)? }).await?;
        Ok(())
    }

    pub(crate) async fn rename(
        self: Arc<Self>,
        ctx: RequestContext,
        from: (InodeId, Bytes),
        to: (InodeId, Bytes),
        mode: OpResult<RenameMode>,
    ) -> OpResult<()> {
        let (name, new_name) = (Name::new(from.1)?, Name::new(to.1)?);
        let rename = Mutation::Rename { parent: from.0, name, new_parent: to.0, new_name, mode: mode? };
        self.service.mutate(&ctx, rename).await?;
        Ok(())
    }

    pub(crate) async fn readlink(self: Arc<Self>, ctx: RequestContext, inode: InodeId) -> OpResult<Bytes> {
        Ok(self.service.readlink(&ctx, inode).await?)
    }

    pub(crate) async fn statfs(self: Arc<Self>, ctx: RequestContext) -> OpResult<nokvfs_types::FsStat> {
        Ok(self.service.statfs(&ctx).await?)
    }

    pub(crate) async fn setattr(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        change: Change,
    ) -> OpResult<Told> {
        let mut set = SetAttr {
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            size: None,
            atime: change.atime,
            mtime: change.mtime,
            ctime: change.ctime,
        };
        let mut latest = None;
        if let Some(size) = change.size {
            let _hold = self.hold(inode);
            let file = match self.bodies.find(inode) {
                Some(file) => file,
                None => self.bodies.open(&ctx, inode).await?,
            };
            latest = Some(file.truncate(&ctx, size).await?);
            if set.mode.is_none() && ctx.caller.uid != 0 {
                set.mode = without_set_id(self.mode_of(&file));
            }
            // truncate(2) asks for "mtime: now" as well; cutting did that.
            set.mtime = set.mtime.filter(|time| *time != SetTime::Now);
            set.ctime = None;
        }
        // The kernel asks for no change at all where nothing but the set-id bits is to go: chown(-1, -1).
        let only_set_id = latest.is_none() && set == SetAttr::default();
        if set.mode.is_none() && (set.uid.is_some() || set.gid.is_some() || only_set_id) {
            set.mode = self.mode_after_chown(&ctx, inode).await?;
        }
        if set.mtime.is_some()
            && let Some(file) = self.bodies.find(inode).filter(|file| file.is_dirty())
        {
            // What was written before must not bring its own, later published time.
            self.sync(&ctx, &file).await?;
        }
        let attr = match latest {
            Some(attr) if set == SetAttr::default() => attr,
            _ => self.entry(&ctx, Mutation::SetAttr { inode, set }).await?.0,
        };
        Ok(self.tell(attr))
    }

    /// A change of owner takes set-id bits away, for root too.
    async fn mode_after_chown(&self, ctx: &RequestContext, inode: InodeId) -> OpResult<Option<u16>> {
        let attr = self.service.getattr(ctx, inode).await?;
        // Where no owner is named the kernel asks before a write by someone else, too; that write takes them away.
        let may = ctx.caller.uid == 0 || ctx.caller.uid == attr.uid;
        Ok(if may && attr.kind != FileKind::Directory { without_set_id(attr.mode) } else { None })
    }
}
