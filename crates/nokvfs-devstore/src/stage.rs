//! An object on its way to disk: an unnamed file, gone with the process unless the committer links it.

use std::fs::File;
use std::io::{self, Write};
use std::time::SystemTime;

use bytes::Bytes;
use md5::{Digest, Md5};
use xxhash_rust::xxh3::Xxh3;

use crate::errors::ChangeError;

/// Body hash, body length and [`MAGIC`] follow the body, so that an object needs no second file.
pub(crate) const FOOTER: usize = 32;
const MAGIC: &[u8; 8] = b"NOKVOBJ1";

/// What the footer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) hash: u128,
    pub(crate) len: u64,
}

impl Footer {
    pub(crate) fn encode(self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[..16].copy_from_slice(&self.hash.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.len.to_le_bytes());
        bytes[24..].copy_from_slice(MAGIC);
        bytes
    }

    /// None if `bytes` are no footer, or not that of a file of `file_len` bytes.
    pub(crate) fn decode(bytes: &[u8; FOOTER], file_len: u64) -> Option<Self> {
        let (hash, rest) = bytes.split_first_chunk::<16>()?;
        let (len, magic) = rest.split_first_chunk::<8>()?;
        let footer = Self { hash: u128::from_be_bytes(*hash), len: u64::from_le_bytes(*len) };
        (magic == MAGIC && footer.len.checked_add(FOOTER as u64) == Some(file_len)).then_some(footer)
    }

    /// The entity tag. The suffix tells clients that it is no MD5.
    pub(crate) fn etag(self) -> String {
        format!("{:032x}-x", self.hash)
    }
}

/// An object that is being written.
pub(crate) struct Stage {
    file: File,
    hash: Box<Xxh3>,
    md5: Option<Md5>,
    len: u64,
}

/// A whole, durable object that has no name yet.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) file: File,
    pub(crate) footer: Footer,
    pub(crate) modified: SystemTime,
}

impl Stage {
    /// Begins an object in an unnamed `file`; with `md5` the body's MD5 is checked at the end.
    pub(crate) fn new(file: File, md5: bool) -> Self {
        Self { file, hash: Box::new(Xxh3::new()), md5: md5.then(Md5::new), len: 0 }
    }

    /// Appends pieces of the body. Blocks.
    pub(crate) fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.hash.update(piece);
            if let Some(md5) = &mut self.md5 {
                md5.update(piece);
            }
            self.file.write_all(piece)?;
            self.len += piece.len() as u64;
        }
        Ok(())
    }

    /// The MD5 so far, if it was asked for.
    pub(crate) fn md5(&self) -> Option<[u8; 16]> {
        self.md5.clone().map(|md5| md5.finalize().into())
    }

    /// Makes the object whole and durable. Blocks.
    pub(crate) fn finish(mut self) -> Result<Staged, ChangeError> {
        let footer = Footer { hash: self.hash.digest128(), len: self.len };
        self.file.write_all(&footer.encode())?;
        self.file.sync_data()?;
        Ok(Staged { file: self.file, footer, modified: SystemTime::now() })
    }
}
