//! Keys: one encoder, big-endian, so that byte order is the order of scans.

use std::hash::Hasher;

use bytes::Bytes;
use nokvfs_types::{InodeId, MetaError, MountId, Name, SessionId, SliceId, UploadId, Version, VolumeId};
use siphasher::sip::SipHasher13;

use crate::service::MetaResult;

/// The store's trees: fixed, because each costs a root frame, and few, because each commit locks those it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tree {
    /// Inodes and what hangs on them; and what records of all trees were. A further tree can't be added to a store that
    /// has a journal.
    Inodes = 0,
    /// Directory entries.
    Entries = 1,
    /// Volumes, sessions, garbage, the server itself.
    Server = 2,
}

impl Tree {
    /// All of them.
    pub const ALL: [Tree; 3] = [Tree::Inodes, Tree::Entries, Tree::Server];

    /// Its name in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Tree::Inodes => "inodes",
            Tree::Entries => "entries",
            Tree::Server => "server",
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Tree> {
        Tree::ALL.into_iter().find(|tree| *tree as u8 == code)
    }
}

/// What a key is of: its first byte. The numbers are on disk: add, never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// [`Key::Inode`].
    Inode = 1,
    /// [`Key::Dentry`].
    Dentry = 2,
    /// [`Key::Chunk`].
    Chunk = 3,
    /// [`Key::Xattr`].
    Xattr = 4,
    /// [`Key::Parent`].
    Parent = 5,
    /// [`Key::Orphan`].
    Orphan = 6,
    /// [`Key::Garbage`].
    Garbage = 7,
    /// [`Key::Volume`].
    Volume = 8,
    /// [`Key::VolumeName`].
    VolumeName = 9,
    /// [`Key::VolumeUuid`].
    VolumeUuid = 10,
    /// [`Key::Counters`].
    Counters = 11,
    /// [`Key::Allocator`].
    Allocator = 12,
    /// [`Key::Server`].
    Server = 13,
    /// [`Key::Session`].
    Session = 14,
    /// [`Key::SessionByMount`].
    SessionByMount = 15,
    /// [`Key::Slot`].
    Slot = 16,
    /// [`Key::Topology`].
    Topology = 17,
    /// [`Key::Pack`].
    Pack = 18,
    /// [`Key::History`].
    History = 19,
    /// [`Key::Pin`].
    Pin = 20,
    /// [`Key::Slice`].
    Slice = 21,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 21] = [
        Family::Inode,
        Family::Dentry,
        Family::Chunk,
        Family::Xattr,
        Family::Parent,
        Family::Orphan,
        Family::Garbage,
        Family::Volume,
        Family::VolumeName,
        Family::VolumeUuid,
        Family::Counters,
        Family::Allocator,
        Family::Server,
        Family::Session,
        Family::SessionByMount,
        Family::Slot,
        Family::Topology,
        Family::Pack,
        Family::History,
        Family::Pin,
        Family::Slice,
    ];

    /// Families of which a pin keeps what was: all that a mount shows.
    pub const VERSIONED: [Family; 5] = [Family::Inode, Family::Dentry, Family::Chunk, Family::Xattr, Family::Parent];

    /// Families whose keys continue with a mount: what a volume's deletion removes.
    pub const OF_MOUNT: [Family; 14] = [
        Family::Inode,
        Family::Dentry,
        Family::Chunk,
        Family::Xattr,
        Family::Parent,
        Family::Orphan,
        Family::Volume,
        Family::Counters,
        Family::Allocator,
        Family::SessionByMount,
        Family::Topology,
        Family::Pack,
        Family::Pin,
        Family::Slice,
    ];

    /// Whether it is of [`Family::VERSIONED`].
    pub const fn is_versioned(self) -> bool {
        matches!(self, Family::Inode | Family::Dentry | Family::Chunk | Family::Xattr | Family::Parent)
    }

    /// The tree that holds it.
    pub const fn tree(self) -> Tree {
        match self {
            Family::Inode | Family::Chunk | Family::Xattr | Family::Parent | Family::Orphan | Family::History => {
                Tree::Inodes
            }
            Family::Dentry => Tree::Entries,
            _ => Tree::Server,
        }
    }

    fn from_code(code: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| *family as u8 == code)
    }
}

