//! Paths below the kubelet's directory, opened so that no symbolic link that a pod made can lead elsewhere.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};

/// The directory that all staging and target paths are below.
#[derive(Clone, Debug)]
pub struct KubeletDir {
    asked: PathBuf,
    real: PathBuf,
}

impl KubeletDir {
    /// `path` itself may lead over symbolic links: it is the administrator's.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(KubeletDir { asked: path.to_path_buf(), real: path.canonicalize()? })
    }

    /// The path as mount tables show it; `None` if it is not plainly below the kubelet's directory.
    pub fn resolve(&self, path: &str) -> Option<PathBuf> {
        let path = Path::new(path);
        let below = path.strip_prefix(&self.asked).or_else(|_| path.strip_prefix(&self.real)).ok()?;
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        (plain && below.components().next().is_some()).then(|| self.real.join(below))
    }

    /// Opens a directory that `resolve` answered, without asking its file system anything.
    pub fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let below = path.strip_prefix(&self.real).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &self.real, flags, Mode::empty())?;
        if below.as_os_str().is_empty() {
            return Ok(root);
        }
        // Crossing mounts is wanted, so not NO_XDEV.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(root, below, flags, Mode::empty(), resolve)?)
    }

    /// Opens the directory that holds `path`, and splits its last part off.
    pub fn open_parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a std::ffi::OsStr)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let parent = self.open(path.parent().ok_or_else(invalid)?)?;
        Ok((parent, path.file_name().ok_or_else(invalid)?))
    }

    /// Makes the directory `path`, which nobody can use while nothing is mounted on it. Its parent must be there.
    pub fn make_target(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::empty()) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.set_immutable(&parent, name, true)
    }

    /// Removes a target that is empty and not mounted. It need not be there.
    pub fn remove_target(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = match self.open_parent(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match self.set_immutable(&parent, name, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Mode 0 stops everybody but root; the immutable flag stops root in a container too, where the file system of the
    /// node has it.
    fn set_immutable(&self, parent: &OwnedFd, name: &std::ffi::OsStr, immutable: bool) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let result = rustix::fs::ioctl_getflags(&dir).and_then(|mut flags| {
            flags.set(rustix::fs::IFlags::IMMUTABLE, immutable);
            rustix::fs::ioctl_setflags(&dir, flags)
        });
        match result {
            Ok(()) => Ok(()),
            Err(
                rustix::io::Errno::NOTTY
                | rustix::io::Errno::NOTSUP
                | rustix::io::Errno::PERM
                | rustix::io::Errno::INVAL,
            ) => {
                tracing::debug!(?name, immutable, "this file system has no immutable flag");
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A name for mount(2) of what a descriptor holds.
pub fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
