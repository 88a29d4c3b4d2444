//! Golden bytes of every message and frame: what one release writes the next must read. `testdata/frames.txt` holds a
//! line for each; a changed line is a changed wire format. `UPDATE_GOLDEN=1` writes the file anew.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nokvfs_types::*;

use crate::call::{Answer, Call, LockWait, SessionRef};
use crate::{Hello, HelloReply, encode_reply, encode_request};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/frames.txt");

fn session() -> SessionRef {
    SessionRef { session: SessionId(0x1234), generation: 2 }
}

fn volume() -> VolumeId {
    "6f2c8a54-0b1d-4c3e-9f70-a1b2c3d4e5f6".parse().expect("uuid")
}

fn name(text: &str) -> Name {
    Name::try_from(text).expect("name")
}

fn spec() -> VolumeSpec {
    VolumeSpec {
        name: "data.set-1".into(),
        quota_bytes: 1 << 40,
        quota_inodes: 1_000_000,
        root_mode: 0o1777,
        root_uid: 1000,
        root_gid: 100,
    }
}

fn clone() -> CloneSpec {
    CloneSpec { source: volume(), snapshot: Some("s".into()), name: "c".into(), quota_bytes: 5, quota_inodes: 6 }
}

fn snapshot() -> SnapshotInfo {
    let usage = VolumeUsage { bytes: 5, inodes: 6 };
    let created = Timestamp(-7);
    SnapshotInfo { volume: volume(), name: "s".into(), version: Version(8), created, usage, clones: 9 }
}

fn info() -> VolumeInfo {
    let usage = VolumeUsage { bytes: 123_456_789, inodes: 42 };
    VolumeInfo {
        id: volume(),
        mount: MountId(7),
        spec: spec(),
        state: VolumeState::Active,
        usage,
        sessions: 3,
        origins: vec![Origin { first: UploadId(9), volume: volume() }],
    }
}

fn request(resume: Option<(SessionId, u32)>) -> SessionRequest {
    SessionRequest {
        volume: volume(),
        token: Token([0xab; 32]),
        client: "node-1/pod".into(),
        read_only: true,
        snapshot: Some("s".into()),
        resume,
    }
}

fn attr() -> Attr {
    Attr {
        inode: InodeId(99),
        kind: FileKind::File,
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        nlink: 2,
        size: 5_000_000_000,
        mapped: 4_000_000_000,
        rdev: 0,
        atime: Timestamp(-1),
        mtime: Timestamp(1_700_000_000_123_456_789),
        ctime: Timestamp(1_700_000_001_000_000_000),
        btime: Timestamp(0),
        version: Version(77),
    }
}

fn extents() -> Vec<Extent> {
    let slice = SliceId { upload: UploadId(5), inode: InodeId(99), chunk: 1 };
    vec![
        Extent { offset: 64 << 20, len: 4096, slice, slice_offset: 0, slice_len: 8192 },
        Extent { offset: (64 << 20) + 8192, len: 100, slice, slice_offset: 4096, slice_len: 8192 },
    ]
}

fn stamp() -> Stamp {
    Stamp { session: SessionId(0x1234), generation: 2, slot: 255, sequence: 11, op: OpId(0xfeed) }
}

fn check_step() -> CheckStep {
    let finding =
        |severity, volume| Finding { severity, rule: "dir-size".into(), volume, text: "directory 7 has".into() };
    CheckStep {
        findings: vec![finding(Severity::Error, Some(volume())), finding(Severity::Warning, None)],
        phase: "entries".into(),
        looked: 5,
        unsettled: 6,
        done: true,
    }
}

