//! Records of the server, its volumes and their sessions.

use bytes::Bytes;
use nokvfs_types::{
    MountId, OpId, SessionId, SliceId, Timestamp, UploadId, Version, VolumeId, VolumeSpec, VolumeState,
};
use uuid::Uuid;

use super::codec::{Reader, Record, put_bytes, put_slice, put_time, put_u16, put_u32, put_u64, put_varint};
use super::key::Family;
use crate::service::MetaResult;

/// Objects that no body names any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRecord {
    /// The volume's number.
    pub mount: MountId,
    /// The volume's identity: it is part of the objects' keys and outlives the volume here.
    pub volume: VolumeId,
    /// Slices with their length. Keep a record below [`super::MAX_VALUE`]: at most 1,024 slices.
    pub slices: Vec<(SliceId, u64)>,
}

impl Record for GarbageRecord {
    const FAMILY: Family = Family::Garbage;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.mount.0);
        out.extend_from_slice(self.volume.0.as_bytes());
        put_u32(out, self.slices.len() as u32);
        for (slice, len) in &self.slices {
            put_slice(out, slice);
            put_varint(out, *len);
        }
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("garbage record", payload);
        let mount = MountId(from.u64()?);
        let volume = VolumeId(Uuid::from_bytes(from.array()?));
        let count = from.u32()? as usize;
        let mut slices = Vec::with_capacity(count.min(payload.len() / 4));
        for _ in 0..count {
            slices.push((from.slice()?, from.varint()?));
        }
        from.finish(GarbageRecord { mount, volume, slices })
    }
}

/// An object that several files share. Made by the first publish that names it; gone once no record names it and its
/// writer can't publish more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRecord {
    /// The session that uploaded it.
    pub owner: SessionId,
    /// Its bytes, at most [`nokvfs_types::PACK_SIZE`].
    pub len: u32,
    /// Inode and chunk records that name it.
    pub named: u32,
}

impl Record for PackRecord {
    const FAMILY: Family = Family::Pack;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.owner.0);
        put_u32(out, self.len);
        put_u32(out, self.named);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("pack record", payload);
        let record = PackRecord { owner: SessionId(from.u64()?), len: from.u32()?, named: from.u32()? };
        from.finish(record)
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Identity.
    pub id: VolumeId,
    /// As created, with the quota of now.
    pub spec: VolumeSpec,
    /// State.
    pub state: VolumeState,
    /// SHA-256 of the token; the token itself is derived from the server's secret and the epoch.
    pub token_hash: [u8; 32],
    /// Grows when the token is replaced.
    pub token_epoch: u32,
    /// Its newest pin; 0 if it has none. What was written before is kept when it changes.
    pub pinned: Version,
    /// The commit that last removed a pin, until the history that nothing needs any more is removed; 0 if that is done.
    pub prune: Version,
    /// The first upload that was granted to it. Earlier ones are of its bases.
    pub first_upload: UploadId,
    /// What it was cloned from, the nearest first; at most [`nokvfs_types::MAX_BASES`].
    pub bases: Vec<BaseRecord>,
    /// Numbers that it had before rollbacks, as long as snapshots were there; at most
    /// [`nokvfs_types::MAX_SNAPSHOTS`] + 1.
    pub formers: Vec<MountId>,
}

/// A moment of a volume that another one builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseRecord {
    /// The volume's number.
    pub mount: MountId,
    /// The volume's identity: its objects are named by it.
    pub volume: VolumeId,
    /// The moment.
    pub version: Version,
    /// The first upload that was granted to that volume.
    pub first_upload: UploadId,
}

