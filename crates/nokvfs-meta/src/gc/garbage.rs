//! The garbage queue: objects that bodies stopped naming.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nokvfs_failpoint::failpoint;
use nokvfs_types::SliceId;

use super::Next;
use crate::engine::Core;
use crate::layout::{GarbageRecord, Key, KeyPrefix, SliceRecord};
use crate::plan::GARBAGE_RECORDS;
use crate::service::MetaResult;
use crate::store::ReadRecords;

/// Records of one round; a usual one names a single slice.
const ROUND: usize = 256;
/// Objects of one round, and of one part of a record that has more. A slice's come on top, half a megabyte at most.
const OBJECTS: usize = 20_000;
/// The backlog is counted up to this.
const BACKLOG: usize = 10_000;

pub(super) async fn round(core: Arc<Core>) -> MetaResult<Next> {
    let Some(until) = core.garbage_until() else {
        return Ok(Next::After(core.options.garbage_delay / 4));
    };
    let (mut records, mut keys, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut backlog = 0;
    let mut page = Vec::new();
    core.store.scan::<GarbageRecord>(&KeyPrefix::garbage(), None, BACKLOG, |key, record, _| {
        backlog += 1;
        if page.len() < ROUND {
            page.push((key, record));
        }
    })?;
    core.garbage.store(backlog, Ordering::Relaxed);
    let (mut waiting, mut deleted) = (false, 0);
    for (key, record) in page {
        if matches!(key, Key::Garbage(number) if number >= until) {
            waiting = true;
            break;
        }
        if deleted + keys.len() >= OBJECTS {
            break;
        }
        records.push(key);
        if core.is_foreign(record.volume).await? {
            continue;
        }
        gone.extend(record.slices.iter().map(|(slice, _)| Key::Slice(record.mount, *slice)));
        for (slice, len) in &record.slices {
            let (named, seen) = core.named_blocks(record.mount, slice)?;
            core.shown(seen).await?;
            if named > 0 {
                // A writer published more of it meanwhile; when that goes, all of it is garbage again.
                tracing::debug!(%slice, volume = %record.volume, "objects are named again and stay");
            }
            keys.extend((named..SliceId::blocks(*len)).map(|block| slice.object_key(record.volume, block)));
            if keys.len() >= OBJECTS {
                core.delete_objects(&keys).await?;
                deleted += keys.len();
                keys.clear();
            }
        }
    }
    if records.is_empty() {
        return Ok(if waiting { Next::After(core.options.garbage_delay / 4) } else { Next::Idle });
    }
    failpoint!("garbage.deleting");
    core.delete_objects(&keys).await?;
    failpoint!("garbage.deleted");
    let done = records.len() as u64;
    core.committer
        .submit(move |txn| {
            for key in &gone {
                if txn.get::<SliceRecord>(key)?.is_some_and(|slice| slice.named == 0) {
                    txn.delete(key)?;
                }
            }
            records.iter().try_for_each(|key| txn.delete(key))
        })
        .await?;
    failpoint!("garbage.forgotten");
    core.garbage.fetch_sub(done.min(backlog), Ordering::Relaxed);
    Ok(Next::Now)
}

impl Core {
    /// Garbage with numbers below this is old enough. Remembers how far commits have come, a few times per delay.
    fn garbage_until(&self) -> Option<u64> {
        let delay = self.options.garbage_delay;
        let mut marks = self.garbage_marks.lock();
        let now = Instant::now();
        if marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= delay / 8) {
            marks.push_back((now, self.committer.durable_version()));
        }
        // The last mark that is old enough counts; those before it are not needed.
        while marks.len() > 1 && now.duration_since(marks[1].0) >= delay {
            marks.pop_front();
        }
        marks
            .front()
            .filter(|(at, _)| now.duration_since(*at) >= delay)
            .map(|(_, version)| version.0.saturating_add(1).saturating_mul(GARBAGE_RECORDS))
    }
}
