//! Reading: unpublished bytes over published ones over zeros.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nokvfs_meta::service::RequestContext;
use nokvfs_object::ObjectError;

use crate::file::{OpenFile, Source, State};
use crate::frames::Fetch;
use crate::ranges::Span;
use crate::stage::StageBlock;
use crate::{BodyError, ReadStream};

/// Files up to this size are fetched whole when they are first read.
const WHOLE_MAX: u64 = 1 << 20;

/// Bytes on their way.
enum Part {
    Zeros(u64),
    Staged(Arc<StageBlock>, u64, u64),
    Fetched(Fetch),
}

impl OpenFile {
    /// Reads; fewer bytes than asked for only at the end of the file. Sees unpublished writes of this mount.
    pub async fn read(
        self: &Arc<Self>,
        ctx: &RequestContext,
        stream: &ReadStream,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, BodyError> {
        let read = async {
            match self.read_once(ctx, stream, offset, len).await {
                // The object went with what it was part of: another mount replaced it since the view was read.
                Err(BodyError::Object(ObjectError::NotFound(_))) => {
                    self.state.lock().forget_base();
                    self.refresh(ctx, 0).await?;
                    self.read_once(ctx, stream, offset, len).await
                }
                result => result,
            }
        };
        match tokio::time::timeout_at(ctx.deadline.into(), read).await {
            Ok(result) => result,
            Err(_) => Err(BodyError::Deadline("reading")),
        }
    }

    async fn read_once(
        self: &Arc<Self>,
        ctx: &RequestContext,
        stream: &ReadStream,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, BodyError> {
        let (parts, size) = loop {
            let (end, size) = {
                let state = self.state.lock();
                (offset.saturating_add(u64::from(len)).min(state.size()), state.size())
            };
            if offset >= end {
                return Ok(Bytes::new());
            }
            self.know(ctx, offset, end).await?;
            let state = self.state.lock();
            // A truncation or a forgotten base since then: look again.
            if state.size() >= end && state.knows(offset..end) {
                if size <= WHOLE_MAX && state.knows(0..size) {
                    drop(self.start(&state, 0..size));
                }
                break (self.start(&state, offset..end), size);
            }
        };
        let read = parts.iter().map(Part::len).sum();
        if size > WHOLE_MAX {
            self.read_ahead(ctx, stream, offset, read, size);
        }
        collect(parts, read).await
    }

    /// Starts to get the bytes of a range.
    fn start(&self, state: &State, range: Range<u64>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = range.start;
        for span in state.live.within(range.clone()) {
            self.start_published(state, at..span.start, &mut parts);
            at = span.end();
            parts.push(match span {
                Span { len, content: Source::Staged { block, at }, .. } => Part::Staged(block, at, len),
                Span { len, content: Source::Stored(part), .. } => Part::Fetched(self.bodies.frames.fetch(part, len)),
            });
        }
        self.start_published(state, at..range.end, &mut parts);
        parts
    }

    fn start_published(&self, state: &State, range: Range<u64>, parts: &mut Vec<Part>) {
        let mut at = range.start;
        for span in state.base.within(range.clone()) {
            if span.start > at {
                parts.push(Part::Zeros(span.start - at));
            }
            at = span.end();
            parts.push(Part::Fetched(self.bodies.frames.fetch(span.content, span.len)));
        }
        if at < range.end {
            parts.push(Part::Zeros(range.end - at));
        }
    }

    fn read_ahead(self: &Arc<Self>, ctx: &RequestContext, stream: &ReadStream, offset: u64, len: u64, size: u64) {
        let Some(range) = stream.advance(offset, len, size, &self.bodies.ahead) else {
            return;
        };
        let (file, ctx) = (self.clone(), ctx.clone());
        self.bodies.runtime.spawn(async move {
            if let Err(error) = file.know(&ctx, range.start, range.end).await {
                tracing::debug!(inode = %file.inode(), %error, "read-ahead stopped; the reader will see the error");
                return;
            }
            let state = file.state.lock();
            if state.knows(range.clone()) {
                drop(file.start(&state, range));
            }
        });
    }

    /// The first byte with data at or after `offset`; `None` if there is none (`ENXIO`).
    pub async fn seek_data(self: &Arc<Self>, ctx: &RequestContext, offset: u64) -> Result<Option<u64>, BodyError> {
        self.seek(ctx, offset, |state, window| {
            let live = state.live.within(window.clone()).next().map(|span| span.start);
            let base = state.base.within(window).next().map(|span| span.start);
            live.into_iter().chain(base).min()
        })
        .await
    }

    /// The first hole at or after `offset`, the end of the file counts as one; `None` beyond the end (`ENXIO`).
    pub async fn seek_hole(self: &Arc<Self>, ctx: &RequestContext, offset: u64) -> Result<Option<u64>, BodyError> {
        let size = self.state.lock().size();
        if offset >= size {
            return Ok(None);
        }
        let hole = self.seek(ctx, offset, |state, window| {
            let mut at = window.start;
            while at < window.end {
                let live = state.live.within(at..window.end).next().filter(|span| span.start == at);
                let base = || state.base.within(at..window.end).next().filter(|span| span.start == at);
                match live.map(|span| span.end()).or_else(|| base().map(|span| span.end())) {
                    Some(end) => at = end,
                    None => return Some(at),
                }
            }
            None
        });
        Ok(Some(hole.await?.unwrap_or(size)))
    }

    /// Walks the file from `offset` in windows whose extents are known.
    async fn seek(
        &self,
        ctx: &RequestContext,
        offset: u64,
        find: impl Fn(&State, Range<u64>) -> Option<u64>,
    ) -> Result<Option<u64>, BodyError> {
        let mut at = offset;
        loop {
            self.know(ctx, at, at.saturating_add(1)).await?;
            let state = self.state.lock();
            let size = state.size();
            if at >= size {
                return Ok(None);
            }
            let end = if at >= state.attr.size {
                size
            } else {
                state.known.within(at..size).next().filter(|span| span.start == at).map_or(at, |span| span.end())
            };
            if let Some(found) = find(&state, at..end) {
                return Ok(Some(found));
            }
            at = end;
        }
    }
}

impl State {
    fn knows(&self, range: Range<u64>) -> bool {
        let end = range.end.min(self.attr.size);
        range.start >= end || self.known.covers(range.start..end)
    }
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Part::Zeros(len) | Part::Staged(_, _, len) => *len,
            Part::Fetched(fetch) => fetch.len(),
        }
    }
}

/// Waits for all parts, in one piece without a copy where it is one frame.
async fn collect(parts: Vec<Part>, len: u64) -> Result<Bytes, BodyError> {
    let mut pieces = Vec::new();
    for part in parts {
        match part {
            Part::Zeros(len) => pieces.push(Bytes::from(vec![0; len as usize])),
            Part::Staged(block, at, len) => {
                let mut buffer = vec![0; len as usize];
                block.read(at, &mut buffer)?;
                pieces.push(buffer.into());
            }
            Part::Fetched(fetch) => fetch.pieces(&mut pieces).await?,
        }
    }
    if pieces.len() == 1 {
        return Ok(pieces.remove(0));
    }
    let mut all = BytesMut::with_capacity(len as usize);
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    Ok(all.freeze())
}