fn mutations() -> Vec<(&'static str, Mutation)> {
    let parent = InodeId::ROOT;
    let create = |node, open_existing| Mutation::Create {
        parent,
        name: name("entry"),
        node,
        mode: 0o644,
        open_existing,
        ack: nokvfs_types::Ack::Durable,
    };
    let rename = |mode| Mutation::Rename { parent, name: name("a"), new_parent: InodeId(8), new_name: name("b"), mode };
    let xattr = |mode| Mutation::SetXattr {
        inode: InodeId(9),
        name: Bytes::from_static(b"user.k"),
        value: Bytes::from_static(b"\0\xff"),
        mode,
    };
    let set = SetAttr {
        mode: Some(0o600),
        uid: Some(0),
        gid: Some(5),
        size: Some(0),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(Timestamp(-5))),
        ctime: Some(Timestamp(6)),
    };
    let special = |kind, rdev| create(NewNode::Special { kind, rdev }, false);
    let publish =
        Publish { inode: InodeId(99), truncate: Some(0), size: 70 << 20, written: Timestamp(8), extents: extents() };
    let fallocate = Fallocate { inode: InodeId(99), offset: 1 << 20, len: 4096, unmap: true, size: 5 << 20 };
    vec![
        ("create_file", create(NewNode::File, true)),
        ("create_directory", create(NewNode::Directory, false)),
        ("create_symlink", create(NewNode::Symlink(Bytes::from_static(b"../\xff")), false)),
        ("create_fifo", special(FileKind::Fifo, 0)),
        ("create_socket", special(FileKind::Socket, 0)),
        ("create_char", special(FileKind::CharDevice, 0x103)),
        ("create_block", special(FileKind::BlockDevice, 0x800)),
        ("link", Mutation::Link { inode: InodeId(9), parent, name: name("l") }),
        ("unlink", Mutation::Unlink { parent, name: name("u") }),
        ("rmdir", Mutation::Rmdir { parent, name: name("r") }),
        ("rename_replace", rename(RenameMode::Replace)),
        ("rename_noreplace", rename(RenameMode::NoReplace)),
        ("rename_exchange", rename(RenameMode::Exchange)),
        ("setattr_all", Mutation::SetAttr { inode: InodeId(9), set }),
        ("setattr_none", Mutation::SetAttr { inode: InodeId(9), set: SetAttr::default() }),
        ("setxattr", xattr(XattrMode::Set)),
        ("setxattr_create", xattr(XattrMode::Create)),
        ("setxattr_replace", xattr(XattrMode::Replace)),
        ("removexattr", Mutation::RemoveXattr { inode: InodeId(9), name: Bytes::from_static(b"user.k") }),
        ("publish", Mutation::Publish(publish)),
        ("fallocate", Mutation::Fallocate(fallocate)),
        ("reserve_uploads", Mutation::ReserveUploads { count: 64, settled: UploadId(3) }),
    ]
}

fn lock(kind: LockKind, lock_type: LockType) -> Lock {
    let range = match kind {
        LockKind::Posix => LockRange { start: 10, end: LockRange::MAX },
        LockKind::Flock | LockKind::Append => LockRange::WHOLE,
    };
    Lock { inode: InodeId(99), owner: LockOwner(u64::MAX - 1), kind, range, lock_type, pid: 4711 }
}

fn wait(place: Option<LockPlace>) -> LockWait {
    LockWait { lock: lock(LockKind::Flock, LockType::Exclusive), op: OpId(0xfeed), place }
}

