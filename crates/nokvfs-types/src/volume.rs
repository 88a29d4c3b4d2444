//! Volumes and the sessions that hold them.

use std::fmt;

use crate::{InodeId, MountId, SessionId, Timestamp, UploadId, Version, VolumeId};

/// What a volume is made from. Creation is idempotent by name: the same spec again answers the volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name on the server: 1 to 253 bytes of `[a-z0-9.-]`, first and last alphanumeric.
    pub name: String,
    /// Most mapped bytes; 0: no limit.
    pub quota_bytes: u64,
    /// Most inodes; 0: no limit.
    pub quota_inodes: u64,
    /// Mode of the root directory (low 12 bits).
    pub root_mode: u16,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// In use.
    Active,
    /// Deleted; its records and objects are being removed.
    Deleting,
    /// Deleted or rolled back; kept, without a name, while snapshots of it or volumes made from it are there.
    Hidden,
}

/// What a volume uses, from counters that change with each command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Mapped bytes.
    pub bytes: u64,
    /// Inodes, the root included.
    pub inodes: u64,
}

/// A volume, as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Random identity.
    pub id: VolumeId,
    /// Number on the server.
    pub mount: MountId,
    /// As created; the quota may change later.
    pub spec: VolumeSpec,
    /// State.
    pub state: VolumeState,
    /// Usage.
    pub usage: VolumeUsage,
    /// Live sessions.
    pub sessions: u32,
    /// Whose objects its files' uploads are, by descending first upload: its own come first, those of what it was cloned
    /// from follow. At most [`MAX_BASES`] + 1.
    pub origins: Vec<Origin>,
}

impl VolumeInfo {
    /// The volume whose objects an upload's are.
    pub fn origin(&self, upload: UploadId) -> VolumeId {
        self.origins.iter().find(|origin| upload >= origin.first).map_or(self.id, |origin| origin.volume)
    }
}

/// Uploads from a number on are objects of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The first of them.
    pub first: UploadId,
    /// The volume.
    pub volume: VolumeId,
}

/// Volumes that a volume can build on, one on the other.
pub const MAX_BASES: usize = 8;

/// Most snapshots of a volume.
pub const MAX_SNAPSHOTS: usize = 1024;

/// A moment of a volume that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The volume that it was made of.
    pub volume: VolumeId,
    /// Name in the volume: 1 to 253 bytes of `[a-z0-9.-]`, first and last alphanumeric.
    pub name: String,
    /// The commit that it was.
    pub version: Version,
    /// When it was made.
    pub created: Timestamp,
    /// What the volume used, without files that were unlinked and open.
    pub usage: VolumeUsage,
    /// Volumes that were made from it and are there.
    pub clones: u32,
}

/// What a volume is cloned from, and how the new one differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneSpec {
    /// The volume to clone.
    pub source: VolumeId,
    /// Its snapshot, or the volume as it is now.
    pub snapshot: Option<String>,
    /// The new volume's name, as in [`VolumeSpec`].
    pub name: String,
    /// The new volume's limit of mapped bytes; 0: none.
    pub quota_bytes: u64,
    /// The new volume's limit of inodes; 0: none.
    pub quota_inodes: u64,
}

/// A volume's secret: who has it may open sessions on that volume and no other. 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(secret)")
    }
}

impl Token {
    /// 64 hex digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads 64 hex digits; white space around them is allowed.
    pub fn from_hex(text: &str) -> Option<Token> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
        Some(Token(bytes))
    }
}

/// Asks for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// The volume.
    pub volume: VolumeId,
    /// The volume's token.
    pub token: Token,
    /// Who the client is, for people: host, process, pod. At most 256 bytes.
    pub client: String,
    /// No mutation is allowed in it.
    pub read_only: bool,
    /// The snapshot to read; the session is then read-only. `None`: the volume as it is.
    pub snapshot: Option<String>,
    /// Take over this session with the next generation, instead of a new one.
    pub resume: Option<(SessionId, u32)>,
}

/// A session that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionGrant {
    /// The session.
    pub session: SessionId,
    /// The generation under which this client holds it.
    pub generation: u32,
    /// The volume.
    pub volume: VolumeInfo,
    /// The session ends after so many milliseconds without a heartbeat.
    pub expires_ms: u32,
    /// Slots that the client may use, at most 256.
    pub slots: u16,
}

/// A client's sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Answers to the orphans of the last reply: those that this client has open.
    pub open: Vec<InodeId>,
    /// Those of them that it does not have open.
    pub closed: Vec<InodeId>,
}

/// The answer to a [`Heartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Unlinked inodes of the volume: does the client have them open? At most 1,024 at a time.
    pub orphans: Vec<InodeId>,
}