impl Record for VolumeRecord {
    const FAMILY: Family = Family::Volume;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.0.as_bytes());
        put_bytes(out, self.spec.name.as_bytes());
        put_u64(out, self.spec.quota_bytes);
        put_u64(out, self.spec.quota_inodes);
        put_u16(out, self.spec.root_mode);
        put_u32(out, self.spec.root_uid);
        put_u32(out, self.spec.root_gid);
        out.push(match self.state {
            VolumeState::Active => 1,
            VolumeState::Deleting => 2,
            VolumeState::Hidden => 3,
        });
        out.extend_from_slice(&self.token_hash);
        put_u32(out, self.token_epoch);
        put_u64(out, self.pinned.0);
        put_u64(out, self.prune.0);
        put_u64(out, self.first_upload.0);
        put_u16(out, self.bases.len() as u16);
        for base in &self.bases {
            put_u64(out, base.mount.0);
            out.extend_from_slice(base.volume.0.as_bytes());
            put_u64(out, base.version.0);
            put_u64(out, base.first_upload.0);
        }
        put_u16(out, self.formers.len() as u16);
        for former in &self.formers {
            put_u64(out, former.0);
        }
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("volume record", payload);
        let mut record = VolumeRecord {
            id: VolumeId(Uuid::from_bytes(from.array()?)),
            spec: VolumeSpec {
                name: from.string()?,
                quota_bytes: from.u64()?,
                quota_inodes: from.u64()?,
                root_mode: from.u16()?,
                root_uid: from.u32()?,
                root_gid: from.u32()?,
            },
            state: match from.u8()? {
                1 => VolumeState::Active,
                2 => VolumeState::Deleting,
                3 => VolumeState::Hidden,
                _ => return Err(from.corrupt()),
            },
            token_hash: from.array()?,
            token_epoch: from.u32()?,
            pinned: Version(0),
            prune: Version(0),
            first_upload: UploadId(1),
            bases: Vec::new(),
            formers: Vec::new(),
        };
        if from.is_end() {
            // Written before there were snapshots.
            return from.finish(record);
        }
        record.pinned = Version(from.u64()?);
        record.prune = Version(from.u64()?);
        record.first_upload = UploadId(from.u64()?);
        for _ in 0..from.u16()? {
            record.bases.push(BaseRecord {
                mount: MountId(from.u64()?),
                volume: VolumeId(Uuid::from_bytes(from.array()?)),
                version: Version(from.u64()?),
                first_upload: UploadId(from.u64()?),
            });
        }
        for _ in 0..from.u16()? {
            record.formers.push(MountId(from.u64()?));
        }
        from.finish(record)
    }
}

macro_rules! mount_reference {
    ($(#[$doc:meta])* $name:ident, $family:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The volume's number.
            pub mount: MountId,
        }

        impl Record for $name {
            const FAMILY: Family = Family::$family;

            fn encode(&self, out: &mut Vec<u8>) {
                put_u64(out, self.mount.0);
            }

            fn decode(payload: &[u8]) -> MetaResult<Self> {
                let mut from = Reader::new($what, payload);
                let record = $name { mount: MountId(from.u64()?) };
                from.finish(record)
            }
        }
    };
}

mount_reference! {
    /// The volume of a name.
    VolumeNameRecord, VolumeName, "volume name record"
}
mount_reference! {
    /// The volume of an identity.
    VolumeUuidRecord, VolumeUuid, "volume identity record"
}

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident, $family:ident, $what:literal, $($(#[$field_doc:meta])* $field:ident),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)+
        }

        impl Record for $name {
            const FAMILY: Family = Family::$family;

            fn encode(&self, out: &mut Vec<u8>) {
                $(put_u64(out, self.$field);)+
            }

            fn decode(payload: &[u8]) -> MetaResult<Self> {
                let mut from = Reader::new($what, payload);
                let record = $name { $($field: from.u64()?,)+ };
                from.finish(record)
            }
        }
    };
}

/// What a volume uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountersRecord {
    /// Mapped bytes.
    pub bytes: u64,
    /// Inodes, the root included.
    pub inodes: u64,
    /// Those of the bytes that are in inodes without links.
    pub orphan_bytes: u64,
    /// Those of the inodes that have no links.
    pub orphan_inodes: u64,
}

impl Record for CountersRecord {
    const FAMILY: Family = Family::Counters;

    fn encode(&self, out: &mut Vec<u8>) {
        for value in [self.bytes, self.inodes, self.orphan_bytes, self.orphan_inodes] {
            put_u64(out, value);
        }
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("counters record", payload);
        let mut record = CountersRecord { bytes: from.u64()?, inodes: from.u64()?, ..CountersRecord::default() };
        if from.is_end() {
            // Written before there were snapshots. What has no links now is counted again as it goes.
            return from.finish(record);
        }
        record.orphan_bytes = from.u64()?;
        record.orphan_inodes = from.u64()?;
        from.finish(record)
    }
}

