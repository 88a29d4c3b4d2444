//! What a pod may ask of a volume: access type and mode, file system type, mount options.

use rustix::mount::MountFlags;
use tonic::Status;

use crate::proto::csi::VolumeCapability;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::volume_capability::{AccessType, MountVolume};

/// The file system type in mount tables, and the one that `fsType` may name.
pub const FS_TYPE: &str = "fuse.nokv";

/// A checked capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// No write is allowed, by nobody.
    pub read_only: bool,
    /// One pod only.
    pub single_writer: bool,
    /// What mount options ask for beyond `nosuid` and `nodev`, which every mount has.
    pub flags: MountFlags,
}

impl Access {
    /// Checks a capability.
    pub fn check(capability: Option<&VolumeCapability>) -> Result<Access, Status> {
        let capability = capability.ok_or_else(|| Status::invalid_argument("volume_capability is missing"))?;
        let mount = match &capability.access_type {
            Some(AccessType::Mount(mount)) => mount,
            Some(AccessType::Block(_)) => {
                return Err(Status::invalid_argument("raw block volumes are not supported: use volumeMode Filesystem"));
            }
            None => return Err(Status::invalid_argument("volume_capability has no access type")),
        };
        let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |mode| mode.mode());
        if mode == Mode::Unknown {
            return Err(Status::invalid_argument("volume_capability has no access mode that this driver knows"));
        }
        let (read_only_option, flags) = options(mount)?;
        Ok(Access {
            read_only: read_only_option || matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly),
            single_writer: mode == Mode::SingleNodeSingleWriter,
            flags,
        })
    }

    /// Checks all capabilities of a volume.
    pub fn check_all(capabilities: &[VolumeCapability]) -> Result<(), Status> {
        if capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities is empty"));
        }
        capabilities.iter().try_for_each(|capability| Access::check(Some(capability)).map(drop))
    }
}

/// An allow-list: a mount option must not become a way around the mount's own settings.
fn options(mount: &MountVolume) -> Result<(bool, MountFlags), Status> {
    if !matches!(mount.fs_type.as_str(), "" | "nokv" | FS_TYPE) {
        let message = format!("fsType {:?} is not supported: leave it out", mount.fs_type);
        return Err(Status::invalid_argument(message));
    }
    if !mount.volume_mount_group.is_empty() {
        return Err(Status::invalid_argument(
            "volume_mount_group is not supported: set fsGroupPolicy of the CSIDriver to None",
        ));
    }
    let mut read_only = false;
    let mut flags = MountFlags::empty();
    for option in mount.mount_flags.iter().flat_map(|flag| flag.split(',')) {
        match option {
            "ro" => read_only = true,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            // Set on every mount, or the default.
            "" | "rw" | "nosuid" | "nodev" | "exec" | "defaults" => {}
            other => {
                let message = format!(
                    "mount option {other:?} is not supported: use ro, noexec, noatime, nodiratime or relatime in mountOptions"
                );
                return Err(Status::invalid_argument(message));
            }
        }
    }
    Ok((read_only, flags))
}
