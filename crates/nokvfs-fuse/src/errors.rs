//! Errors of mounting, and why a request is refused.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nokvfs_body::BodyError;
use nokvfs_types::MetaError;

/// Why mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// An option has a value that can't work; says which.
    #[error("mount options: {0}")]
    Options(String),
    /// The FUSE device can't be opened.
    #[error("can't open /dev/fuse: {0}; load the fuse module (modprobe fuse) and give the container the device")]
    Device(#[source] io::Error),
    /// The mount was refused.
    #[error("can't mount at {dir}: {source}")]
    Mount {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's first message did not come or was refused.
    #[error("FUSE handshake failed: {0}; is the descriptor a freshly mounted /dev/fuse?")]
    Handshake(#[source] io::Error),
    /// Unpublished writes are left. The mount stays; unmount again once the store or the server is back.
    #[error("not unmounted, unpublished writes are left: {0}")]
    Unpublished(#[source] BodyError),
    /// The mount point is busy and could not be detached.
    #[error("can't unmount {dir}: {source}")]
    Unmount {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Processes still have files open after the mount was detached. All that was written so far is published.
    #[error("detached, but files are still open after {0:?}; end the processes that hold them")]
    StillOpen(Duration),
    /// The session ended with an error.
    #[error("FUSE session ended: {0}")]
    Session(String),
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    Meta(MetaError),
    Body(BodyError),
    /// An answer that needs no explanation.
    Errno(i32),
    /// The deadline passed although every part below should have answered before.
    Overdue,
    /// The operation panicked: a bug.
    Panicked,
}

impl Refusal {
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Refusal::Meta(error) => error.errno(),
            Refusal::Body(error) => error.errno(),
            Refusal::Errno(errno) => *errno,
            Refusal::Overdue | Refusal::Panicked => libc::EIO,
        }
    }

    /// Worth a line in the log: not part of what filesystems answer every day.
    pub(crate) fn is_trouble(&self) -> bool {
        !matches!(self, Refusal::Errno(_)) && matches!(self.errno(), libc::EIO | libc::EACCES)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Meta(error) => error.fmt(f),
            Refusal::Body(error) => error.fmt(f),
            Refusal::Errno(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
            Refusal::Overdue => f.write_str("no answer within the deadline"),
            Refusal::Panicked => f.write_str("the operation panicked; report this with the log around it"),
        }
    }
}

impl From<MetaError> for Refusal {
    fn from(error: MetaError) -> Self {
        Refusal::Meta(error)
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Refusal::Body(error)
    }
}

pub(crate) type OpResult<T> = Result<T, Refusal>;