/// A record's key.
///
/// The store treats a key as if a zero byte followed it, and is damaged for good when one key plus that zero is a
/// prefix of another. So every component has a fixed width, except the last, which then holds no zero byte. In a key of
/// history a zero byte and a fixed width follow the record's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An inode.
    Inode(MountId, InodeId),
    /// An entry: directory, keyed hash of the name, name.
    Dentry(MountId, InodeId, u64, Name),
    /// The extents of one chunk of a long body.
    Chunk(MountId, InodeId, u32),
    /// An extended attribute by its full name.
    Xattr(MountId, InodeId, Bytes),
    /// One entry of a hard-linked file: inode, directory, hash, name.
    Parent(MountId, InodeId, InodeId, u64, Name),
    /// An inode without links.
    Orphan(MountId, InodeId),
    /// Objects to delete, by a server-wide sequence.
    Garbage(u64),
    /// A volume.
    Volume(MountId),
    /// Finds a volume by name.
    VolumeName(String),
    /// Finds a volume by identity.
    VolumeUuid(VolumeId),
    /// Used bytes and inodes of a volume.
    Counters(MountId),
    /// Next inode and upload of a volume.
    Allocator(MountId),
    /// The server itself; there is one.
    Server,
    /// A session.
    Session(SessionId),
    /// Finds the sessions of a volume.
    SessionByMount(MountId, SessionId),
    /// A session's slot.
    Slot(SessionId, u16),
    /// Fences moves of directories in a volume.
    Topology(MountId),
    /// An object that several files share, by its upload.
    Pack(MountId, UploadId),
    /// What a record was until a commit: the record's key, the commit.
    History(Vec<u8>, Version),
    /// A moment of a volume that is kept, by the commit that made it.
    Pin(MountId, Version),
    /// How many records name a slice that several do.
    Slice(MountId, SliceId),
}

