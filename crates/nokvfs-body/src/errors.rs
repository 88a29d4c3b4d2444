//! What an operation on a body can answer instead of a result.

use nokvfs_object::ObjectError;
use nokvfs_types::{InodeId, MetaError};

/// Why an operation on a body failed. Each maps to one errno ([`BodyError::errno`]).
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// The metadata refused or could not be reached.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The object store refused or could not be reached. Unpublished writes are kept; sync again.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object does not hold what was written; names it. Restore it from a copy of the bucket.
    #[error("object {key} is damaged: {reason}")]
    Corrupt {
        /// The object's key.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// The deadline passed; says while doing what. Unpublished writes are kept; try again.
    #[error("deadline exceeded while {0}")]
    Deadline(&'static str),
    /// The file would be longer than can be stored.
    #[error("file too large")]
    TooLarge,
    /// The stage's file can't be made, written or read; says why.
    #[error("stage: {0}")]
    Stage(String),
    /// The stage's folder is full. Writes go on once uploads made room there, or somebody did.
    #[error("stage: no space left in its folder; enlarge it or lower the write buffer")]
    StageFull,
    /// Unpublished writes of these files could not be published.
    #[error("unpublished writes are left in {} files, the first is inode {}: {}", .0.len(), .0[0].0, .0[0].1)]
    Unpublished(Vec<(InodeId, Box<BodyError>)>),
    /// An option has a value that can't work; says which.
    #[error("options: {0}")]
    Options(String),
    /// The metadata answered something that its contract excludes.
    #[error("unexpected answer of the metadata to {0}")]
    Protocol(&'static str),
}

impl BodyError {
    /// The errno that a system call answers with (Linux numbers).
    pub fn errno(&self) -> i32 {
        match self {
            BodyError::Meta(error) => error.errno(),
            BodyError::TooLarge => libc::EFBIG,
            BodyError::StageFull => libc::ENOSPC,
            BodyError::Options(_) => libc::EINVAL,
            BodyError::Object(_)
            | BodyError::Corrupt { .. }
            | BodyError::Deadline(_)
            | BodyError::Stage(_)
            | BodyError::Unpublished(_)
            | BodyError::Protocol(_) => libc::EIO,
        }
    }
    /// Whether trying again can't help: the file or the right to write it is gone.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            BodyError::Meta(error) => matches!(
                error,
                MetaError::NotFound
                    | MetaError::ReadOnly
                    | MetaError::SessionExpired(_)
                    | MetaError::Superseded(_)
                    | MetaError::Unauthorized(_)
                    | MetaError::NoSpace(_)
                    | MetaError::QuotaExceeded(_)
                    | MetaError::TooLarge
                    | MetaError::Invalid(_)
            ),
            _ => false,
        }
    }

    /// Whether a mutation that answered this may have taken effect.
    pub(crate) fn is_uncertain(&self) -> bool {
        matches!(
            self,
            BodyError::Meta(
                MetaError::Unavailable(_)
                    | MetaError::Deadline(_)
                    | MetaError::Internal(_)
                    | MetaError::SessionExpired(_)
                    | MetaError::Superseded(_)
            ) | BodyError::Protocol(_)
                | BodyError::Deadline(_)
        )
    }
}
