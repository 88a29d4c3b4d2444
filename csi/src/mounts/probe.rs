//! Looks through a mount from a short-lived child process: if the mount hangs, the child does, and is given up.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest time that a look may take.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What a path showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Device number of its superblock, `major:minor`.
    pub device: String,
    /// Inode number.
    pub inode: u64,
    /// Bytes: total, free.
    pub bytes: (u64, u64),
    /// Inodes: total, free.
    pub inodes: (u64, u64),
}

/// What came of a look.
#[derive(Debug)]
pub enum Outcome {
    /// The mount answered.
    Answered(Look),
    /// The kernel has no daemon behind the mount any more.
    Dead,
    /// No answer before the deadline.
    Hung,
}

/// Starts the children.
#[derive(Clone, Debug)]
pub struct Prober {
    program: PathBuf,
}

impl Prober {
    /// `program` is this driver's binary.
    pub fn new(program: PathBuf) -> Self {
        Prober { program }
    }

    /// Looks at a path.
    pub async fn look(&self, path: &Path) -> io::Result<Outcome> {
        let child = tokio::process::Command::new(&self.program)
            .arg("look")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .kill_on_drop(true)
            .spawn()?;
        // Dropping the child at the deadline kills it; the runtime reaps it whenever it can die.
        let Ok(output) = tokio::time::timeout(PROBE_DEADLINE, child.wait_with_output()).await else {
            return Ok(Outcome::Hung);
        };
        let output = output?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("looking at {} failed: {}", path.display(), text.trim())));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)?;
        match answer {
            Answer::Look(look) => Ok(Outcome::Answered(look)),
            Answer::Errno(errno) if is_dead(errno) => Ok(Outcome::Dead),
            Answer::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Look(Look),
    Errno(i32),
}

/// What FUSE answers once the daemon's descriptor is closed or its connection aborted.
fn is_dead(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED)
}

/// The child's part: looks and prints.
pub fn child(path: &Path) -> anyhow::Result<()> {
    let answer = match look(path) {
        Ok(look) => Answer::Look(look),
        Err(errno) => Answer::Errno(errno.raw_os_error()),
    };
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

fn look(path: &Path) -> rustix::io::Result<Look> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    // Forced to the daemon: the kernel's cache would answer for a dead one.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    let found = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS)?;
    let space = rustix::fs::statvfs(path)?;
    let unit = space.f_frsize.max(1);
    Ok(Look {
        device: format!("{}:{}", found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        bytes: (space.f_blocks.saturating_mul(unit), space.f_bavail.saturating_mul(unit)),
        inodes: (space.f_files, space.f_favail),
    })
}
