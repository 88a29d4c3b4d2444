//! What a metadata operation can answer instead of a result.

/// Why an operation was refused or could not be carried out. Each maps to one errno ([`MetaError::errno`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// No such entry or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// The operation is not for directories.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name or target is too long.
    #[error("name too long")]
    NameTooLong,
    /// A value is outside its range; says which and what is allowed.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The caller may not.
    #[error("operation not permitted")]
    NotPermitted,
    /// The inode has as many hard links as it can.
    #[error("too many links")]
    TooManyLinks,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute or the whole of them is too large.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// The file would be longer than can be stored.
    #[error("file too large")]
    TooLarge,
    /// The chunk has too many extents; the writer must rewrite it first.
    #[error("chunk {0} is too fragmented; rewrite it first")]
    TooFragmented(u32),
    /// The server can't hold more; says which limit to raise.
    #[error("no space: {0}")]
    NoSpace(String),
    /// The volume's quota is used up.
    #[error("quota exceeded: {0}")]
    QuotaExceeded(String),
    /// The session or the volume is read-only.
    #[error("read-only")]
    ReadOnly,
    /// The session is unknown or expired: what it held is lost, a new one must be opened.
    #[error("session {0} is unknown or has expired; mount the volume again")]
    SessionExpired(u64),
    /// The session lives on under a newer generation; this client was replaced and must stop.
    #[error("session is held by generation {0}; this client was replaced and must stop")]
    Superseded(u32),
    /// A wrong or missing token or certificate, or one for another volume.
    #[error("not authorised: {0}")]
    Unauthorized(String),
    /// The volume is busy; says with what.
    #[error("busy: {0}")]
    Busy(String),
    /// The server can't be reached or is stopping. The same request may be sent again.
    #[error("metadata server unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed before an answer came. The request may still take effect.
    #[error("deadline exceeded: {0}")]
    Deadline(String),
    /// The filesystem does not have that; says what it has instead.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// A stored record is damaged; says which.
    #[error("corrupt record: {0}")]
    Corrupt(String),
    /// An error inside the server; says what to look at.
    #[error("internal: {0}")]
    Internal(String),
    /// Someone else holds the lock.
    #[error("locked by someone else")]
    Locked,
    /// Waiting for the lock would never end: its holder waits for the one that asks.
    #[error("waiting for this lock would be a deadlock")]
    Deadlock,
    /// A limit of locks or of those that wait for one is reached; says which.
    #[error("no locks: {0}")]
    NoLocks(String),
    /// The caller stopped waiting.
    #[error("interrupted")]
    Interrupted,
}

impl MetaError {
    /// The errno that a system call answers with (Linux numbers).
    pub fn errno(&self) -> i32 {
        match self {
            MetaError::NotFound => libc::ENOENT,
            MetaError::Exists => libc::EEXIST,
            MetaError::NotDirectory => libc::ENOTDIR,
            MetaError::IsDirectory => libc::EISDIR,
            MetaError::NotEmpty => libc::ENOTEMPTY,
            MetaError::NameTooLong => libc::ENAMETOOLONG,
            MetaError::Invalid(_) => libc::EINVAL,
            MetaError::NotPermitted => libc::EPERM,
            MetaError::TooManyLinks => libc::EMLINK,
            MetaError::NoAttribute => libc::ENODATA,
            MetaError::AttributeTooLarge => libc::E2BIG,
            MetaError::TooLarge => libc::EFBIG,
            MetaError::NoSpace(_) => libc::ENOSPC,
            MetaError::QuotaExceeded(_) => libc::EDQUOT,
            MetaError::ReadOnly => libc::EROFS,
            MetaError::Unauthorized(_) => libc::EACCES,
            MetaError::Busy(_) => libc::EBUSY,
            MetaError::NotSupported(_) => libc::EOPNOTSUPP,
            MetaError::Locked => libc::EAGAIN,
            MetaError::Deadlock => libc::EDEADLK,
            MetaError::NoLocks(_) => libc::ENOLCK,
            MetaError::Interrupted => libc::EINTR,
            MetaError::TooFragmented(_)
            | MetaError::SessionExpired(_)
            | MetaError::Superseded(_)
            | MetaError::Unavailable(_)
            | MetaError::Deadline(_)
            | MetaError::Corrupt(_)
            | MetaError::Internal(_) => libc::EIO,
        }
    }

    /// Whether the same request may be sent again, to the same server or to one that took its place.
    pub fn is_retryable(&self) -> bool {
        matches!(self, MetaError::Unavailable(_))
    }
}
