//! The mount table of the own mount namespace. Reading it never touches a file system that may hang, and it is the
//! only memory that the node plugin has of what it mounted.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number of the superblock, `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// File system type with its subtype.
    pub fs_type: String,
    /// The mount's source: ours is `nokv:<volume handle>`.
    pub source: String,
    /// Whether this mount is read-only.
    pub read_only: bool,
    /// Whether the whole superblock is.
    pub super_read_only: bool,
}

/// All mounts, in the order they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The topmost mount at a path.
pub fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.point == path)
}

/// Parses proc_pid_mountinfo(5). A line that is not of its form is skipped: it can't be one of ours.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // id parent major:minor root point options [optional...] - type source super-options
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    let options = fields.next()?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (fs_type, source, super_options) = (rest.next()?, rest.next()?, rest.next()?);
    Some(Mount {
        device: String::from_utf8(device.to_vec()).ok()?,
        point: PathBuf::from(std::ffi::OsString::from_vec(unescape(point))),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
        read_only: has_ro(options),
        super_read_only: has_ro(super_options),
    })
}

fn has_ro(options: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option == b"ro")
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(value) => {
                text.push(value);
                rest = &tail[3..];
            }
            None => {
                text.push(byte);
                rest = tail;
            }
        }
    }
    text
}
