//! The privileged half of the node plugin: opens `/dev/fuse`, mounts, binds, proves and unmounts. It reads nothing of
//! what users store; the mounter, which does, runs without privileges.

pub mod kubelet_dir;
pub mod mountinfo;
pub mod probe;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::capability::FS_TYPE;
use kubelet_dir::{KubeletDir, by_descriptor};
use mountinfo::Mount;
use probe::{Look, Outcome, Prober};

/// Before the handle in a mount's source.
const SOURCE_PREFIX: &str = "nokv:";

/// FUSE's node id of the root directory.
const ROOT_INODE: u64 = 1;

/// How a mount at a path fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is mounted there.
    Absent,
    /// Something else is mounted there.
    Foreign(String),
    /// The volume is mounted and answers.
    Alive(Mount, Look),
    /// The volume is mounted, but no daemon serves it any more.
    Dead,
    /// The volume is mounted and did not answer in time.
    Hung,
}

/// Mounts below the kubelet's directory.
#[derive(Clone, Debug)]
pub struct Mounts {
    /// Where they are.
    pub dir: KubeletDir,
    prober: Prober,
}

/// The source of a volume's mounts.
pub fn source(handle: &str) -> String {
    format!("{SOURCE_PREFIX}{handle}")
}

/// Whether a mount is the volume's.
pub fn is_of(mount: &Mount, handle: &str) -> bool {
    mount.fs_type == FS_TYPE && mount.source.strip_prefix(SOURCE_PREFIX) == Some(handle)
}

impl Mounts {
    /// Works below `dir`.
    pub fn new(dir: KubeletDir, prober: Prober) -> Self {
        Mounts { dir, prober }
    }

    /// How the topmost mount at a path fares, as a child process sees it.
    pub async fn state(&self, path: &Path, handle: &str) -> io::Result<State> {
        let mounts = mountinfo::read()?;
        let Some(mount) = mountinfo::at(&mounts, path) else { return Ok(State::Absent) };
        if !is_of(mount, handle) {
            return Ok(State::Foreign(format!("{} ({})", mount.source, mount.fs_type)));
        }
        match self.prober.look(path).await? {
            Outcome::Answered(look) if look.device == mount.device && look.inode == ROOT_INODE => {
                Ok(State::Alive(mount.clone(), look))
            }
            Outcome::Answered(look) => Err(io::Error::other(format!(
                "{} shows inode {} of device {}, expected the root of device {}: the mount table changed, try again",
                path.display(),
                look.inode,
                look.device,
                mount.device
            ))),
            Outcome::Dead => Ok(State::Dead),
            Outcome::Hung => Ok(State::Hung),
        }
    }

    /// Mounts a new FUSE superblock at `path` and answers the descriptor that its daemon serves.
    pub fn attach(&self, path: &Path, handle: &str, read_only: bool) -> io::Result<OwnedFd> {
        let fuse = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| described(errno.into(), "opening /dev/fuse (is the fuse kernel module loaded?)"))?;
        let target = self.dir.open(path)?;
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", fuse.as_raw_fd());
        let data = std::ffi::CString::new(data)?;
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, read_only);
        rustix::mount::mount(source(handle), by_descriptor(&target), FS_TYPE, flags, Some(data.as_c_str()))
            .map_err(|errno| described(errno.into(), "mount(2)"))?;
        Ok(fuse)
    }

    /// Binds the mount at `from` to `to`, which is made; with the flags, and read-only if asked.
    pub fn bind(&self, from: &Path, to: &Path, flags: MountFlags, read_only: bool) -> io::Result<()> {
        self.dir.make_target(to).map_err(|error| described(error, "making the target directory"))?;
        let source = self.dir.open(from)?;
        let target = self.dir.open(to)?;
        rustix::mount::mount_bind(by_descriptor(&source), by_descriptor(&target))
            .map_err(|errno| described(errno.into(), "bind mount"))?;
        drop(target);
        // Opened again: the first descriptor holds the directory below the new mount.
        let mounted = self.dir.open(to)?;
        let mut flags = flags | MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, read_only);
        rustix::mount::mount_remount(by_descriptor(&mounted), flags, "")
            .map_err(|errno| described(errno.into(), "setting the bind mount's options"))
    }

    /// Unmounts what is on top at `path`. With `lazily` it vanishes at once, even if it is in use or hangs.
    pub fn detach(&self, path: &Path, lazily: bool) -> io::Result<()> {
        let (parent, name) = self.dir.open_parent(path)?;
        // By name below the parent's descriptor: one on the mount itself would keep it busy.
        let point = by_descriptor(&parent).join(name);
        let mut flags = UnmountFlags::NOFOLLOW;
        flags.set(UnmountFlags::DETACH, lazily);
        rustix::mount::unmount(point, flags).map_err(|errno| described(errno.into(), "umount(2)"))
    }

    /// All mounts of a volume.
    pub fn of(&self, handle: &str) -> io::Result<Vec<Mount>> {
        let mut mounts = mountinfo::read()?;
        mounts.retain(|mount| is_of(mount, handle));
        Ok(mounts)
    }
}

fn described(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
