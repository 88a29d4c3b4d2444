//! The ranges of one file that one owner has locked.

use nokvfs_types::{LockRange, LockType};

/// A locked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockPiece {
    /// Which bytes.
    pub range: LockRange,
    /// `Shared` or `Exclusive`.
    pub lock_type: LockType,
    /// The process that locked it.
    pub pid: u32,
}

/// Ranges in order. They don't overlap, and neighbours of the same type and process are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockRanges(Vec<LockPiece>);

impl LockRanges {
    /// As it is once `piece` is set (or, with [`LockType::Unlock`], its range is given back): what was there in its
    /// range is replaced.
    #[must_use]
    pub fn with(&self, piece: LockPiece) -> LockRanges {
        let mut pieces = Vec::with_capacity(self.0.len() + 2);
        for old in &self.0 {
            if old.range.start < piece.range.start {
                let end = old.range.end.min(piece.range.start - 1);
                push(&mut pieces, LockPiece { range: LockRange { start: old.range.start, end }, ..*old });
            }
        }
        if piece.lock_type != LockType::Unlock {
            push(&mut pieces, piece);
        }
        for old in &self.0 {
            if old.range.end > piece.range.end {
                let start = old.range.start.max(piece.range.end + 1);
                push(&mut pieces, LockPiece { range: LockRange { start, end: old.range.end }, ..*old });
            }
        }
        LockRanges(pieces)
    }

    /// The first range that keeps others from a lock.
    pub fn conflict(&self, range: &LockRange, lock_type: LockType) -> Option<&LockPiece> {
        let exclusive = |piece: &LockPiece| LockType::Exclusive == piece.lock_type || lock_type == LockType::Exclusive;
        let from = self.0.partition_point(|piece| piece.range.end < range.start);
        self.0[from..].iter().take_while(|piece| piece.range.start <= range.end).find(|piece| exclusive(piece))
    }

    /// The ranges.
    pub fn pieces(&self) -> &[LockPiece] {
        &self.0
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends, joined to the last one where that is the same lock.
fn push(pieces: &mut Vec<LockPiece>, piece: LockPiece) {
    match pieces.last_mut() {
        Some(last)
            if last.range.end + 1 == piece.range.start
                && (last.lock_type, last.pid) == (piece.lock_type, piece.pid) =>
        {
            last.range.end = piece.range.end;
        }
        _ => pieces.push(piece),
    }
}
