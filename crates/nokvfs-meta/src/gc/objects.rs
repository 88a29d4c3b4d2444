//! What bodies name, and deleting what they don't.

use futures::stream::{StreamExt, TryStreamExt};
use nokvfs_failpoint::failpoint;
use nokvfs_types::{MetaError, MountId, SliceId, Version};

use crate::engine::{Core, object_error};
use crate::layout::{Content, HistoryRecord, Key, KeyPrefix, PackRecord, SliceRecord, open_content, tree_of};
use crate::plan::named_in;
use crate::service::MetaResult;
use crate::store::{ReadRecords, read_whole};

/// Keys of one delete, and objects of one page of a listing.
const BATCH: usize = 1000;
/// Deletes at once.
const PARALLEL: usize = 4;

impl Core {
    /// How many objects of a slice records name (0: none), and the commit that must be durable before objects are
    /// deleted on the word of this. All is of one moment: between the records of a batch that moves extents from one to
    /// the other, neither names them.
    pub(crate) fn named_blocks(&self, mount: MountId, slice: &SliceId) -> MetaResult<(u32, Version)> {
        self.store.view(|reads| {
            if slice.is_pack() {
                let pack = reads.get::<PackRecord>(&Key::Pack(mount, slice.upload))?;
                let named = pack.filter(|(pack, _)| pack.named > 0);
                return Ok(named.map_or((0, Version(0)), |(pack, seen)| (SliceId::blocks(pack.len.into()), seen)));
            }
            if let Some((counted, seen)) = reads.get::<SliceRecord>(&Key::Slice(mount, *slice))? {
                return Ok((if counted.named > 0 { SliceId::blocks(counted.len) } else { 0 }, seen));
            }
            // It was never shared: only its own records can name it, or what they were.
            let (mut len, mut newest) = (0, Version(0));
            for key in [Key::Inode(mount, slice.inode), Key::Chunk(mount, slice.inode, slice.chunk)] {
                let key = key.encode();
                let mut look = |content: &Content, seen: Version| {
                    newest = newest.max(seen);
                    len = len.max(named_in(&key, content)?.get(slice).copied().unwrap_or(0));
                    Ok::<(), MetaError>(())
                };
                if let Some(stored) = read_whole(reads, tree_of(&key), &key)? {
                    let (seen, content) = open_content(&key, &stored.value)?;
                    look(&content, seen)?;
                }
                let mut was = Vec::new();
                let history = KeyPrefix::history_of_key(&key);
                reads.scan::<HistoryRecord>(&history, None, usize::MAX, |_, record, seen| was.push((record, seen)))?;
                was.into_iter().try_for_each(|(record, seen)| look(&record.content, seen))?;
            }
            Ok((SliceId::blocks(len), newest))
        })
    }

    /// Deletes objects.
    pub(super) async fn delete_objects(&self, keys: &[String]) -> MetaResult<()> {
        let deletes: Vec<_> = keys.chunks(BATCH).map(|keys| self.objects.delete(keys)).collect();
        futures::stream::iter(deletes)
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
            .map_err(|error| object_error(&error))
    }

    /// Lists all objects of a prefix, page by page; `which` picks those that are deleted. Answers how many were.
    pub(super) async fn delete_listed(
        &self,
        prefix: &str,
        mut which: impl FnMut(&str) -> MetaResult<bool> + Send,
    ) -> MetaResult<usize> {
        let (mut after, mut deleted): (Option<String>, usize) = (None, 0);
        loop {
            let listed = self.objects.list(prefix, after.as_deref(), BATCH as u32).await;
            let page = listed.map_err(|error| object_error(&error))?;
            let mut keys = Vec::new();
            for object in &page.objects {
                if which(&object.key)? {
                    keys.push(object.key.clone());
                }
            }
            deleted += keys.len();
            if !keys.is_empty() {
                // Also what was not found must be so for good: behind this, all that was seen is durable.
                self.committer.submit(|_| Ok(())).await?;
                self.delete_objects(&keys).await?;
                failpoint!("objects.page_deleted");
            }
            if !page.more {
                return Ok(deleted);
            }
            let last = page.objects.last().map(|object| object.key.clone());
            if last.is_none() || last == after {
                return Err(MetaError::Unavailable(format!(
                    "the object store lists {prefix} without an end; check that it is an S3 store"
                )));
            }
            after = last;
        }
    }
}
