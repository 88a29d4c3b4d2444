//! The privileged half of a mount, and mounts whose process is gone.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::options::MAX_IO;
use crate::{FuseError, MountOptions};

/// How long a dead mount has to answer. It answers at once; a living one that is slow does not count as dead.
const PROBE: Duration = Duration::from_secs(2);

/// Opens `/dev/fuse` and mounts it at `dir`. The descriptor is for [`crate::serve_fd`], in this process or another. Needs
/// `CAP_SYS_ADMIN`.
pub fn open_and_mount(dir: &Path, options: &MountOptions) -> Result<OwnedFd, FuseError> {
    options.validate()?;
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(FuseError::Device)?;
    // SAFETY: geteuid and getegid have no preconditions and can't fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid},max_read={MAX_IO}", device.as_raw_fd());
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let refused = |source| FuseError::Mount { dir: dir.to_owned(), source };
    let data = CString::new(data).map_err(|error| refused(error.into()))?;
    let kind = format!("fuse.{}", options.subtype);
    rustix::mount::mount(options.fs_name.as_str(), dir, kind.as_str(), flags, data.as_c_str())
        .map_err(|errno| refused(errno.into()))?;
    Ok(device.into())
}

/// Whether the process that served a mount at `dir` is gone, so that everything there answers `ENOTCONN`. Can't hang: a
/// child asks, and a mount that does not answer is not dead but slow.
pub fn is_dead_mount(dir: &Path) -> io::Result<bool> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: the child makes only system calls, no allocation and no lock, and ends with _exit.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => probe(&path),
        child => Ok(exit_code(child)? == Some(libc::ENOTCONN)),
    }
}

/// In the child: exits with the errno of a statx that is not answered from a cache.
fn probe(path: &CString) -> ! {
    // SAFETY: plain system calls on memory that lives until _exit. What the child inherited is closed first: should it
    // hang, it must not keep other mounts and locks alive.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
        let mut answer = std::mem::zeroed::<libc::statx>();
        let flags = libc::AT_STATX_FORCE_SYNC | libc::AT_SYMLINK_NOFOLLOW;
        let code =
            libc::syscall(libc::SYS_statx, libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, &mut answer);
        libc::_exit(if code == 0 { 0 } else { *libc::__errno_location() })
    }
}

/// The child's exit code; `None` if it is still waiting, and then it is killed and left behind.
fn exit_code(child: libc::pid_t) -> io::Result<Option<i32>> {
    let until = Instant::now() + PROBE;
    let mut status = 0;
    loop {
        // SAFETY: `child` is ours and not yet waited for; `status` is valid for writing.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            -1 => return Err(io::Error::last_os_error()),
            0 if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            0 => break,
            _ => return Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))),
        }
    }
    // SAFETY: as above. It ends when the mount answers or goes.
    unsafe { libc::kill(child, libc::SIGKILL) };
    std::thread::spawn(move || {
        let mut status = 0;
        // SAFETY: as above; this thread alone waits for it.
        unsafe { libc::waitpid(child, &mut status, 0) }
    });
    Ok(None)
}

/// Detaches the mount at `dir` at once, even if it is in use. Files that are open there stay usable while the process
/// that serves them lives.
pub fn detach(dir: &Path) -> Result<(), FuseError> {
    unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .map_err(|source| FuseError::Unmount { dir: dir.to_owned(), source })
}

/// Unmounts, through the setuid helper where we may not ourselves.
pub(crate) fn unmount(dir: &Path, flags: UnmountFlags) -> io::Result<()> {
    match rustix::mount::unmount(dir, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            let mut helper = Command::new("fusermount3");
            helper.arg("-u").arg("-q");
            if flags.contains(UnmountFlags::DETACH) {
                helper.arg("-z");
            }
            let output = helper.arg("--").arg(dir).stdin(Stdio::null()).output()?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(io::Error::other(format!("fusermount3 -u failed ({}): {said}", output.status)))
        }
        Err(errno) => Err(errno.into()),
    }
}
