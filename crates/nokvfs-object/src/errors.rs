//! What an object store can answer instead of a result.

/// Why a call failed. The text says what to do where something can be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such object.
    #[error("no such object: {0}")]
    NotFound(String),
    /// The store refuses the credentials or the operation.
    #[error("object store refuses: {0}")]
    Denied(String),
    /// The request can't be right: a bad option, bucket, endpoint or range.
    #[error("bad request to the object store: {0}")]
    Invalid(String),
    /// The store can't be reached or fails for now; retries were used up.
    #[error("object store unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed.
    #[error("object store deadline exceeded: {0}")]
    Deadline(String),
}

impl ObjectError {
    /// Whether a later try of the same call may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, ObjectError::Unavailable(_) | ObjectError::Deadline(_))
    }
}
