//! Frames: what carries messages over a byte stream.
//!
//! Big endian: length (u32, of all that follows), request id (u64), kind (u8), message. A reply carries its request's
//! id, so replies may come in any order.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ProtocolError;

/// Bytes of the length field.
const LENGTH: usize = 4;
/// Bytes of id and kind.
const HEAD: usize = 9;
/// The longest frame, without its length field: a reply that lists or describes much.
pub const MAX_FRAME: usize = 8 << 20;
/// The longest request frame: a publish of 1 MiB, and some room.
pub const MAX_REQUEST: usize = (1 << 20) + (64 << 10);
/// The longest frame of the handshake. Small, because it comes before the peer is known.
pub const MAX_HELLO: usize = 4 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A client's first frame.
    Hello,
    /// The answer to it.
    HelloReply,
    /// A request.
    Request,
    /// A reply.
    Reply,
}

impl FrameKind {
    fn byte(self) -> u8 {
        match self {
            FrameKind::Hello => 1,
            FrameKind::HelloReply => 2,
            FrameKind::Request => 3,
            FrameKind::Reply => 4,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Request id.
    pub id: u64,
    /// What it carries.
    pub kind: FrameKind,
    /// The message; shares the memory of the read buffer.
    pub message: Bytes,
}

/// Takes the next whole frame off `buffer`; `None` if more bytes must be read first, for which room is reserved.
///
/// # Errors
/// [`ProtocolError`] for a frame beyond `max` bytes, one without a header, or one of unknown kind.
pub fn take_frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Frame>, ProtocolError> {
    if buffer.len() < LENGTH {
        return Ok(None);
    }
    let len = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    if len > max {
        return Err(ProtocolError::TooLarge { len, max });
    }
    if len < HEAD {
        return Err(ProtocolError::NotAFrame("shorter than its header"));
    }
    if buffer.len() < LENGTH + len {
        buffer.reserve(LENGTH + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(LENGTH);
    let mut frame = buffer.split_to(len);
    let id = frame.get_u64();
    let kind = match frame.get_u8() {
        1 => FrameKind::Hello,
        2 => FrameKind::HelloReply,
        3 => FrameKind::Request,
        4 => FrameKind::Reply,
        _ => return Err(ProtocolError::NotAFrame("unknown kind")),
    };
    Ok(Some(Frame { id, kind, message: frame.freeze() }))
}

/// Appends a frame to `out`. On an error `out` is as before.
///
/// # Errors
/// [`ProtocolError::TooLarge`] if it would be longer than `max`.
pub(crate) fn put_frame(
    out: &mut BytesMut,
    id: u64,
    kind: FrameKind,
    message: &impl prost::Message,
    max: usize,
) -> Result<(), ProtocolError> {
    let len = HEAD + message.encoded_len();
    if len > max {
        return Err(ProtocolError::TooLarge { len, max });
    }
    out.reserve(LENGTH + len);
    out.put_u32(len as u32);
    out.put_u64(id);
    out.put_u8(kind.byte());
    message.encode_raw(out);
    Ok(())
}
