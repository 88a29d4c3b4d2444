//! What can keep the trial store from opening, and a change from being made.

use std::io;
use std::path::PathBuf;

/// Why a trial store can't be opened or served.
#[derive(Debug, thiserror::Error)]
pub enum DevStoreError {
    /// An option is wrong.
    #[error("trial store option {option}: {reason}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Another process serves the directory.
    #[error("{dir} is served by process {pid} already; stop it or use another directory")]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The other process; "unknown" if it has not said so yet.
        pid: String,
    },
    /// The directory can't be used.
    #[error("trial store at {dir}: {action}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("the key is taken")]
    Exists,
    #[error("the disk is full")]
    Full,
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for ChangeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<rustix::io::Errno> for ChangeError {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}