impl Key {
    /// Its family.
    pub fn family(&self) -> Family {
        match self {
            Key::Inode(..) => Family::Inode,
            Key::Dentry(..) => Family::Dentry,
            Key::Chunk(..) => Family::Chunk,
            Key::Xattr(..) => Family::Xattr,
            Key::Parent(..) => Family::Parent,
            Key::Orphan(..) => Family::Orphan,
            Key::Garbage(_) => Family::Garbage,
            Key::Volume(_) => Family::Volume,
            Key::VolumeName(_) => Family::VolumeName,
            Key::VolumeUuid(_) => Family::VolumeUuid,
            Key::Counters(_) => Family::Counters,
            Key::Allocator(_) => Family::Allocator,
            Key::Server => Family::Server,
            Key::Session(_) => Family::Session,
            Key::SessionByMount(..) => Family::SessionByMount,
            Key::Slot(..) => Family::Slot,
            Key::Topology(_) => Family::Topology,
            Key::Pack(..) => Family::Pack,
            Key::History(..) => Family::History,
            Key::Pin(..) => Family::Pin,
            Key::Slice(..) => Family::Slice,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.push(self.family() as u8);
        match self {
            Key::Inode(mount, inode) | Key::Orphan(mount, inode) => put_two(&mut out, mount.0, inode.0),
            Key::Dentry(mount, parent, hash, name) => {
                put_two(&mut out, mount.0, parent.0);
                out.extend_from_slice(&hash.to_be_bytes());
                put_tail(&mut out, name.as_bytes());
            }
            Key::Chunk(mount, inode, chunk) => {
                put_two(&mut out, mount.0, inode.0);
                out.extend_from_slice(&chunk.to_be_bytes());
            }
            Key::Xattr(mount, inode, name) => {
                put_two(&mut out, mount.0, inode.0);
                put_tail(&mut out, name);
            }
            Key::Parent(mount, inode, parent, hash, name) => {
                put_two(&mut out, mount.0, inode.0);
                put_two(&mut out, parent.0, *hash);
                put_tail(&mut out, name.as_bytes());
            }
            Key::Garbage(number) => out.extend_from_slice(&number.to_be_bytes()),
            Key::Volume(mount) | Key::Counters(mount) | Key::Allocator(mount) | Key::Topology(mount) => {
                out.extend_from_slice(&mount.0.to_be_bytes());
            }
            Key::VolumeName(name) => put_tail(&mut out, name.as_bytes()),
            Key::VolumeUuid(id) => out.extend_from_slice(id.0.as_bytes()),
            Key::Server => {}
            Key::Session(session) => out.extend_from_slice(&session.0.to_be_bytes()),
            Key::SessionByMount(mount, session) => put_two(&mut out, mount.0, session.0),
            Key::Pack(mount, upload) => put_two(&mut out, mount.0, upload.0),
            Key::Pin(mount, version) => put_two(&mut out, mount.0, version.0),
            Key::History(key, until) => {
                out.extend_from_slice(key);
                out.push(0);
                out.extend_from_slice(&until.0.to_be_bytes());
            }
            Key::Slice(mount, slice) => {
                put_two(&mut out, mount.0, slice.upload.0);
                out.extend_from_slice(&slice.inode.0.to_be_bytes());
                out.extend_from_slice(&slice.chunk.to_be_bytes());
            }
            Key::Slot(session, slot) => {
                out.extend_from_slice(&session.0.to_be_bytes());
                out.extend_from_slice(&slot.to_be_bytes());
            }
        }
        out
    }

    /// Reads back what [`Key::encode`] wrote.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> MetaResult<Key> {
        let corrupt = || MetaError::Corrupt(format!("key {} has no known shape", hex::encode(bytes)));
        let mut parts = Parts(bytes);
        let code = parts.take::<1>().ok_or_else(corrupt)?[0];
        let family = Family::from_code(code).ok_or_else(corrupt)?;
        let key = decode_parts(family, &mut parts).ok_or_else(corrupt)?;
        if parts.0.is_empty() { Ok(key) } else { Err(corrupt()) }
    }
}

/// The tree of an encoded key.
pub(crate) fn tree_of(key: &[u8]) -> Tree {
    match key.first() {
        Some(1 | 3 | 4 | 5 | 6 | 19) => Tree::Inodes,
        Some(2) => Tree::Entries,
        _ => Tree::Server,
    }
}

fn decode_parts(family: Family, parts: &mut Parts<'_>) -> Option<Key> {
    Some(match family {
        Family::Inode => Key::Inode(parts.mount()?, parts.inode()?),
        Family::Dentry => Key::Dentry(parts.mount()?, parts.inode()?, parts.u64()?, parts.name()?),
        Family::Chunk => Key::Chunk(parts.mount()?, parts.inode()?, u32::from_be_bytes(parts.take()?)),
        Family::Xattr => Key::Xattr(parts.mount()?, parts.inode()?, parts.tail()?.into()),
        Family::Parent => Key::Parent(parts.mount()?, parts.inode()?, parts.inode()?, parts.u64()?, parts.name()?),
        Family::Orphan => Key::Orphan(parts.mount()?, parts.inode()?),
        Family::Garbage => Key::Garbage(parts.u64()?),
        Family::Volume => Key::Volume(parts.mount()?),
        Family::VolumeName => Key::VolumeName(String::from_utf8(parts.tail()?).ok()?),
        Family::VolumeUuid => Key::VolumeUuid(VolumeId(uuid::Uuid::from_bytes(parts.take()?))),
        Family::Counters => Key::Counters(parts.mount()?),
        Family::Allocator => Key::Allocator(parts.mount()?),
        Family::Server => Key::Server,
        Family::Session => Key::Session(SessionId(parts.u64()?)),
        Family::SessionByMount => Key::SessionByMount(parts.mount()?, SessionId(parts.u64()?)),
        Family::Slot => Key::Slot(SessionId(parts.u64()?), u16::from_be_bytes(parts.take()?)),
        Family::Topology => Key::Topology(parts.mount()?),
        Family::Pack => Key::Pack(parts.mount()?, UploadId(parts.u64()?)),
        Family::History => {
            let (key, until) = parts.0.split_last_chunk::<8>()?;
            let (end, key) = key.split_last()?;
            parts.0 = &[];
            let known = *end == 0 && Key::decode(key).ok()?.family().is_versioned();
            known.then(|| Key::History(key.to_vec(), Version(u64::from_be_bytes(*until))))?
        }
        Family::Pin => Key::Pin(parts.mount()?, Version(parts.u64()?)),
        Family::Slice => {
            let (mount, upload, inode) = (parts.mount()?, UploadId(parts.u64()?), parts.inode()?);
            Key::Slice(mount, SliceId { upload, inode, chunk: u32::from_be_bytes(parts.take()?) })
        }
    })
}

