//! Extended attributes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{InodeId, Mutation, XattrMode};

use crate::core::Core;
use crate::errors::{OpResult, Refusal};
use crate::reply::Sized;

/// The kernel asks for it before writes. We refuse to keep it, so the answer needs no request.
const CAPABILITY: &[u8] = b"security.capability";

/// POSIX ACLs and the like would be stored and not obeyed.
fn is_refused(name: &[u8]) -> bool {
    name.starts_with(b"system.") || name == CAPABILITY
}

impl Core {
    pub(crate) async fn getxattr(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        name: Bytes,
        size: u32,
    ) -> OpResult<Sized> {
        if name == CAPABILITY {
            return Err(Refusal::Errno(libc::ENODATA));
        }
        if is_refused(&name) {
            return Err(Refusal::Errno(libc::EOPNOTSUPP));
        }
        let data = self.service.getxattr(&ctx, inode, &name).await?;
        Ok(Sized { data, size })
    }

    pub(crate) async fn listxattr(self: Arc<Self>, ctx: RequestContext, inode: InodeId, size: u32) -> OpResult<Sized> {
        let mut names = self.service.listxattr(&ctx, inode).await?;
        // Trusted ones are for privileged eyes; their values the kernel guards itself.
        names.retain(|name| ctx.caller.uid == 0 || !name.starts_with(b"trusted."));
        let mut data = BytesMut::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names {
            data.put_slice(&name);
            data.put_u8(0);
        }
        Ok(Sized { data: data.freeze(), size })
    }

    pub(crate) async fn setxattr(
        self: Arc<Self>,
        ctx: RequestContext,
        inode: InodeId,
        name: Bytes,
        value: Bytes,
        flags: i32,
    ) -> OpResult<()> {
        if is_refused(&name) {
            return Err(Refusal::Errno(libc::EOPNOTSUPP));
        }
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Refusal::Errno(libc::EINVAL)),
        };
        self.change(&ctx, Mutation::SetXattr { inode, name, value, mode }).await?;
        Ok(())
    }

    pub(crate) async fn removexattr(self: Arc<Self>, ctx: RequestContext, inode: InodeId, name: Bytes) -> OpResult<()> {
        if is_refused(&name) {
            let errno = if name == CAPABILITY { libc::ENODATA } else { libc::EOPNOTSUPP };
            return Err(Refusal::Errno(errno));
        }
        self.change(&ctx, Mutation::RemoveXattr { inode, name }).await?;
        Ok(())
    }
}
