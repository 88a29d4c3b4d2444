//! Names of directory entries: bytes, as in POSIX, not text.

use std::fmt;

use bytes::Bytes;

use crate::MetaError;

/// Longest name of a directory entry, in bytes (Linux `NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Longest target of a symbolic link, in bytes (Linux `PATH_MAX` without its NUL).
pub const MAX_SYMLINK: usize = 4095;
/// Longest name of an extended attribute, in bytes (Linux `XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME: usize = 255;
/// Longest value of an extended attribute, in bytes. Below Linux's 64 KiB: a record of the store holds less than that.
pub const MAX_XATTR_VALUE: usize = 32 * 1024;
/// All names and values of one inode's extended attributes together, in bytes.
pub const MAX_XATTR_TOTAL: usize = 256 * 1024;

/// A directory entry's name: 1 to 255 bytes without NUL and `/`, and neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`MetaError::NameTooLong`] over 255 bytes; [`MetaError::Invalid`] for an empty name, `.`, `..`, or one that
    /// holds NUL or `/`.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, MetaError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_NAME {
            return Err(MetaError::NameTooLong);
        }
        if bytes.is_empty()
            || bytes.as_ref() == b"."
            || bytes.as_ref() == b".."
            || bytes.iter().any(|b| *b == 0 || *b == b'/')
        {
            return Err(MetaError::Invalid(format!(
                "{:?} can't name a directory entry",
                String::from_utf8_lossy(&bytes)
            )));
        }
        Ok(Name(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl TryFrom<&str> for Name {
    type Error = MetaError;

    fn try_from(text: &str) -> Result<Self, MetaError> {
        Name::new(text.as_bytes().to_vec())
    }
}