fn put_two(out: &mut Vec<u8>, first: u64, second: u64) {
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&second.to_be_bytes());
}

/// Writes a last component without zero bytes: 0 becomes `1 1`, 1 becomes `1 2`. The order of tails stays.
fn put_tail(out: &mut Vec<u8>, tail: &[u8]) {
    if tail.iter().all(|byte| *byte > 1) {
        out.extend_from_slice(tail);
        return;
    }
    for byte in tail {
        if *byte <= 1 {
            out.push(1);
            out.push(byte + 1);
        } else {
            out.push(*byte);
        }
    }
}

struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn mount(&mut self) -> Option<MountId> {
        self.u64().map(MountId)
    }

    fn inode(&mut self) -> Option<InodeId> {
        self.u64().map(InodeId)
    }

    fn tail(&mut self) -> Option<Vec<u8>> {
        let tail = std::mem::take(&mut self.0);
        let mut out = Vec::with_capacity(tail.len());
        let mut bytes = tail.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                0 => return None,
                1 => out.push(bytes.next().filter(|code| matches!(code, 1 | 2))? - 1),
                other => out.push(*other),
            }
        }
        Some(out)
    }

    fn name(&mut self) -> Option<Name> {
        Name::new(self.tail()?).ok()
    }
}

/// A range of keys of one family: all that start with a prefix, from a position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPrefix {
    family: Family,
    bytes: Vec<u8>,
    after: Option<Vec<u8>>,
}

impl KeyPrefix {
    fn new(family: Family, parts: &[u64]) -> Self {
        let mut bytes = Vec::with_capacity(1 + parts.len() * 8);
        bytes.push(family as u8);
        for part in parts {
            bytes.extend_from_slice(&part.to_be_bytes());
        }
        KeyPrefix { family, bytes, after: None }
    }

    /// All of a family.
    pub fn all(family: Family) -> Self {
        KeyPrefix::new(family, &[])
    }

    /// All of a volume in a family of [`Family::OF_MOUNT`].
    pub fn of_mount(family: Family, mount: MountId) -> Self {
        debug_assert!(Family::OF_MOUNT.contains(&family));
        KeyPrefix::new(family, &[mount.0])
    }

    /// The entries of a directory, in cookie order.
    pub fn entries(mount: MountId, dir: InodeId) -> Self {
        KeyPrefix::new(Family::Dentry, &[mount.0, dir.0])
    }

    /// The entries of a directory whose cookie is greater.
    pub fn entries_after(mount: MountId, dir: InodeId, cookie: u64) -> Self {
        let mut prefix = KeyPrefix::entries(mount, dir);
        if cookie > 0 {
            // No key ends here, because names are not empty: this excludes nothing of the next hash.
            let mut after = prefix.bytes.clone();
            after.extend_from_slice(&cookie.saturating_add(1).to_be_bytes());
            prefix.after = Some(after);
        }
        prefix
    }

