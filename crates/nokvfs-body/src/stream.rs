//! Read-ahead.

/// Where one handle reads: tells sequential readers from random ones and how far to read ahead.
#[derive(Debug, Default)]
pub struct ReadStream {}

impl ReadStream {
    /// A handle that has not read yet.
    pub fn new() -> Self {
        Self::default()
    }
}
