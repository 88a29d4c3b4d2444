//! Read-ahead: who reads in order is read ahead ever farther, who jumps is not.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The first window.
const WINDOW_MIN: u64 = 512 << 10;
/// The kernel reads ahead itself, in parallel: requests of a sequential reader arrive this far out of order.
const SLACK: u64 = 2 << 20;

/// Where one handle reads: tells sequential readers from random ones and how far to read ahead.
#[derive(Debug, Default)]
pub struct ReadStream {
    position: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    /// Where a sequential reader goes on.
    next: u64,
    window: u64,
    /// Read ahead up to here.
    ahead: u64,
    counted: Option<Counted>,
}

/// One of the sequential readers that share the mount's read buffer.
#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far a mount reads ahead.
#[derive(Debug)]
pub(crate) struct AheadLimit {
    pub max: u64,
    /// Bytes that all sequential readers together may be ahead.
    pub budget: u64,
    readers: Arc<AtomicU64>,
}

impl AheadLimit {
    pub fn new(max: u64, read_buffer: u64) -> Self {
        Self { max, budget: read_buffer / 2, readers: Arc::default() }
    }
}

impl ReadStream {
    /// A handle that has not read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a read and answers what to fetch beyond it.
    pub(crate) fn advance(&self, offset: u64, len: u64, size: u64, limit: &AheadLimit) -> Option<Range<u64>> {
        let mut position = self.position.lock();
        let end = offset + len;
        if offset.abs_diff(position.next) > SLACK {
            *position = Position { next: end, ahead: end, ..Position::default() };
            return None;
        }
        position.next = position.next.max(end);
        if position.counted.is_none() {
            limit.readers.fetch_add(1, Ordering::Relaxed);
            position.counted = Some(Counted(limit.readers.clone()));
        }
        let share = limit.budget / limit.readers.load(Ordering::Relaxed).max(1);
        let most = limit.max.min(share);
        if position.ahead >= position.next + position.window / 2 && position.window > 0 {
            return None;
        }
        position.window = (position.window * 2).max(WINDOW_MIN).min(most);
        let from = position.ahead.max(position.next);
        let to = (position.next + position.window).min(size);
        if from >= to {
            return None;
        }
        position.ahead = to;
        Some(from..to)
    }
}
