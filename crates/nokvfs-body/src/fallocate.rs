//! Ranges that are allocated or unmapped (fallocate(2)).

use std::ops::Range;
use std::sync::Arc;

use nokvfs_meta::service::RequestContext;
use nokvfs_types::{Attr, Fallocate, MetaError, Mutation};

use crate::BodyError;
use crate::file::OpenFile;
use crate::write::SIZE_MAX;

/// What is done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeChange {
    /// Only asks whether the quota has room for it. Nothing is reserved.
    Allocate,
    /// Makes it a hole. Writes that were made before go with it, later ones stay.
    Unmap,
}

impl OpenFile {
    /// Allocates or unmaps a range, here and in the metadata at once; with `grow` the file is at least as long as the
    /// range's end afterwards, otherwise its length stays. On an error nothing changed here.
    pub async fn fallocate(
        self: &Arc<Self>,
        ctx: &RequestContext,
        range: Range<u64>,
        change: RangeChange,
        grow: bool,
    ) -> Result<Attr, BodyError> {
        if range.end > SIZE_MAX {
            return Err(BodyError::TooLarge);
        }
        let unmap = change == RangeChange::Unmap;
        // With the turn no publish is under way that could bring back what is unmapped.
        let _turn = self.take_turn(ctx).await?;
        let (size, seen) = {
            let state = self.state.lock();
            let live_end = state.live.end();
            // The file may be as long as it is only by unpublished bytes that go with the range.
            let kept = if unmap && range.contains(&live_end.saturating_sub(1)) { live_end } else { 0 };
            (if grow { range.end.max(kept) } else { kept }, state.size())
        };
        let (inode, offset, len) = (self.inode(), range.start, range.end - range.start);
        let wanted = Fallocate { inode, offset, len, unmap, size };
        let result = loop {
            match self.change_or_restore(ctx, Mutation::Fallocate(wanted)).await {
                // A hole in the middle of an extent makes two of it.
                Err(BodyError::Meta(MetaError::TooFragmented(chunk))) => {
                    self.rewrite_published(ctx, u64::from(chunk)).await?;
                }
                result => break result,
            }
        };
        self.unmapped(result, |state| {
            if unmap {
                // What was written beyond the end meanwhile came later.
                state.unmap_unpublished(range.start..range.end.min(seen));
                state.unmap_published(range);
            }
        })
    }
}
