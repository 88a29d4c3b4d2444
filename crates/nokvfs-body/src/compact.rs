//! Rewriting a chunk whose extents are many.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use nokvfs_failpoint::failpoint;
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{BLOCK_SIZE, CHUNK_SIZE, Extent};

use crate::BodyError;
use crate::file::OpenFile;
use crate::frames::SlicePart;
use crate::job::OpenSlice;
use crate::ranges::{Content, RangeMap};

/// Objects that are rewritten at once: 8 MiB of memory each.
const PARALLEL: usize = 4;
/// A rewritten chunk with more ranges than this has its holes filled that are shorter than [`HOLE_MIN`].
const RANGES_MAX: usize = 128;
/// 128 of these are a chunk, so that no more than 128 ranges are left.
const HOLE_MIN: u64 = CHUNK_SIZE / RANGES_MAX as u64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes of a rewritten object: from a slice, or zeros.
#[derive(Clone, Debug)]
struct Run {
    part: Option<SlicePart>,
    len: u64,
}

impl OpenFile {
    /// Reads a chunk as it is with `fresh` extents over it and uploads it anew. The published part is read from the
    /// metadata again first: what another mount published since must not be undone.
    pub(crate) async fn compact(
        self: &Arc<Self>,
        ctx: &RequestContext,
        chunk: u64,
        fresh: &RangeMap<SlicePart>,
    ) -> Result<(Vec<Extent>, Arc<OpenSlice>), BodyError> {
        let (from, to) = (chunk * CHUNK_SIZE, (chunk + 1) * CHUNK_SIZE);
        failpoint!("compact.begun");
        self.state.lock().known.remove(from..to);
        self.know(ctx, from, to).await?;
        let mut merged = RangeMap::default();
        for span in self.state.lock().base.within(from..to).chain(fresh.iter()) {
            merged.lay(span.start, span.len, span.content);
        }
        let ranges = dense_ranges(&merged);
        let slice = OpenSlice::new(&self.bodies, self.inode(), chunk as u32);
        let objects = objects(&merged, &ranges);
        for object in &objects {
            slice.extend(object.iter().map(|run| run.len).sum());
        }
        let tasks = objects.into_iter().enumerate().map(|(number, runs)| {
            let slice = slice.clone();
            async move { self.put_runs(&slice, number as u64 * BLOCK_SIZE, runs).await }
        });
        let all = futures::stream::iter(tasks).buffer_unordered(PARALLEL).try_collect::<Vec<()>>();
        match tokio::time::timeout_at(ctx.deadline.into(), all).await {
            Ok(result) => drop(result?),
            Err(_) => return Err(BodyError::Deadline("rewriting a fragmented chunk")),
        }
        failpoint!("compact.uploaded");
        let id = slice.id().await?;
        let mut extents = Vec::new();
        let mut at = 0;
        for span in ranges.iter() {
            extents.push(Extent {
                offset: span.start,
                len: span.len,
                slice: id,
                slice_offset: at,
                slice_len: slice.len(),
            });
            at += span.len;
        }
        Ok((extents, slice))
    }

    async fn put_runs(&self, slice: &OpenSlice, at: u64, runs: Vec<Run>) -> Result<(), BodyError> {
        let _permit =
            self.bodies.uploads.acquire().await.map_err(|_| BodyError::Protocol("nothing: uploads are closed"))?;
        let mut writer = slice.writer(at, runs.iter().map(|run| run.len).sum()).await?;
        let fetches: Vec<_> =
            runs.iter().map(|run| (run.len, run.part.map(|part| self.bodies.frames.fetch(part, run.len)))).collect();
        for (len, fetch) in fetches {
            match fetch {
                Some(fetch) => {
                    let mut pieces = Vec::new();
                    fetch.pieces(&mut pieces).await?;
                    pieces.iter().for_each(|piece| writer.push(piece));
                }
                None => {
                    let mut left = len as usize;
                    while left > 0 {
                        let now = left.min(ZEROS.len());
                        writer.push(&ZEROS[..now]);
                        left -= now;
                    }
                }
            }
        }
        slice.put(at, writer).await.map(drop)
    }
}

/// Where the rewritten chunk has data.
fn dense_ranges(merged: &RangeMap<SlicePart>) -> RangeMap<()> {
    let mut ranges: RangeMap<()> = RangeMap::default();
    for span in merged.iter() {
        ranges.lay(span.start, span.len, ());
    }
    if ranges.count() > RANGES_MAX {
        let mut end = None;
        let spans: Vec<_> = ranges.iter().collect();
        for span in spans {
            if let Some(end) = end.filter(|end| span.start - end < HOLE_MIN) {
                ranges.lay(end, span.start - end, ());
            }
            end = Some(span.end());
        }
    }
    ranges
}

/// The bytes of the ranges, cut into objects of a block.
fn objects(merged: &RangeMap<SlicePart>, ranges: &RangeMap<()>) -> Vec<Vec<Run>> {
    let mut runs = Vec::new();
    for range in ranges.iter() {
        let mut at = range.start;
        for span in merged.within(range.start..range.end()) {
            if span.start > at {
                runs.push(Run { part: None, len: span.start - at });
            }
            runs.push(Run { part: Some(span.content), len: span.len });
            at = span.end();
        }
    }
    let mut objects = Vec::new();
    let (mut object, mut room) = (Vec::new(), BLOCK_SIZE);
    for mut run in runs {
        while run.len >= room {
            object.push(Run { part: run.part, len: room });
            objects.push(std::mem::take(&mut object));
            run = Run { part: run.part.map(|part| part.skip(room)), len: run.len - room };
            room = BLOCK_SIZE;
        }
        if run.len > 0 {
            room -= run.len;
            object.push(run);
        }
    }
    if !object.is_empty() {
        objects.push(object);
    }
    objects
}
