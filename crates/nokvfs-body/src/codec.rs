//! Frames inside block objects. An object is a sequence of frames: up to 128 KiB of payload, then 8 bytes, the
//! little-endian xxh3-64 of the payload with the seed `xxh3-64(object key) ^ frame index`. So whole frames are read by
//! one ranged GET and verified without metadata, and a frame at another place of another object does not pass.

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Payload bytes of every frame but an object's last, which may have fewer.
pub const FRAME_PAYLOAD: u64 = 128 << 10;
/// Bytes after each payload.
const CHECK: u64 = 8;
/// A whole frame.
pub(crate) const FRAME: u64 = FRAME_PAYLOAD + CHECK;

/// Bytes of an object that holds `payload` bytes.
pub fn framed_len(payload: u64) -> u64 {
    payload + payload.div_ceil(FRAME_PAYLOAD) * CHECK
}

/// The contents of the object `key` for a payload.
pub fn encode_frames(key: &str, payload: &[u8]) -> Bytes {
    let mut writer = FrameWriter::new(key, payload.len() as u64);
    writer.push(payload);
    writer.finish()
}

/// Frames a payload that comes in pieces, without a second copy of it.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    out: Vec<u8>,
    seed: u64,
    index: u64,
    /// Where the frame that is being filled begins.
    start: usize,
}

impl FrameWriter {
    /// For an object with `payload` bytes.
    pub fn new(key: &str, payload: u64) -> Self {
        let out = Vec::with_capacity(framed_len(payload) as usize);
        Self { out, seed: xxh3_64(key.as_bytes()), index: 0, start: 0 }
    }

    /// Adds payload.
    pub fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = FRAME_PAYLOAD as usize - (self.out.len() - self.start);
            let (now, rest) = data.split_at(room.min(data.len()));
            self.out.extend_from_slice(now);
            if now.len() == room {
                self.seal();
            }
            data = rest;
        }
    }

    /// The object's contents.
    pub fn finish(mut self) -> Bytes {
        if self.out.len() > self.start {
            self.seal();
        }
        self.out.into()
    }

    fn seal(&mut self) {
        let check = xxh3_64_with_seed(&self.out[self.start..], self.seed ^ self.index);
        self.out.extend_from_slice(&check.to_le_bytes());
        self.start = self.out.len();
        self.index += 1;
    }
}

/// Verifies whole frames of the object `key`, of which the first in `data` is number `first`, and answers each one's
/// payload in memory of its own. The error says what does not fit.
pub fn decode_frames(key: &str, first: u32, data: &[u8]) -> Result<Vec<Bytes>, String> {
    let seed = xxh3_64(key.as_bytes());
    let mut frames = Vec::with_capacity(data.len().div_ceil(FRAME as usize));
    for (index, frame) in (u64::from(first)..).zip(data.chunks(FRAME as usize)) {
        let Some((payload, check)) = frame.split_last_chunk::<8>() else {
            return Err(format!("frame {index} is cut off"));
        };
        if payload.is_empty() || xxh3_64_with_seed(payload, seed ^ index) != u64::from_le_bytes(*check) {
            return Err(format!("frame {index} fails its checksum"));
        }
        frames.push(Bytes::copy_from_slice(payload));
    }
    Ok(frames)
}
