//! The kernel's requests, as fuser hands them over.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{InodeId, LockType, NewNode, RenameMode};

use crate::attrs::{set_time, timestamp};
use crate::content::WriteMode;
use crate::core::Core;
use crate::dispatch::{Call, Dispatcher, Effect};
use crate::errors::{OpResult, Refusal};
use crate::lock_request::{Given, posix_lock, wanted_lock};
use crate::names::{Change, permissions, special};
use crate::options::MAX_IO;
use crate::reply::Answer;

/// Read-ahead and other requests that no process waits for, in the kernel's queue at once.
const MAX_BACKGROUND: u16 = 64;

/// What the kernel is asked for where it offers it. Not asked for: ACLs, write-back, and re-reading pages
/// whenever a time changes (our own writes change it, and an open drops what is old).
const WANTED: [InitFlags; 10] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Without it the kernel asks for security.capability at every write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_HAS_RESEND,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
];

/// The adapter between fuser and [`Core`].
#[derive(Debug)]
pub(crate) struct Front {
    core: Arc<Core>,
    dispatcher: Dispatcher,
}

fn owned(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn inode(number: INodeNo) -> InodeId {
    InodeId(number.0)
}

impl Front {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let dispatcher = Dispatcher::new(core.runtime.clone(), core.options.max_in_flight);
        Front { core, dispatcher }
    }

    fn run<R: Answer, F>(
        &self,
        (op, effect): (&'static str, Effect),
        req: &Request,
        ino: INodeNo,
        reply: R,
        operation: impl FnOnce(Arc<Core>, RequestContext) -> F,
    ) where
        F: Future<Output = OpResult<R::Value>> + Send + 'static,
    {
        let ctx = self.core.context(req.uid(), req.gid(), req.unique().0);
        let call = Call { op, inode: ino.0, unique: ctx.op.0, thread: req.pid(), deadline: ctx.deadline, effect };
        self.dispatcher.run(call, reply, operation(Arc::clone(&self.core), ctx));
    }
}

fn read(op: &'static str) -> (&'static str, Effect) {
    (op, Effect::Read)
}

fn change(op: &'static str) -> (&'static str, Effect) {
    (op, Effect::Change)
}

fn brief(op: &'static str) -> (&'static str, Effect) {
    (op, Effect::Brief)
}

fn rename_mode(flags: RenameFlags) -> OpResult<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(Refusal::Errno(libc::EINVAL))
    }
}

