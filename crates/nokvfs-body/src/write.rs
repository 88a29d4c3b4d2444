//! Writing into the stage, and sealing what is there into objects.

use std::sync::Arc;

use bytes::Bytes;
use nokvfs_failpoint::failpoint;
use nokvfs_meta::service::RequestContext;
use nokvfs_types::{BLOCK_SIZE, CHUNK_SIZE, Timestamp};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::file::{Active, OpenFile, Source, State};
use crate::job::{Job, OpenSlice, Piece, Upload};
use crate::ranges::{At, RangeMap};
use crate::stage::pages_of_new;
use crate::{BodyError, FRAME_PAYLOAD};

/// Chunk numbers are 32 bits wide: 2^58 bytes.
pub(crate) const SIZE_MAX: u64 = CHUNK_SIZE << 32;
/// Blocks in a chunk.
const CHUNK_BLOCKS: u64 = CHUNK_SIZE / BLOCK_SIZE;

/// An upload to start once the file's lock is released.
pub(crate) type Sealed = (Upload, Arc<Notify>);

impl OpenFile {
    /// Writes into the stage; waits while that is full. On an error before the deadline the range holds old bytes, new
    /// ones or both, as after a failed write(2).
    pub async fn write(self: &Arc<Self>, ctx: &RequestContext, offset: u64, data: Bytes) -> Result<(), BodyError> {
        let mut at = offset;
        for piece in pieces(data) {
            self.put(ctx, Some(at), &piece).await?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Writes at the end (`O_APPEND`), in one piece among this mount's appends; answers where.
    pub async fn append(self: &Arc<Self>, ctx: &RequestContext, data: Bytes) -> Result<u64, BodyError> {
        let turn = tokio::time::timeout_at(ctx.deadline.into(), self.append_turn.acquire());
        let Ok(Ok(_turn)) = turn.await else {
            return Err(BodyError::Deadline("waiting for another append"));
        };
        if data.is_empty() {
            return Ok(self.state.lock().size());
        }
        let (mut first, mut next) = (None, None);
        for piece in pieces(data) {
            let at = self.put(ctx, next, &piece).await?;
            first.get_or_insert(at);
            next = Some(at + piece.len() as u64);
        }
        first.ok_or(BodyError::Protocol("nothing: an append has no piece"))
    }

    /// Writes at most a block, at the end if no place is given.
    async fn put(self: &Arc<Self>, ctx: &RequestContext, at: Option<u64>, data: &Bytes) -> Result<u64, BodyError> {
        let len = data.len() as u64;
        let stage = &self.bodies.stage;
        let mut permit: Option<OwnedSemaphorePermit> = None;
        loop {
            let need = {
                let mut state = self.state.lock();
                let offset = at.unwrap_or_else(|| state.size());
                if offset.checked_add(len).is_none_or(|end| end > SIZE_MAX) {
                    return Err(BodyError::TooLarge);
                }
                let need = state.pages_needed(offset, len);
                if let Some(permit) = permit.as_mut().filter(|permit| permit.num_permits() >= need as usize) {
                    let sealed = self.place(&mut state, offset, data, permit);
                    self.bodies.mark(self, state.is_dirty());
                    drop(state);
                    self.start_all(sealed?);
                    return Ok(offset);
                }
                need
            };
            // What was reserved is too little by now. It goes back first: a writer that holds some while it waits for
            // more could wait for others that do the same.
            drop(permit.take());
            permit = Some(match stage.try_reserve(need) {
                Some(permit) => permit,
                None => {
                    self.bodies.make_room();
                    stage.reserve(need, ctx.deadline).await?
                }
            });
        }
    }

    fn place(
        self: &Arc<Self>,
        state: &mut State,
        offset: u64,
        data: &Bytes,
        permit: &mut OwnedSemaphorePermit,
    ) -> Result<Vec<Sealed>, BodyError> {
        let mut sealed = Vec::new();
        for (block, at, part) in blocks(offset, data.len() as u64) {
            let bytes = &data[(block * BLOCK_SIZE + at - offset) as usize..][..part as usize];
            let active = state
                .active
                .entry(block)
                .or_insert_with(|| Active { block: Arc::new(self.bodies.stage.block()), written: RangeMap::default() });
            active.block.write(at, bytes, permit)?;
            active.written.lay(at, part, ());
            let (staged, full) = (active.block.clone(), active.written.covers(0..BLOCK_SIZE));
            state.live.lay(block * BLOCK_SIZE + at, part, Source::Staged { block: staged.clone(), at });
            if full {
                state.active.remove(&block);
                let piece = Piece {
                    offset: block * BLOCK_SIZE,
                    len: BLOCK_SIZE,
                    source: Source::Staged { block: staged, at: 0 },
                };
                sealed.push(self.seal(state, vec![piece]));
            }
        }
        state.written = Timestamp::now();
        Ok(sealed)
    }

    /// Makes an object of at most a block of pieces of one chunk.
    fn seal(self: &Arc<Self>, state: &mut State, pieces: Vec<Piece>) -> Sealed {
        let chunk = (pieces[0].offset / CHUNK_SIZE) as u32;
        let len = pieces.iter().map(|piece| piece.len).sum();
        let slice = match state.slices.get(&chunk) {
            Some(slice) if slice.is_open() => slice.clone(),
            _ => {
                let slice = OpenSlice::new(&self.bodies, self.inode(), chunk);
                state.slices.insert(chunk, slice.clone());
                slice
            }
        };
        let at = slice.extend(len);
        let mut content = RangeMap::default();
        let mut next = at;
        for piece in &pieces {
            content.lay(piece.offset, piece.len, At(next));
            next += piece.len;
        }
        let retry = Arc::new(Notify::new());
        let job = state.next_job;
        state.next_job += 1;
        let entry =
            Job { slice: slice.clone(), content, uploaded: false, failures: 0, error: None, retry: retry.clone() };
        state.jobs.insert(job, entry);
        failpoint!("body.sealed");
        (Upload { job, slice, at, pieces }, retry)
    }

    /// Makes objects of all that is active, and closes the slices: what comes later is another snapshot.
    pub(crate) fn seal_all(self: &Arc<Self>, state: &mut State) -> Vec<Sealed> {
        let mut sealed = Vec::new();
        let mut all = std::mem::take(&mut state.active).into_iter().peekable();
        while let Some(&(block, _)) = all.peek() {
            let chunk = block / CHUNK_BLOCKS;
            let mut pieces = Vec::new();
            while let Some((block, active)) = all.next_if(|(block, _)| block / CHUNK_BLOCKS == chunk) {
                pieces.extend(active.written.iter().map(|span| Piece {
                    offset: block * BLOCK_SIZE + span.start,
                    len: span.len,
                    source: Source::Staged { block: active.block.clone(), at: span.start },
                }));
            }
            state.merge_tail(&mut pieces);
            for object in objects(pieces) {
                sealed.push(self.seal(state, object));
            }
        }
        state.slices.clear();
        sealed
    }

    /// Sends what is active to the store, to make room.
    pub(crate) fn send_staged(self: &Arc<Self>) {
        let sealed = self.seal_all(&mut self.state.lock());
        self.start_all(sealed);
    }

    pub(crate) fn start_all(self: &Arc<Self>, sealed: Vec<Sealed>) {
        for (upload, retry) in sealed {
            self.start_upload(upload, retry);
        }
    }
}

impl State {
    /// How many pages of the stage a write takes.
    fn pages_needed(&self, offset: u64, len: u64) -> u32 {
        blocks(offset, len)
            .map(|(block, at, part)| match self.active.get(&block) {
                Some(active) => active.block.missing(at, part),
                None => pages_of_new(at, part),
            })
            .sum()
    }

    /// Puts the extents before the first piece into the same object, as long as each is at most twice as long as what
    /// follows it: appending n times with a sync each leaves about log n extents and writes each byte about log n
    /// times. Only what this mount published is taken, and only inside one block.
    fn merge_tail(&self, pieces: &mut Vec<Piece>) {
        let Some(first) = pieces.first() else { return };
        let block = first.offset - first.offset % BLOCK_SIZE;
        let (mut start, mut len) = (first.offset, first.len);
        let mut merged = Vec::new();
        while start > block
            && let Some(span) = self.base.before(start)
            && span.end() == start
            && span.start >= block
            && span.len <= (2 * len).max(FRAME_PAYLOAD)
            && len + span.len <= BLOCK_SIZE
            && self.own.covers(span.start..start)
            && self.live.within(span.start..start).next().is_none()
        {
            start = span.start;
            len += span.len;
            merged.push(Piece { offset: span.start, len: span.len, source: Source::Stored(span.content) });
        }
        merged.reverse();
        pieces.splice(0..0, merged);
    }
}

/// Data in pieces of at most a block.
fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = data.len().min(BLOCK_SIZE as usize);
        (len > 0).then(|| data.split_to(len))
    })
}

/// The blocks that a range touches, each with the position in it and the length there.
fn blocks(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + len;
    let mut next = offset;
    std::iter::from_fn(move || {
        (next < end).then(|| {
            let (block, at) = (next / BLOCK_SIZE, next % BLOCK_SIZE);
            let part = (BLOCK_SIZE - at).min(end - next);
            next += part;
            (block, at, part)
        })
    })
}

/// Cuts pieces into objects: whole blocks but the last one.
fn objects(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    use crate::ranges::Content;
    let mut objects = Vec::new();
    let (mut object, mut room) = (Vec::new(), BLOCK_SIZE);
    for mut piece in pieces {
        while piece.len > room {
            object.push(Piece { len: room, ..piece.clone() });
            piece = Piece { offset: piece.offset + room, len: piece.len - room, source: piece.source.skip(room) };
            objects.push(std::mem::take(&mut object));
            room = BLOCK_SIZE;
        }
        room -= piece.len;
        object.push(piece);
    }
    if !object.is_empty() {
        objects.push(object);
    }
    objects
}
