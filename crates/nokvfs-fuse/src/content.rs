//! Operations on open files.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fuser::FopenFlags;
use nokvfs_body::{OpenFile, RangeChange, ReadStream};
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{Ack, Attr, BodyView, InodeId, MetaError, Mutation, Name, NewNode, SetAttr};

use crate::attrs::without_set_id;
use crate::core::Core;
use crate::errors::{OpResult, Refusal};
use crate::handles::{FileHandle, Hold};
use crate::process;
use crate::reply::{Opened, Told};

/// How a write is to be carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteMode {
    /// `O_APPEND`: at the end, wherever the kernel believes that to be.
    pub(crate) append: bool,
    /// `O_SYNC`, `O_DSYNC`: published before the answer.
    pub(crate) sync: bool,
    /// The writer may not keep set-id bits.
    pub(crate) drop_set_id: bool,
}

fn is_writable(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Whether mode bits let a caller open a file with these flags: for a file that another mount made between the kernel's
/// lookup and its create, so that the kernel has not checked.
fn may_open(attr: &Attr, ctx: &RequestContext, thread: u32, flags: i32) -> bool {
    let (uid, gid) = (ctx.caller.uid, ctx.caller.gid);
    let wanted = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => 0o4,
        libc::O_WRONLY => 0o2,
        _ => 0o6,
    } | if flags & libc::O_TRUNC == 0 { 0 } else { 0o2 };
    let shift = if attr.uid == uid {
        6
    } else if attr.gid == gid || process::groups(thread).contains(&attr.gid) {
        3
    } else {
        0
    };
    uid == 0 || (attr.mode >> shift) & wanted == wanted
}

/// The creation of a file again, should the one that was answered be lost.
fn restoring(mut create: Mutation, inode: InodeId) -> Mutation {
    if let Mutation::Create { ack, open_existing, .. } = &mut create {
        *ack = Ack::Restore(inode);
        *open_existing = false;
    }
    create
}

impl Core {
    pub(crate) async fn create(
        self: Arc<Self>,
        ctx: RequestContext,
        thread: u32,
        parent: InodeId,
        name: Bytes,
        mode: u16,
        flags: i32,
    ) -> OpResult<(Told, Opened)> {
        let exclusive = flags & libc::O_EXCL != 0;
        let name = Name::new(name)?;
        let create =
            Mutation::Create { parent, name, node: NewNode::File, mode, open_existing: !exclusive, ack: Ack::Early };
        let (attr, created) = match self.entry(&ctx, create.clone()).await {
            // Something that is no regular file appeared since the kernel looked: have it look again.
            Err(Refusal::Meta(MetaError::Exists)) if !exclusive => return Err(Refusal::Errno(libc::ESTALE)),
            other => other?,
        };
        let inode = attr.inode;
        let hold = self.hold(inode);
        if created {
            let file = self.bodies.adopt(BodyView { attr: attr.clone(), extents: Vec::new(), complete_to: u64::MAX });
            file.answered_early(ctx.caller.clone(), restoring(create, inode));
            self.pages.insert(inode, attr.version);
            let opened = self.opened(file, hold, flags, FopenFlags::FOPEN_KEEP_CACHE);
            return Ok((self.tell(attr), opened));
        }
        if self.options.default_permissions && !may_open(&attr, &ctx, thread, flags) {
            return Err(Refusal::Errno(libc::EACCES));
        }
        let file = self.open_file(&ctx, inode, flags).await?;
        let told = self.tell(file.attr());
        Ok((told, self.opened(file, hold, flags, FopenFlags::empty())))
    }