impl Filesystem for Front {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                tracing::info!("this kernel has no {flag:?}");
            }
        }
        let refused =
            |what: &str, nearest: u64| io::Error::other(format!("{what}: the nearest that FUSE takes is {nearest}"));
        config.set_max_write(MAX_IO).map_err(|nearest| refused("max_write", nearest.into()))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|nearest| refused("max_background", nearest.into()))?;
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = owned(name);
        self.run(read("lookup"), req, parent, reply, |core, ctx| core.lookup(ctx, inode(parent), name));
    }

    // forget, batch_forget: nothing is kept per inode.

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.run(read("getattr"), req, ino, reply, |core, ctx| core.getattr(ctx, inode(ino)));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Change {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(timestamp),
        };
        self.run(change("setattr"), req, ino, reply, |core, ctx| core.setattr(ctx, inode(ino), wanted));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(read("readlink"), req, ino, reply, |core, ctx| core.readlink(ctx, inode(ino)));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = owned(name);
        self.run(change("mknod"), req, parent, reply, |core, ctx| async move {
            core.make(ctx, inode(parent), name, special(mode, rdev)?, permissions(mode)).await
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let name = owned(name);
        self.run(change("mkdir"), req, parent, reply, |core, ctx| {
            core.make(ctx, inode(parent), name, NewNode::Directory, permissions(mode))
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run(change("unlink"), req, parent, reply, |core, ctx| core.unlink(ctx, inode(parent), name));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run(change("rmdir"), req, parent, reply, |core, ctx| core.rmdir(ctx, inode(parent), name));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (owned(name), owned(target.as_os_str()));
        self.run(change("symlink"), req, parent, reply, |core, ctx| {
            core.make(ctx, inode(parent), name, NewNode::Symlink(target), 0o777)
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = (inode(parent), owned(name));
        let to = (inode(newparent), owned(newname));
        self.run(change("rename"), req, parent, reply, |core, ctx| core.rename(ctx, from, to, rename_mode(flags)));
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let name = owned(newname);
        self.run(change("link"), req, ino, reply, |core, ctx| core.link(ctx, inode(ino), inode(newparent), name));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let op = if flags.0 & libc::O_TRUNC == 0 { read("open") } else { change("open") };
        self.run(op, req, ino, reply, |core, ctx| core.open(ctx, inode(ino), flags.0));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, thread) = (owned(name), req.pid());
        self.run(brief("create"), req, parent, reply, |core, ctx| {
            core.create(ctx, thread, inode(parent), name, permissions(mode), flags)
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run(read("read"), req, ino, reply, |core, ctx| core.read(ctx, inode(ino), fh.0, offset, size));
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let mode = WriteMode {
            // Pages of a mapping go where they belong.
            append: flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            sync: flags.0 & libc::O_DSYNC != 0,
            drop_set_id: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        self.run(change("write"), req, ino, reply, |core, ctx| core.write(ctx, inode(ino), fh.0, offset, data, mode));
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        self.run(change("flush"), req, ino, reply, |core, ctx| core.close(ctx, inode(ino), fh.0, lock_owner.0));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.core.release(fh.0);
        self.core.release_locks(inode(ino), fh.0, lock_owner.map(|owner| owner.0));
        reply.ok();
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(change("fsync"), req, ino, reply, |core, ctx| core.fsync(ctx, inode(ino)));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.core.handles.add_dir()), FopenFlags::empty());
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.run(read("readdir"), req, ino, reply, |core, ctx| core.list(ctx, inode(ino), fh.0, offset, false));
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.run(read("readdirplus"), req, ino, reply, |core, ctx| core.list(ctx, inode(ino), fh.0, offset, true));
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.core.handles.remove_dir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(read("fsyncdir"), req, ino, reply, move |core, ctx| core.sync_dir(ctx, inode(ino)));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.run(read("statfs"), req, ino, reply, |core, ctx| core.statfs(ctx));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (owned(name), Bytes::copy_from_slice(value));
        self.run(change("setxattr"), req, ino, reply, |core, ctx| core.setxattr(ctx, inode(ino), name, value, flags));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = owned(name);
        self.run(read("getxattr"), req, ino, reply, |core, ctx| core.getxattr(ctx, inode(ino), name, size));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.run(read("listxattr"), req, ino, reply, |core, ctx| core.listxattr(ctx, inode(ino), size));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run(change("removexattr"), req, ino, reply, |core, ctx| core.removexattr(ctx, inode(ino), name));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Asked only without default_permissions, and then everything is allowed. The kernel does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.run(read("lseek"), req, ino, reply, |core, ctx| core.seek(ctx, inode(ino), fh.0, offset, whence));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.run(change("fallocate"), req, ino, reply, |core, ctx| {
            core.fallocate(ctx, inode(ino), fh.0, offset..offset.saturating_add(length), mode)
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel makes EOPNOTSUPP of it and does not ask again; so for the next ones.
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let wanted = posix_lock(inode(ino), lock_owner.0, (start, end), typ, pid);
        self.run(read("getlk"), req, ino, reply, |core, ctx| async move { core.test_lock(ctx, wanted?).await });
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let given = Given { handle: fh.0, owner: lock_owner.0, start, end, typ, pid };
        let wanted = wanted_lock(req, inode(ino), &given);
        let waits = sleep && wanted.as_ref().is_ok_and(|lock| lock.lock_type != LockType::Unlock);
        if !waits {
            let op = change("setlk");
            return self.run(op, req, ino, reply, |core, ctx| async move { core.set_lock(ctx, fh.0, wanted?).await });
        }
        let (op, thread, effect) = ("setlkw", req.pid(), Effect::Change);
        let ctx = self.core.context(req.uid(), req.gid(), req.unique().0);
        let call = Call { op, inode: ino.0, unique: ctx.op.0, thread, deadline: ctx.deadline, effect };
        let core = Arc::clone(&self.core);
        let operation = async move { core.wait_lock(ctx, thread, fh.0, wanted?).await };
        self.dispatcher.run_unbounded(call, reply, operation);
    }
}
