//! Messages to types of the filesystem and back. Everything that comes from a peer is checked here.

mod attr;
mod calls;
mod check;
mod error;
mod lock;
mod mutation;
mod volume;

pub(crate) use calls::{answer_from_wire, answer_to_wire, call_from_wire, call_to_wire};
pub(crate) use error::{error_from_wire, error_to_wire};

use nokvfs_types::{InodeId, MetaError};

type Checked<T> = Result<T, MetaError>;

fn invalid<T>(what: impl Into<String>) -> Checked<T> {
    Err(MetaError::Invalid(what.into()))
}

/// The field of a message that must be there.
fn required<T>(field: Option<T>, what: &'static str) -> Checked<T> {
    field.ok_or_else(|| MetaError::Invalid(format!("{what} is missing")))
}

/// Number 0 is no inode's.
fn inode(number: u64) -> Checked<InodeId> {
    if number == 0 { invalid("inode 0") } else { Ok(InodeId(number)) }
}

/// The low 12 bits of a mode.
fn mode(bits: u32) -> Checked<u16> {
    match u16::try_from(bits) {
        Ok(bits) if bits <= 0o7777 => Ok(bits),
        _ => invalid(format!("mode {bits:o}; only the low 12 bits may be set")),
    }
}