    pub(crate) async fn open(self: Arc<Self>, ctx: RequestContext, inode: InodeId, flags: i32) -> OpResult<Opened> {
        let hold = self.hold(inode);
        let file = self.open_file(&ctx, inode, flags).await?;
        let attr = file.attr();
        let unchanged = self.pages.get(&inode) == Some(attr.version) && flags & libc::O_TRUNC == 0;
        self.pages.insert(inode, attr.version);
        if self.known.get(&inode).is_none_or(|known| known.version != attr.version) {
            // Without this the kernel could go by an older size until the attributes expire, and read too little.
            self.forget_attrs(inode);
        }
        let flag = if unchanged { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        Ok(self.opened(file, hold, flags, flag))
    }

    async fn open_file(&self, ctx: &RequestContext, inode: InodeId, flags: i32) -> OpResult<Arc<OpenFile>> {
        let file = self.bodies.open(ctx, inode).await?;
        if flags & libc::O_TRUNC != 0 {
            file.truncate(ctx, 0).await?;
            if ctx.caller.uid != 0 {
                self.drop_set_id(ctx, &file).await?;
            }
        }
        Ok(file)
    }

    fn opened(self: &Arc<Self>, file: Arc<OpenFile>, hold: Hold, flags: i32, fopen: FopenFlags) -> Opened {
        let handle = FileHandle { file, stream: ReadStream::new(), writable: is_writable(flags), hold };
        Opened { core: Arc::clone(self), handle: Arc::new(handle), flags: fopen }
    }

    /// The handle of that number; one of a predecessor of this process is opened again.
    pub(crate) async fn handle(&self, ctx: &RequestContext, inode: InodeId, number: u64) -> OpResult<Arc<FileHandle>> {
        if let Some(handle) = self.handles.file(number) {
            return Ok(handle);
        }
        let hold = self.hold(inode);
        let file = self.bodies.open(ctx, inode).await?;
        let handle = Arc::new(FileHandle { file, stream: ReadStream::new(), writable: true, hold });
        Ok(self.handles.adopt_file(number, &handle))
    }

    pub(crate) async fn read(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        number: u64,
        offset: u64,
        size: u32,
    ) -> OpResult<Bytes> {
        let handle = self.handle(&ctx, inode, number).await?;
        Ok(handle.file.read(&ctx, &handle.stream, offset, size).await?)
    }

    pub(crate) async fn write(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        number: u64,
        offset: u64,
        data: Bytes,
        mode: WriteMode,
    ) -> OpResult<u32> {
        let handle = self.handle(&ctx, inode, number).await?;
        let written = data.len() as u32;
        if mode.drop_set_id {
            self.drop_set_id(&ctx, &handle.file).await?;
        }
        if mode.append {
            let at = handle.file.append(&ctx, data).await?;
            if at != offset {
                // The kernel put the bytes where it believed the end to be.
                drop(self.forget_pages(inode));
            }
        } else {
            handle.file.write(&ctx, offset, data).await?;
        }
        if mode.sync {
            handle.file.sync(&ctx).await?;
        }
        Ok(written)
    }

    /// Takes set-id bits away, as a write by someone without privilege does.
    async fn drop_set_id(&self, ctx: &RequestContext, file: &OpenFile) -> OpResult<()> {
        let Some(mode) = without_set_id(self.mode_of(file)) else { return Ok(()) };
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let (attr, _) = self.entry(ctx, Mutation::SetAttr { inode: file.inode(), set }).await?;
        self.tell_with(attr, Some(file));
        self.forget_attrs(file.inode());
        Ok(())
    }

    /// close(2): what this handle's file has unpublished is published, unless the handle can't have written it or the
    /// file has no name any more.
    pub(crate) async fn flush(self: Arc<Self>, ctx: RequestContext, inode: InodeId, number: u64) -> OpResult<()> {
        let handle = self.handles.file(number);
        let (writable, file) = match handle {
            Some(handle) => (handle.writable, Some(Arc::clone(&handle.file))),
            None => (true, self.bodies.find(inode)),
        };
        match file {
            Some(file) if file.is_unsettled() && (writable || !file.is_dirty()) && !self.opens.is_orphan(inode) => {
                file.sync(&ctx).await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn fsync(self: Arc<Self>, ctx: RequestContext, inode: InodeId) -> OpResult<()> {
        if let Some(file) = self.bodies.find(inode).filter(|file| file.is_unsettled()) {
            file.sync(&ctx).await?;
        }
        Ok(())
    }

    /// fallocate(2). Moving a file's end part (`FALLOC_FL_COLLAPSE_RANGE`, `_INSERT_RANGE`) is refused.
    pub(crate) async fn fallocate(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        number: u64,
        range: Range<u64>,
        mode: i32,
    ) -> OpResult<()> {
        let change = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => RangeChange::Allocate,
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => RangeChange::Unmap,
            _ => return Err(Refusal::Errno(libc::EOPNOTSUPP)),
        };
        let handle = self.handle(&ctx, inode, number).await?;
        if ctx.caller.uid != 0 {
            self.drop_set_id(&ctx, &handle.file).await?;
        }
        let attr = handle.file.fallocate(&ctx, range, change, mode & libc::FALLOC_FL_KEEP_SIZE == 0).await?;
        self.tell_with(attr, Some(&handle.file));
        Ok(())
    }

    pub(crate) async fn seek(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        number: u64,
        offset: i64,
        whence: i32,
    ) -> OpResult<i64> {
        let from = u64::try_from(offset).map_err(|_| Refusal::Errno(libc::ENXIO))?;
        let file = Arc::clone(&self.handle(&ctx, inode, number).await?.file);
        if self.handles.is_writable(inode) {
            // Pages that a mapping changed are the kernel's alone, and it asks without writing them back.
            self.forget_pages(inode).await.map_err(|_| Refusal::Panicked)?;
        }
        let found = match whence {
            libc::SEEK_DATA => file.seek_data(&ctx, from).await?,
            libc::SEEK_HOLE => file.seek_hole(&ctx, from).await?,
            _ => return Err(Refusal::Errno(libc::EINVAL)),
        };
        found.and_then(|at| i64::try_from(at).ok()).ok_or(Refusal::Errno(libc::ENXIO))
    }
}