/// One call of every kind.
pub(crate) fn calls() -> Vec<(&'static str, Call)> {
    let inode = InodeId(99);
    let beat = Heartbeat { open: vec![InodeId(4)], closed: vec![InodeId(5), InodeId(6)] };
    let mut calls = vec![
        ("ping", Call::Ping),
        ("open_session", Call::OpenSession(request(None))),
        ("take_over_session", Call::OpenSession(request(Some((SessionId(0x1234), 1))))),
        ("attach_session", Call::AttachSession(request(Some((SessionId(0x1234), 2))))),
        ("heartbeat", Call::Heartbeat(session(), beat)),
        ("close_session", Call::CloseSession(session())),
        ("lookup", Call::Lookup(session(), InodeId::ROOT, Name::new(&b"caf\xe9"[..]).expect("name"))),
        ("getattr", Call::Getattr(session(), inode)),
        ("readdir", Call::Readdir { session: session(), inode, after: u64::MAX >> 1, limit: 1000, attrs: true }),
        ("readlink", Call::Readlink(session(), inode)),
        ("getxattr", Call::Getxattr(session(), inode, Bytes::from_static(b"user.k"))),
        ("listxattr", Call::Listxattr(session(), inode)),
        ("body", Call::Body(session(), inode, 1 << 40)),
        ("statfs", Call::Statfs(session())),
        ("create_volume", Call::CreateVolume(spec())),
        ("volume", Call::Volume(volume())),
        ("list_volumes", Call::ListVolumes { after: Some("a".into()), limit: 1000 }),
        ("list_volumes_first", Call::ListVolumes { after: None, limit: 1 }),
        ("set_quota", Call::SetQuota { id: volume(), bytes: 1 << 30, inodes: 0 }),
        ("delete_volume", Call::DeleteVolume(volume())),
        ("create_snapshot", Call::CreateSnapshot(volume(), "s".into())),
        ("list_snapshots", Call::ListSnapshots(volume())),
        ("delete_snapshot", Call::DeleteSnapshot(volume(), "s".into())),
        ("clone_volume", Call::CloneVolume(clone())),
        ("clone_volume_now", Call::CloneVolume(CloneSpec { snapshot: None, ..clone() })),
        ("rollback_volume", Call::RollbackVolume(volume(), "s".into())),
        ("set_lock", Call::SetLock(session(), 3, lock(LockKind::Posix, LockType::Exclusive))),
        ("unlock", Call::SetLock(session(), 3, lock(LockKind::Posix, LockType::Unlock))),
        ("append_lock", Call::SetLock(session(), 3, lock(LockKind::Append, LockType::Exclusive))),
        ("test_lock", Call::TestLock(session(), lock(LockKind::Posix, LockType::Shared))),
        ("wait_lock", Call::WaitLock(session(), 3, wait(None))),
        ("wait_lock_again", Call::WaitLock(session(), 3, wait(Some(LockPlace(1 << 50))))),
        ("forget_wait", Call::ForgetWait(session(), inode, OpId(0xfeed))),
        ("sync_locks", Call::SyncLocks(session(), 4, vec![lock(LockKind::Posix, LockType::Shared)])),
        ("check", Call::Check(77, 3, CheckSpec { volume: Some(volume()), snapshots: true, objects: true })),
        ("check_all", Call::Check(77, 0, CheckSpec::default())),
    ];
    let caller = Caller { uid: 1000, gid: 100, groups: [4, 5].into() };
    calls.extend(
        mutations().into_iter().map(|(name, mutation)| (name, Call::Mutate(stamp(), caller.clone(), mutation))),
    );
    calls
}

/// One answer of every kind.
pub(crate) fn answers() -> Vec<(&'static str, Answer)> {
    let grant =
        SessionGrant { session: SessionId(0x1234), generation: 2, volume: info(), expires_ms: 60_000, slots: 256 };
    let entry = |text, kind, attr| DirEntry { name: name(text), inode: InodeId(99), kind, cookie: 1 << 62, attr };
    let entries = vec![entry("f", FileKind::File, Some(attr())), entry("d", FileKind::Directory, None)];
    let deleting = VolumeInfo { state: VolumeState::Deleting, ..info() };
    let held = |pid| {
        let range = LockRange { start: 10, end: 19 };
        Answer::Lock(LockReply::Held(HeldLock { range, lock_type: LockType::Exclusive, pid }))
    };
    let stat = FsStat { used_bytes: 1, total_bytes: 2, used_inodes: 3, total_inodes: u64::MAX };
    vec![
        ("unit", Answer::Unit),
        ("session", Answer::Session(grant)),
        ("heartbeat", Answer::Heartbeat(HeartbeatReply { orphans: vec![InodeId(4)] })),
        ("attr", Answer::Attr(attr())),
        ("page", Answer::Page(DirPage { entries, end: true, parent: InodeId::ROOT })),
        ("data", Answer::Data(Bytes::from_static(b"target"))),
        ("names", Answer::Names(vec![Bytes::from_static(b"user.a"), Bytes::from_static(b"user.b")])),
        ("body", Answer::Body(BodyView { attr: attr(), extents: extents(), complete_to: u64::MAX })),
        ("applied_unit", Answer::Applied(Applied::Unit)),
        ("applied_entry", Answer::Applied(Applied::Entry { attr: attr(), created: true })),
        ("applied_removed", Answer::Applied(Applied::Removed { inode: InodeId(99), nlink: 1 })),
        ("applied_uploads", Answer::Applied(Applied::Uploads { first: UploadId(5), count: 64 })),
        ("stat", Answer::Stat(stat)),
        ("volume", Answer::Volume(deleting)),
        ("created", Answer::Created(info(), Token([0xcd; 32]))),
        ("volumes", Answer::Volumes(vec![info()])),
        ("snapshot", Answer::Snapshot(snapshot())),
        ("snapshots", Answer::Snapshots(vec![snapshot()])),
        ("lock_done", Answer::Lock(LockReply::Done)),
        ("lock_held", held(None)),
        ("lock_held_here", held(Some(4711))),
        ("lock_waiting", Answer::Lock(LockReply::Waiting(LockPlace(1 << 50)))),
        ("lock_recovering", Answer::Lock(LockReply::Recovering)),
        ("check", Answer::Check(check_step())),
    ]
}