numbers! {
    /// What a volume gives out next. Neither ever goes back.
    AllocatorRecord, Allocator, "allocator record",
    /// Inode number.
    next_inode,
    /// Upload id.
    next_upload
}
numbers! {
    /// Fences moves of directories: each bumps it.
    TopologyRecord, Topology, "topology record",
    /// Moves so far.
    moves
}

/// The server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    /// Identity: marker objects name it.
    pub uuid: Uuid,
    /// Next volume number.
    pub next_mount: u64,
    /// Next session.
    pub next_session: u64,
    /// Next garbage record.
    pub garbage_seq: u64,
    /// Key of [`super::dentry_hash`].
    pub hash_secret: [u8; 16],
    /// Tokens are derived from it.
    pub token_secret: [u8; 32],
}

impl Record for ServerRecord {
    const FAMILY: Family = Family::Server;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.uuid.as_bytes());
        put_u64(out, self.next_mount);
        put_u64(out, self.next_session);
        put_u64(out, self.garbage_seq);
        out.extend_from_slice(&self.hash_secret);
        out.extend_from_slice(&self.token_secret);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("server record", payload);
        let record = ServerRecord {
            uuid: Uuid::from_bytes(from.array()?),
            next_mount: from.u64()?,
            next_session: from.u64()?,
            garbage_seq: from.u64()?,
            hash_secret: from.array()?,
            token_secret: from.array()?,
        };
        from.finish(record)
    }
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its volume.
    pub mount: MountId,
    /// The client process that holds it; older generations are refused.
    pub generation: u32,
    /// No mutation is allowed in it.
    pub read_only: bool,
    /// The pin that it reads; `None`: the volume as it is.
    pub pin: Option<Version>,
    /// Who the client is, for people.
    pub client: String,
    /// Upload ids that it may still be using: first, and the one after the last.
    pub uploads: Vec<(UploadId, UploadId)>,
    /// When it was opened.
    pub opened: Timestamp,
}

impl Record for SessionRecord {
    const FAMILY: Family = Family::Session;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.mount.0);
        put_u32(out, self.generation);
        out.push(u8::from(self.read_only));
        put_bytes(out, self.client.as_bytes());
        put_u16(out, self.uploads.len() as u16);
        for (first, end) in &self.uploads {
            put_u64(out, first.0);
            put_u64(out, end.0);
        }
        put_time(out, self.opened);
        put_u64(out, self.pin.map_or(0, |pin| pin.0));
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("session record", payload);
        let mount = MountId(from.u64()?);
        let generation = from.u32()?;
        let read_only = from.bool()?;
        let client = from.string()?;
        let count = usize::from(from.u16()?);
        let mut uploads = Vec::with_capacity(count.min(payload.len() / 16));
        for _ in 0..count {
            uploads.push((UploadId(from.u64()?), UploadId(from.u64()?)));
        }
        let opened = from.time()?;
        // Written before there were snapshots, it ends here.
        let pin = if from.is_end() { 0 } else { from.u64()? };
        let pin = Some(Version(pin)).filter(|pin| pin.0 > 0);
        from.finish(SessionRecord { mount, generation, read_only, pin, client, uploads, opened })
    }
}

/// Lets the sessions of a volume be found; the session is in its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionByMountRecord;

impl Record for SessionByMountRecord {
    const FAMILY: Family = Family::SessionByMount;

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        Reader::new("session reference", payload).finish(SessionByMountRecord)
    }
}

/// The last request of a slot and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRecord {
    /// Generation that sent it.
    pub generation: u32,
    /// Its sequence in the slot.
    pub sequence: u64,
    /// Its operation.
    pub op: OpId,
    /// What [`super::encode_reply`] made of the answer.
    pub reply: Bytes,
}

impl Record for SlotRecord {
    const FAMILY: Family = Family::Slot;

    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.generation);
        put_u64(out, self.sequence);
        put_u64(out, self.op.0);
        put_bytes(out, &self.reply);
    }

    fn decode(payload: &[u8]) -> MetaResult<Self> {
        let mut from = Reader::new("slot record", payload);
        let record =
            SlotRecord { generation: from.u32()?, sequence: from.u64()?, op: OpId(from.u64()?), reply: from.bytes()? };
        from.finish(record)
    }
}
