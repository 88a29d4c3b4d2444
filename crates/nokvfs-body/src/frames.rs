//! Frames of block objects in memory: fetched by ranged GETs, verified, cached, each fetched once at a time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nokvfs_object::{ObjectError, ObjectStore};
use nokvfs_types::{BLOCK_SIZE, SliceId, VolumeInfo};
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::codec::{FRAME, FRAME_PAYLOAD, decode_frames, framed_len};
use crate::ranges::Content;
use crate::{BodyError, BodyOptions};

/// Frames of one GET: 2 MiB, so that a block comes in two parallel ones and no caller waits for much that it did not
/// ask for.
const RUN_MAX: u32 = 16;
/// Objects up to this size are kept in the cache as they are uploaded: they are small files and tails of logs.
const KEEP_MAX: u64 = 1 << 20;

/// A place in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlicePart {
    pub slice: SliceId,
    pub offset: u64,
    /// At least as long as the object that holds the place needs to be known: all earlier blocks are whole.
    pub slice_len: u64,
}

impl Content for SlicePart {
    fn skip(&self, by: u64) -> Self {
        SlicePart { offset: self.offset + by, ..*self }
    }

    fn continued_by(&self, len: u64, next: &Self) -> bool {
        self.slice == next.slice && self.offset + len == next.offset && self.slice_len == next.slice_len
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockKey {
    slice: SliceId,
    block: u32,
}

#[derive(Clone, Debug)]
struct FrameWeight;

impl Weighter<(BlockKey, u32), Bytes> for FrameWeight {
    fn weight(&self, _key: &(BlockKey, u32), frame: &Bytes) -> u64 {
        // The key, the entry and the allocation besides the payload.
        frame.len() as u64 + 256
    }
}

type Run = Shared<BoxFuture<'static, Result<Arc<Vec<Bytes>>, BodyError>>>;

#[derive(Clone)]
struct Flight {
    frames: Range<u32>,
    run: Run,
}

/// One frame that is here or on its way.
enum Frame {
    Here(Bytes),
    Coming(Run, usize),
}

/// A part of a slice on its way.
pub(crate) struct Fetch {
    frames: Vec<(Frame, Range<usize>)>,
}

impl Fetch {
    pub fn len(&self) -> u64 {
        self.frames.iter().map(|(_, range)| range.len() as u64).sum()
    }

    /// Waits for the bytes: in as many pieces as frames.
    pub async fn pieces(self, out: &mut Vec<Bytes>) -> Result<(), BodyError> {
        for (frame, range) in self.frames {
            let frame = match frame {
                Frame::Here(frame) => frame,
                Frame::Coming(run, index) => {
                    run.await?.get(index).cloned().ok_or(BodyError::Protocol("nothing: a run is too short"))?
                }
            };
            if frame.len() < range.end {
                return Err(BodyError::Protocol("nothing: a frame is too short"));
            }
            out.push(frame.slice(range));
        }
        Ok(())
    }
}

/// All frames of a mount.
pub(crate) struct Frames {
    store: Arc<dyn ObjectStore>,
    volume: VolumeInfo,
    cache: Cache<(BlockKey, u32), Bytes, FrameWeight>,
    flights: Mutex<HashMap<BlockKey, Vec<Flight>>>,
    gets: Semaphore,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("volume", &self.volume.id).finish_non_exhaustive()
    }
}

impl Frames {
    pub fn new(store: Arc<dyn ObjectStore>, volume: VolumeInfo, options: &BodyOptions) -> Arc<Self> {
        let frames = (options.read_buffer / FRAME_PAYLOAD) as usize;
        Arc::new(Self {
            store,
            volume,
            // Small files have small frames: expect four times as many as whole ones would be.
            cache: Cache::with_weighter(frames * 4, options.read_buffer, FrameWeight),
            flights: Mutex::default(),
            gets: Semaphore::new(options.read_parallelism),
        })
    }

    /// Starts to fetch `len` bytes of a slice. The GETs go on if the answer is dropped: that is how to read ahead.
    pub fn fetch(self: &Arc<Self>, part: SlicePart, len: u64) -> Fetch {
        let mut frames = Vec::new();
        let (mut at, end) = (part.offset, part.offset + len);
        while at < end {
            let block = at / BLOCK_SIZE;
            let base = block * BLOCK_SIZE;
            let stop = end.min(base + BLOCK_SIZE);
            let payload = part.slice_len.min(base + BLOCK_SIZE).saturating_sub(base);
            let key = BlockKey { slice: part.slice, block: block as u32 };
            self.fetch_block(key, payload, at - base..stop - base, &mut frames);
            at = stop;
        }
        Fetch { frames }
    }