/// One error of every kind.
pub(crate) fn errors() -> Vec<MetaError> {
    let text = || "why".to_owned();
    vec![
        MetaError::NotFound,
        MetaError::Exists,
        MetaError::NotDirectory,
        MetaError::IsDirectory,
        MetaError::NotEmpty,
        MetaError::NameTooLong,
        MetaError::Invalid(text()),
        MetaError::NotPermitted,
        MetaError::TooManyLinks,
        MetaError::NoAttribute,
        MetaError::AttributeTooLarge,
        MetaError::TooLarge,
        MetaError::TooFragmented(3),
        MetaError::NoSpace(text()),
        MetaError::QuotaExceeded(text()),
        MetaError::ReadOnly,
        MetaError::SessionExpired(0x1234),
        MetaError::Superseded(3),
        MetaError::Unauthorized(text()),
        MetaError::Busy(text()),
        MetaError::Unavailable(text()),
        MetaError::Deadline(text()),
        MetaError::Corrupt(text()),
        MetaError::Internal(text()),
        MetaError::NotSupported(text()),
        MetaError::Locked,
        MetaError::Deadlock,
        MetaError::NoLocks(text()),
        MetaError::Interrupted,
    ]
}

fn frames() -> Vec<(String, BytesMut)> {
    let mut frames = Vec::new();
    let mut add = |name: String, encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        encode(&mut out);
        frames.push((name, out));
    };
    let hello = Hello { version_min: 1, version_max: 1, features: 0, agent: "nokv-mount/0.1.0".into() };
    add("hello".into(), &|out| hello.encode(out).expect("hello"));
    let accepted = HelloReply {
        version: 1,
        features: 0,
        in_flight: 256,
        request_max: 1 << 20,
        agent: "nokv-server/0.1.0".into(),
        refused: None,
    };
    add("hello_reply".into(), &|out| accepted.encode(out).expect("hello"));
    let refused = HelloReply { refused: Some(MetaError::Unavailable("full".into())), ..accepted.clone() };
    add("hello_refused".into(), &|out| refused.encode(out).expect("hello"));
    for (name, call) in calls() {
        add(format!("call_{name}"), &|out| {
            encode_request(out, 0x0102_0304_0506_0708, Duration::from_millis(30_000), &call).expect("call");
        });
    }
    for (name, answer) in answers() {
        add(format!("answer_{name}"), &|out| encode_reply(out, 1, &Ok(answer.clone())));
    }
    for error in errors() {
        add(format!("error_{}", error.errno()), &|out| encode_reply(out, 2, &Err(error.clone())));
    }
    frames
}

#[test]
fn frames_have_their_golden_bytes() {
    let text: String = frames().iter().map(|(name, bytes)| format!("{name} {}\n", hex::encode(bytes))).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(FILE, &text).expect("write");
    }
    let golden = std::fs::read_to_string(FILE).expect("testdata/frames.txt; make it with UPDATE_GOLDEN=1");
    for (line, (expected, found)) in golden.lines().zip(text.lines()).enumerate() {
        assert_eq!(expected, found, "line {}: the wire format changed", line + 1);
    }
    assert_eq!(golden.lines().count(), text.lines().count());
}
