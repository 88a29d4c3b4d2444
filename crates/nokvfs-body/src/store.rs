//! All bodies of one mount.

use std::sync::Arc;
use std::time::Instant;

use nokvfs_meta::service::{MetadataService, RequestContext};
use nokvfs_object::ObjectStore;
use nokvfs_types::{BodyView, InodeId};

use crate::{BodyError, BodyOptions, OpenFile};

/// All bodies of one mount.
#[derive(Debug)]
pub struct Bodies {}

#[allow(unused_variables)]
impl Bodies {
    /// Bodies over a session's metadata and a volume's objects. Call inside a tokio runtime.
    pub fn new(
        service: Arc<dyn MetadataService>,
        store: Arc<dyn ObjectStore>,
        options: BodyOptions,
    ) -> Result<Arc<Bodies>, BodyError> {
        unimplemented!()
    }

    /// Opens a file: reads its body's descriptor, unless this mount has unpublished writes to it (close-to-open).
    pub async fn open(self: &Arc<Self>, ctx: &RequestContext, inode: InodeId) -> Result<Arc<OpenFile>, BodyError> {
        unimplemented!()
    }

    /// Opens a file that was just created or whose body's descriptor was just read: no request.
    pub fn adopt(self: &Arc<Self>, view: BodyView) -> Arc<OpenFile> {
        unimplemented!()
    }

    /// The file, if it is open here or has unpublished writes.
    pub fn find(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        unimplemented!()
    }

    /// Publishes all unpublished writes; the error names the files where that failed.
    pub async fn shutdown(&self, deadline: Instant) -> Result<(), BodyError> {
        unimplemented!()
    }

    /// Files with unpublished writes.
    pub fn dirty(&self) -> usize {
        unimplemented!()
    }
}
