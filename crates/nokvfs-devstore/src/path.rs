//! Keys as file names.
//!
//! `<2 hex of the key's hash>/<escaped key>`. Escaping leaves letters, digits, `-`, `_` and `.`, writes `/` as `+` and
//! any other byte as `%xx`, so no name has a separator, and a leading `.` is escaped, so none is special. A longer name
//! is cut into folders that end in `,`, which no escaped name has: a file is never in a folder's place.

use std::path::PathBuf;

/// Folders that objects spread over. Few: one flush of a batch of puts syncs each folder that it touched.
pub(crate) const FAN_OUT: u32 = 16;
/// File systems allow 255 bytes; the folder mark is one more.
const PIECE_MAX: usize = 240;

/// The fan-out folder of a key.
pub(crate) fn folder(key: &str) -> u32 {
    // FNV-1a: part of the layout on disk.
    let hash = key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) % FAN_OUT
}

/// A fan-out folder's name.
pub(crate) fn folder_name(folder: u32) -> String {
    format!("{folder:02x}")
}

/// The file of a key, below its fan-out folder.
pub(crate) fn file(key: &str) -> PathBuf {
    let name = escape(key);
    let mut path = PathBuf::new();
    let mut rest = name.as_str();
    while rest.len() > PIECE_MAX {
        let (piece, tail) = rest.split_at(PIECE_MAX);
        path.push(format!("{piece},"));
        rest = tail;
    }
    path.push(rest);
    path
}

/// The key of a file; the inverse of [`file`]. None if no key has this name.
pub(crate) fn key(pieces: &[&str]) -> Option<String> {
    let (last, folders) = pieces.split_last()?;
    let mut name = String::new();
    for piece in folders {
        name.push_str(piece.strip_suffix(',')?);
    }
    name.push_str(last);
    let mut bytes = Vec::with_capacity(name.len());
    let mut chars = name.bytes();
    while let Some(byte) = chars.next() {
        bytes.push(match byte {
            b'%' => (hex_digit(chars.next()?)? << 4) | hex_digit(chars.next()?)?,
            b'+' => b'/',
            other => other,
        });
    }
    let key = String::from_utf8(bytes).ok()?;
    (escape(&key) == name).then_some(key)
}

fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 8);
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(char::from(byte)),
            b'/' => name.push('+'),
            _ => {
                name.push('%');
                name.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
                name.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
            }
        }
    }
    name
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
