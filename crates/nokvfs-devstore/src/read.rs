//! Reading objects: small ones from the page cache at once, the rest in pieces on the blocking pool.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use futures::Stream;
use rustix::buffer::spare_capacity;
use rustix::io::ReadWriteFlags;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::task::JoinHandle;

use crate::stage::{FOOTER, Footer};

/// Bodies up to this size are read whole, before the answer begins.
pub(crate) const SMALL: u64 = 256 << 10;
/// Longer ones are read in pieces; one is read ahead.
const PIECE: u64 = 1 << 20;

/// An open object.
pub(crate) struct Object {
    pub(crate) file: File,
    pub(crate) footer: Footer,
    pub(crate) modified: SystemTime,
}

/// Opens the object in `path`; None if there is none. With `cached`, [`io::ErrorKind::WouldBlock`] instead of a wait
/// for the disk.
pub(crate) fn open(path: &std::path::Path, cached: bool) -> io::Result<Option<Object>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let mut bytes = [0; FOOTER];
    let torn = || io::Error::new(io::ErrorKind::InvalidData, format!("{path:?} is damaged"));
    let at = meta.len().checked_sub(FOOTER as u64).ok_or_else(torn)?;
    if pread(&file, &mut bytes, at, cached)? != FOOTER {
        return Err(torn());
    }
    let footer = Footer::decode(&bytes, meta.len()).ok_or_else(torn)?;
    Ok(Some(Object { file, footer, modified: meta.modified()? }))
}

fn pread(file: &File, buffer: &mut [u8], at: u64, cached: bool) -> io::Result<usize> {
    let flags = if cached { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], at, flags) {
        // Not every file system knows NOWAIT: then the blocking pool does it.
        Err(rustix::io::Errno::OPNOTSUPP) if cached => Err(io::ErrorKind::WouldBlock.into()),
        other => Ok(other?),
    }
}

/// Reads a small range at once; [`io::ErrorKind::WouldBlock`] if it is not all cached.
pub(crate) fn read_cached(file: &File, range: ops::Range<u64>) -> io::Result<Bytes> {
    let mut buffer = vec![0; (range.end - range.start) as usize];
    if pread(file, &mut buffer, range.start, true)? != buffer.len() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(buffer.into())
}

/// Reads a range. Blocks.
pub(crate) fn read(file: &File, range: ops::Range<u64>) -> io::Result<Bytes> {
    let len = (range.end - range.start) as usize;
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let at = range.start + buffer.len() as u64;
        if rustix::io::pread(file, spare_capacity(&mut buffer), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The allocator may have given more room than was asked for, and the footer follows the body.
    buffer.truncate(len);
    Ok(buffer.into())
}

/// A range of an object as a stream.
pub(crate) struct Pieces {
    file: Arc<File>,
    at: u64,
    end: u64,
    unsent: u64,
    next: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Pieces {
    pub(crate) fn new(file: File, range: ops::Range<u64>) -> Self {
        let unsent = range.end - range.start;
        let mut pieces = Self { file: Arc::new(file), at: range.start, end: range.end, unsent, next: None };
        pieces.read_ahead();
        pieces
    }

    fn read_ahead(&mut self) {
        if self.at == self.end {
            return;
        }
        let range = self.at..self.end.min(self.at + PIECE);
        self.at = range.end;
        let file = Arc::clone(&self.file);
        self.next = Some(tokio::task::spawn_blocking(move || read(&file, range)));
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let piece = ready!(Pin::new(next).poll(cx));
        self.next = None;
        match piece {
            Ok(Ok(piece)) => {
                self.unsent -= piece.len() as u64;
                self.read_ahead();
                Poll::Ready(Some(Ok(piece)))
            }
            Ok(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.unsent as usize)
    }
}