    fn fetch_block(
        self: &Arc<Self>,
        key: BlockKey,
        payload: u64,
        bytes: Range<u64>,
        out: &mut Vec<(Frame, Range<usize>)>,
    ) {
        let wanted = (bytes.start / FRAME_PAYLOAD) as u32..bytes.end.div_ceil(FRAME_PAYLOAD) as u32;
        let mut flights = self.flights.lock();
        let known = flights.entry(key).or_default();
        let mut index = wanted.start;
        while index < wanted.end {
            let found = match self.cache.get(&(key, index)) {
                Some(frame) => Some(Frame::Here(frame)),
                None => known
                    .iter()
                    .find(|flight| flight.frames.contains(&index))
                    .map(|flight| Frame::Coming(flight.run.clone(), (index - flight.frames.start) as usize)),
            };
            let frame = found.unwrap_or_else(|| {
                let most = wanted.end.min(index + RUN_MAX);
                let end = (index + 1..most)
                    .find(|next| {
                        known.iter().any(|flight| flight.frames.contains(next))
                            || self.cache.peek(&(key, *next)).is_some()
                    })
                    .unwrap_or(most);
                let run = self.start(key, payload, index..end);
                known.push(Flight { frames: index..end, run: run.clone() });
                Frame::Coming(run, 0)
            });
            let first = u64::from(index) * FRAME_PAYLOAD;
            let from = bytes.start.max(first) - first;
            let to = bytes.end.min(first + FRAME_PAYLOAD) - first;
            out.push((frame, from as usize..to as usize));
            index += 1;
        }
        if known.is_empty() {
            flights.remove(&key);
        }
    }

    fn start(self: &Arc<Self>, key: BlockKey, payload: u64, frames: Range<u32>) -> Run {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let result = this.get(key, payload, frames.clone()).await;
            if let Ok(run) = &result {
                for (index, frame) in (frames.start..).zip(run) {
                    this.cache.insert((key, index), frame.clone());
                }
            }
            let mut flights = this.flights.lock();
            if let Some(known) = flights.get_mut(&key) {
                known.retain(|flight| flight.frames != frames);
                if known.is_empty() {
                    flights.remove(&key);
                }
            }
            result.map(Arc::new)
        });
        async move { task.await.unwrap_or(Err(BodyError::Protocol("nothing: a fetch was stopped"))) }.boxed().shared()
    }

    /// One ranged GET, verified. Damage is read once more: it may have come on the way.
    async fn get(&self, key: BlockKey, payload: u64, frames: Range<u32>) -> Result<Vec<Bytes>, BodyError> {
        let name = key.slice.object_key(self.volume.origin(key.slice.upload), key.block);
        let start = u64::from(frames.start) * FRAME;
        let range = start..(u64::from(frames.end) * FRAME).min(framed_len(payload));
        let mut reason = String::new();
        for _ in 0..2 {
            let permit = self.gets.acquire().await.map_err(|_| BodyError::Protocol("nothing: reads are closed"))?;
            let data = match self.store.get(&name, Some(range.clone())).await {
                Ok(data) => data,
                // S3 answers so for a range beyond the end of a shorter object.
                Err(ObjectError::Invalid(why)) => return Err(BodyError::Corrupt { key: name, reason: why }),
                Err(error) => return Err(error.into()),
            };
            drop(permit);
            if data.len() as u64 != range.end - range.start {
                reason = format!("{} bytes at {start} instead of {}", data.len(), range.end - range.start);
                continue;
            }
            match decode_frames(&name, frames.start, &data) {
                Ok(decoded) => return Ok(decoded),
                Err(why) => reason = why,
            }
            tracing::warn!(key = %name, %reason, "an object is damaged");
        }
        Err(BodyError::Corrupt { key: name, reason })
    }

    /// Keeps the frames of a small object that was just uploaded: its writer is likely to read it or to write on.
    pub fn keep(&self, slice: SliceId, block: u32, object: &Bytes) {
        if object.len() as u64 > framed_len(KEEP_MAX) {
            return;
        }
        for (index, frame) in (0..).zip(object.chunks(FRAME as usize)) {
            let payload = Bytes::copy_from_slice(&frame[..frame.len() - (FRAME - FRAME_PAYLOAD) as usize]);
            self.cache.insert((BlockKey { slice, block }, index), payload);
        }
    }
}
