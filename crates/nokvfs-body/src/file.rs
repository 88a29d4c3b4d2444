//! One file's body.

use std::sync::Arc;

use bytes::Bytes;
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{Attr, InodeId};

use crate::{BodyError, ReadStream};

/// One file's body, shared by all handles of a mount. Lives as long as a handle or unpublished writes.
#[derive(Debug)]
pub struct OpenFile {}

#[allow(unused_variables)]
impl OpenFile {
    /// The file.
    pub fn inode(&self) -> InodeId {
        unimplemented!()
    }

    /// Attributes as last heard of, with unpublished writes. No request.
    pub fn attr(&self) -> Attr {
        unimplemented!()
    }

    /// Reads; fewer bytes than asked for only at the end of the file. Sees unpublished writes of this mount.
    pub async fn read(
        self: &Arc<Self>,
        ctx: &RequestContext,
        stream: &ReadStream,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, BodyError> {
        unimplemented!()
    }

    /// Writes into the stage; waits while that is full. On an error nothing was written.
    pub async fn write(self: &Arc<Self>, ctx: &RequestContext, offset: u64, data: Bytes) -> Result<(), BodyError> {
        unimplemented!()
    }

    /// Writes at the end (`O_APPEND`), atomically among this mount's handles; answers where.
    pub async fn append(self: &Arc<Self>, ctx: &RequestContext, data: Bytes) -> Result<u64, BodyError> {
        unimplemented!()
    }

    /// Cuts or grows the file, here and in the metadata at once. On an error nothing changed here.
    pub async fn truncate(self: &Arc<Self>, ctx: &RequestContext, size: u64) -> Result<Attr, BodyError> {
        unimplemented!()
    }

    /// Uploads and publishes everything written before. On an error nothing is dropped, and the next sync tries again:
    /// success always means that all bytes are published.
    pub async fn sync(self: &Arc<Self>, ctx: &RequestContext) -> Result<Attr, BodyError> {
        unimplemented!()
    }

    /// Drops unpublished writes; for a file whose sync failed for good and that nobody has open any more.
    pub fn discard(&self) {
        unimplemented!()
    }

    /// Puts size and times of unpublished writes into attributes of this inode that the metadata told.
    pub fn overlay(&self, attr: &mut Attr) {
        unimplemented!()
    }

    /// The first byte with data at or after `offset`; `None` if there is none (`ENXIO`).
    pub async fn seek_data(self: &Arc<Self>, ctx: &RequestContext, offset: u64) -> Result<Option<u64>, BodyError> {
        unimplemented!()
    }

    /// The first hole at or after `offset`, the end of the file counts as one; `None` beyond the end (`ENXIO`).
    pub async fn seek_hole(self: &Arc<Self>, ctx: &RequestContext, offset: u64) -> Result<Option<u64>, BodyError> {
        unimplemented!()
    }

    /// Whether there are unpublished writes.
    pub fn is_dirty(&self) -> bool {
        unimplemented!()
    }
}
