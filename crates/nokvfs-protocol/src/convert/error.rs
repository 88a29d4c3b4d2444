//! Errors.

use nokvfs_types::MetaError;

use super::{Checked, invalid};
use crate::wire::{self, ErrorKind};

pub(crate) fn error_to_wire(error: &MetaError) -> wire::Error {
    let (kind, text, number) = match error {
        MetaError::NotFound => (ErrorKind::NotFound, "", 0),
        MetaError::Exists => (ErrorKind::Exists, "", 0),
        MetaError::NotDirectory => (ErrorKind::NotDirectory, "", 0),
        MetaError::IsDirectory => (ErrorKind::IsDirectory, "", 0),
        MetaError::NotEmpty => (ErrorKind::NotEmpty, "", 0),
        MetaError::NameTooLong => (ErrorKind::NameTooLong, "", 0),
        MetaError::Invalid(text) => (ErrorKind::Invalid, text.as_str(), 0),
        MetaError::NotPermitted => (ErrorKind::NotPermitted, "", 0),
        MetaError::TooManyLinks => (ErrorKind::TooManyLinks, "", 0),
        MetaError::NoAttribute => (ErrorKind::NoAttribute, "", 0),
        MetaError::AttributeTooLarge => (ErrorKind::AttributeTooLarge, "", 0),
        MetaError::TooLarge => (ErrorKind::TooLarge, "", 0),
        MetaError::TooFragmented(chunk) => (ErrorKind::TooFragmented, "", u64::from(*chunk)),
        MetaError::NoSpace(text) => (ErrorKind::NoSpace, text.as_str(), 0),
        MetaError::QuotaExceeded(text) => (ErrorKind::QuotaExceeded, text.as_str(), 0),
        MetaError::ReadOnly => (ErrorKind::ReadOnly, "", 0),
        MetaError::SessionExpired(session) => (ErrorKind::SessionExpired, "", *session),
        MetaError::Superseded(generation) => (ErrorKind::Superseded, "", u64::from(*generation)),
        MetaError::Unauthorized(text) => (ErrorKind::Unauthorized, text.as_str(), 0),
        MetaError::Busy(text) => (ErrorKind::Busy, text.as_str(), 0),
        MetaError::Unavailable(text) => (ErrorKind::Unavailable, text.as_str(), 0),
        MetaError::Deadline(text) => (ErrorKind::Deadline, text.as_str(), 0),
        MetaError::Corrupt(text) => (ErrorKind::Corrupt, text.as_str(), 0),
        MetaError::Internal(text) => (ErrorKind::Internal, text.as_str(), 0),
        MetaError::NotSupported(text) => (ErrorKind::NotSupported, text.as_str(), 0),
        MetaError::Locked => (ErrorKind::Locked, "", 0),
        MetaError::Deadlock => (ErrorKind::Deadlock, "", 0),
        MetaError::NoLocks(text) => (ErrorKind::NoLocks, text.as_str(), 0),
        MetaError::Interrupted => (ErrorKind::Interrupted, "", 0),
    };
    wire::Error { kind: kind.into(), text: text.to_owned(), number }
}

pub(crate) fn error_from_wire(error: wire::Error) -> Checked<MetaError> {
    let wire::Error { kind, text, number } = error;
    let short = || u32::try_from(number).map_err(|_| MetaError::Invalid(format!("number {number} of an error")));
    Ok(match ErrorKind::try_from(kind) {
        Ok(ErrorKind::NotFound) => MetaError::NotFound,
        Ok(ErrorKind::Exists) => MetaError::Exists,
        Ok(ErrorKind::NotDirectory) => MetaError::NotDirectory,
        Ok(ErrorKind::IsDirectory) => MetaError::IsDirectory,
        Ok(ErrorKind::NotEmpty) => MetaError::NotEmpty,
        Ok(ErrorKind::NameTooLong) => MetaError::NameTooLong,
        Ok(ErrorKind::Invalid) => MetaError::Invalid(text),
        Ok(ErrorKind::NotPermitted) => MetaError::NotPermitted,
        Ok(ErrorKind::TooManyLinks) => MetaError::TooManyLinks,
        Ok(ErrorKind::NoAttribute) => MetaError::NoAttribute,
        Ok(ErrorKind::AttributeTooLarge) => MetaError::AttributeTooLarge,
        Ok(ErrorKind::TooLarge) => MetaError::TooLarge,
        Ok(ErrorKind::TooFragmented) => MetaError::TooFragmented(short()?),
        Ok(ErrorKind::NoSpace) => MetaError::NoSpace(text),
        Ok(ErrorKind::QuotaExceeded) => MetaError::QuotaExceeded(text),
        Ok(ErrorKind::ReadOnly) => MetaError::ReadOnly,
        Ok(ErrorKind::SessionExpired) => MetaError::SessionExpired(number),
        Ok(ErrorKind::Superseded) => MetaError::Superseded(short()?),
        Ok(ErrorKind::Unauthorized) => MetaError::Unauthorized(text),
        Ok(ErrorKind::Busy) => MetaError::Busy(text),
        Ok(ErrorKind::Unavailable) => MetaError::Unavailable(text),
        Ok(ErrorKind::Deadline) => MetaError::Deadline(text),
        Ok(ErrorKind::Corrupt) => MetaError::Corrupt(text),
        Ok(ErrorKind::Internal) => MetaError::Internal(text),
        Ok(ErrorKind::NotSupported) => MetaError::NotSupported(text),
        Ok(ErrorKind::Locked) => MetaError::Locked,
        Ok(ErrorKind::Deadlock) => MetaError::Deadlock,
        Ok(ErrorKind::NoLocks) => MetaError::NoLocks(text),
        Ok(ErrorKind::Interrupted) => MetaError::Interrupted,
        Ok(ErrorKind::Unspecified) | Err(_) => return invalid(format!("error kind {kind}")),
    })
}
