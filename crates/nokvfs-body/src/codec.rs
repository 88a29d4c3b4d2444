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
    let seed = xxh3_64(key.as_bytes());
    let mut out = Vec::with_capacity(framed_len(payload.len() as u64) as usize);
    for (index, frame) in payload.chunks(FRAME_PAYLOAD as usize).enumerate() {
        out.extend_from_slice(frame);
        out.extend_from_slice(&xxh3_64_with_seed(frame, seed ^ index as u64).to_le_bytes());
    }
    out.into()
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
