//! Reading the metadata of a volume as it is, or of a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nokvfs_client::RemoteService;
use nokvfs_meta::service::{MetadataService, RequestContext};
use nokvfs_types::{Attr, Caller, InodeId, MetaError, Name, OpId};

use crate::connection::{CredentialArgs, ServerArgs};

/// Entries of one request.
const PAGE: u32 = 1000;
/// How long one may take.
const CALL: Duration = Duration::from_secs(30);

/// A tree that is read. Directories that go while it is read are empty.
#[derive(Clone, Debug)]
pub struct Tree(Arc<RemoteService>);

impl Tree {
    /// Opens a session.
    pub async fn open(server: &ServerArgs, volume: &CredentialArgs, snapshot: Option<String>) -> anyhow::Result<Tree> {
        Ok(Tree(server.session(volume, true, snapshot).await?))
    }

    /// The entries of a directory, in the order of names. Holds all of one directory.
    pub async fn list(&self, dir: InodeId) -> anyhow::Result<BTreeMap<Name, Attr>> {
        let mut all = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = match self.0.readdir(&context(), dir, after, PAGE, true).await {
                Err(MetaError::NotFound | MetaError::NotDirectory) => return Ok(all),
                page => page.with_context(|| format!("listing inode {dir}"))?,
            };
            match page.entries.last() {
                Some(last) => after = last.cookie,
                None if !page.end => bail!("the listing of inode {dir} stands still; report it"),
                None => {}
            }
            all.extend(page.entries.into_iter().filter_map(|entry| Some((entry.name, entry.attr?))));
            if page.end {
                return Ok(all);
            }
        }
    }

    /// Ends the session.
    pub async fn close(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }
}

fn context() -> RequestContext {
    let caller = Caller { uid: 0, gid: 0, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(0), deadline: Instant::now() + CALL }
}

/// A path below the root, for people: names that are not UTF-8 are shown with marks in place of what is not.
pub fn join(dir: &str, name: &Name) -> String {
    format!("{dir}/{}", String::from_utf8_lossy(name.as_bytes()))
}