    /// The chunks of an inode.
    pub fn chunks(mount: MountId, inode: InodeId) -> Self {
        KeyPrefix::new(Family::Chunk, &[mount.0, inode.0])
    }

    /// The chunks of an inode from this one on.
    pub fn chunks_from(mount: MountId, inode: InodeId, chunk: u32) -> Self {
        let mut prefix = KeyPrefix::chunks(mount, inode);
        prefix.after = chunk.checked_sub(1).map(|before| Key::Chunk(mount, inode, before).encode());
        prefix
    }

    /// The extended attributes of an inode.
    pub fn xattrs(mount: MountId, inode: InodeId) -> Self {
        KeyPrefix::new(Family::Xattr, &[mount.0, inode.0])
    }

    /// The recorded entries of a hard-linked inode.
    pub fn parents(mount: MountId, inode: InodeId) -> Self {
        KeyPrefix::new(Family::Parent, &[mount.0, inode.0])
    }

    /// The orphans of a volume.
    pub fn orphans(mount: MountId) -> Self {
        KeyPrefix::of_mount(Family::Orphan, mount)
    }

    /// All garbage, oldest first.
    pub fn garbage() -> Self {
        KeyPrefix::all(Family::Garbage)
    }

    /// All volumes, by mount.
    pub fn volumes() -> Self {
        KeyPrefix::all(Family::Volume)
    }

    /// All volumes, by name.
    pub fn volume_names() -> Self {
        KeyPrefix::all(Family::VolumeName)
    }

    /// All sessions.
    pub fn sessions() -> Self {
        KeyPrefix::all(Family::Session)
    }

    /// The sessions of a volume.
    pub fn sessions_of(mount: MountId) -> Self {
        KeyPrefix::of_mount(Family::SessionByMount, mount)
    }

    /// The slots of a session.
    pub fn slots(session: SessionId) -> Self {
        KeyPrefix::new(Family::Slot, &[session.0])
    }

    /// The packs of a volume from this upload on.
    pub fn packs_from(mount: MountId, upload: UploadId) -> Self {
        let mut prefix = KeyPrefix::of_mount(Family::Pack, mount);
        prefix.after = upload.0.checked_sub(1).map(|before| Key::Pack(mount, UploadId(before)).encode());
        prefix
    }

    /// The pins of a volume, oldest first.
    pub fn pins(mount: MountId) -> Self {
        KeyPrefix::of_mount(Family::Pin, mount)
    }

    /// All that records of a family in a volume were.
    pub fn history_of(family: Family, mount: MountId) -> Self {
        KeyPrefix::of_mount(family, mount).history()
    }

    /// All that one record was.
    pub fn history_of_key(key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(key.len() + 2);
        bytes.push(Family::History as u8);
        bytes.extend_from_slice(key);
        bytes.push(0);
        KeyPrefix { family: Family::History, bytes, after: None }
    }

    /// All that the records of this prefix were.
    pub(crate) fn history(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 1);
        bytes.push(Family::History as u8);
        bytes.extend_from_slice(&self.bytes);
        KeyPrefix { family: Family::History, bytes, after: None }
    }

    /// What it ranges over.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What all its keys start with.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The exclusive lower bound: the greater of its own and the given key.
    pub fn start_after(&self, after: Option<&Key>) -> Option<Vec<u8>> {
        after.map(Key::encode).max(self.after.clone())
    }
}

/// A directory entry's cookie: a keyed hash of its name, 4 to 2^63-1. Keyed, so that nobody can choose names that
/// collide; below 4 are the positions of `.` and `..`.
pub fn dentry_hash(secret: &[u8; 16], name: &Name) -> u64 {
    let mut hasher = SipHasher13::new_with_key(secret);
    hasher.write(name.as_bytes());
    (hasher.finish() >> 1).max(4)
}
