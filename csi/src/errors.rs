//! Errors of what the driver calls, as the gRPC codes that the specification gives them.

use nokvfs_protocol::mounter::{Failure, WireError};
use nokvfs_types::MetaError;
use tonic::{Code, Status};

/// The code for an answer of a metadata server, with what was being done.
pub fn from_meta(action: &str, error: &MetaError) -> Status {
    let code = match error {
        MetaError::NotFound => Code::NotFound,
        MetaError::Exists => Code::AlreadyExists,
        MetaError::Invalid(_) | MetaError::NameTooLong => Code::InvalidArgument,
        MetaError::NoSpace(_) | MetaError::QuotaExceeded(_) => Code::ResourceExhausted,
        MetaError::Unauthorized(_) | MetaError::NotPermitted => Code::PermissionDenied,
        MetaError::Busy(_) => Code::FailedPrecondition,
        MetaError::Unavailable(_) => Code::Unavailable,
        MetaError::Deadline(_) => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    Status::new(code, format!("{action}: {error}"))
}

/// The code for a mounter that can't be talked to.
pub fn from_wire(action: &str, error: &WireError) -> Status {
    let code = match error {
        WireError::Deadline(_) => Code::DeadlineExceeded,
        WireError::NoListener { .. } | WireError::Closed => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, format!("{action}: {error}"))
}

/// The code for a request that the mounter did not carry out.
pub fn from_mounter(action: &str, kind: Failure, reason: &str) -> Status {
    let code = match kind {
        Failure::Invalid => Code::InvalidArgument,
        Failure::Unauthorized => Code::PermissionDenied,
        Failure::NotFound => Code::NotFound,
        Failure::Busy => Code::Aborted,
        Failure::Unavailable => Code::Unavailable,
        Failure::Exhausted => Code::ResourceExhausted,
        Failure::Internal => Code::Internal,
    };
    Status::new(code, format!("{action}: {reason}"))
}
