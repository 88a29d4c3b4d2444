//! Identifiers. All are plain numbers with a name, so that none can be passed for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// A volume's number on its metadata server: the first part of every key. Never reused on a server.
    MountId
}
id! {
    /// An inode's number in its volume; also the FUSE node id. Never reused in a volume, not after a rollback either.
    InodeId
}
id! {
    /// The server-wide sequence number of a commit. Every record carries the one that wrote it.
    Version
}
id! {
    /// A session: one client that holds one volume. Never reused on a server.
    SessionId
}
id! {
    /// One upload attempt of one client in a volume. Never reused in a volume, so no object is ever overwritten.
    UploadId
}
id! {
    /// What makes a repeated request recognisable: the FUSE `unique` without bit 63, or a client's own counter.
    OpId
}

impl InodeId {
    /// The root directory of every volume. FUSE fixes this number (`FUSE_ROOT_ID`, linux/fuse.h).
    pub const ROOT: InodeId = InodeId(1);
}

/// A volume's random identity (UUID version 4). It names the volume's objects and is never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub uuid::Uuid);

impl VolumeId {
    /// A new random identity.
    pub fn random() -> Self {
        VolumeId(uuid::Uuid::new_v4())
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for VolumeId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(VolumeId)
    }
}
