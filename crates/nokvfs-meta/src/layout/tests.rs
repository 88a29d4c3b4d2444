use bytes::Bytes;
use nokvfs_types::{
    Applied, Attr, Event, Extent, FileKind, InodeId, MetaError, MountId, Name, OpId, SessionId, SliceId, Timestamp,
    UploadId, Version, VolumeId, VolumeSpec, VolumeState,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn extent(number: u64) -> Extent {
    Extent {
        offset: number * 100,
        len: 100,
        slice: SliceId { upload: UploadId(300 + number), inode: InodeId(5), chunk: 1 },
        slice_offset: 7,
        slice_len: 4 << 20,
    }
}

fn inode(body: Body) -> InodeRecord {
    InodeRecord {
        kind: FileKind::File,
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        nlink: 2,
        size: 1 << 33,
        mapped: 4096,
        rdev: 3,
        atime: Timestamp(-1),
        mtime: Timestamp(2),
        ctime: Timestamp(3),
        btime: Timestamp(4),
        parent: InodeId(9),
        xattr_bytes: 11,
        body,
    }
}

/// The bytes are on users' disks: a change here needs a new format byte and a way to read the old one.
fn golden<R: Record + PartialEq + std::fmt::Debug>(record: R, expected: &str) {
    golden_since(record, expected, None);
}

/// The same of a record that was shorter in an earlier release, and is still read.
fn golden_since<R: Record + PartialEq + std::fmt::Debug>(record: R, expected: &str, earlier: Option<(usize, R)>) {
    let mut payload = Vec::new();
    record.encode(&mut payload);
    assert_eq!(hex::encode(&payload), expected, "{record:?}");
    assert_eq!(R::decode(&payload).unwrap(), record);
    // These end with bytes of any number.
    let open_ended = matches!(R::FAMILY, Family::Xattr | Family::History);
    payload.push(0);
    if !open_ended {
        assert!(R::decode(&payload).is_err(), "a longer payload than {record:?} must be refused");
    }
    for len in 0..payload.len() - 1 {
        if let Some((_, earlier)) = earlier.as_ref().filter(|(short, _)| *short == len) {
            assert_eq!(R::decode(&payload[..len]).unwrap(), *earlier);
        } else if !open_ended {
            assert!(R::decode(&payload[..len]).is_err(), "{len} bytes of {record:?} must be refused");
        }
    }
}

#[test]
fn golden_bytes_of_file_records() {
    golden(
        inode(Body::None),
        "01ed09e803000064000000020000000000000002000000001000000000000003000000ffffffffffffffff02000000000000000300000000000000040000000000000009000000000000000b00000000",
    );
    golden(
        inode(Body::Inline(vec![extent(0), extent(1)])),
        "01ed09e803000064000000020000000000000002000000001000000000000003000000ffffffffffffffff02000000000000000300000000000000040000000000000009000000000000000b0000000102000064ac02050107808080026464ad0205010780808002",
    );
    golden(
        inode(Body::Chunked),
        "01ed09e803000064000000020000000000000002000000001000000000000003000000ffffffffffffffff02000000000000000300000000000000040000000000000009000000000000000b00000002",
    );
    golden(
        inode(Body::Symlink(Bytes::from_static(b"to"))),
        "01ed09e803000064000000020000000000000002000000001000000000000003000000ffffffffffffffff02000000000000000300000000000000040000000000000009000000000000000b0000000302000000746f",
    );
    golden(DentryRecord { inode: InodeId(258), kind: FileKind::Directory }, "020100000000000002");
    golden(ChunkRecord { extents: vec![extent(2)] }, "0100c80164ae0205010780808002");
    golden(XattrRecord { value: Bytes::from_static(b"value") }, "76616c7565");
    golden(ParentRecord, "");
    golden(OrphanRecord { since: Timestamp(5) }, "0500000000000000");
}

#[test]
fn golden_bytes_of_server_records() {
    let id = Uuid::from_bytes(*b"0123456789abcdef");
    let spec =
        VolumeSpec { name: "vol".into(), quota_bytes: 1, quota_inodes: 2, root_mode: 0o755, root_uid: 3, root_gid: 4 };
    let volume = VolumeId(id);
    golden(
        GarbageRecord { mount: MountId(1), volume, slices: vec![(extent(1).slice, 300)] },
        "01000000000000003031323334353637383961626364656601000000ad020501ac02",
    );
    let record = VolumeRecord {
        id: volume,
        spec,
        state: VolumeState::Deleting,
        token_hash: [9; 32],
        token_epoch: 5,
        pinned: Version(6),
        prune: Version(7),
        first_upload: UploadId(8),
        bases: vec![BaseRecord { mount: MountId(9), volume, version: Version(10), first_upload: UploadId(11) }],
        formers: vec![MountId(12)],
    };
    let earlier = VolumeRecord {
        pinned: Version(0),
        prune: Version(0),
        first_upload: UploadId(1),
        bases: Vec::new(),
        formers: Vec::new(),
        ..record.clone()
    };
    golden_since(
        record,
        "3031323334353637383961626364656603000000766f6c01000000000000000200000000000000ed0103000000040000000209090909090909090909090909090909090909090909090909090909090909090500000006000000000000000700000000000000080000000000000001000900000000000000303132333435363738396162636465660a000000000000000b0000000000000001000c00000000000000",
        Some((86, earlier)),
    );
    golden(VolumeNameRecord { mount: MountId(1) }, "0100000000000000");
    golden(VolumeUuidRecord { mount: MountId(2) }, "0200000000000000");
    golden_since(
        CountersRecord { bytes: 1, inodes: 2, orphan_bytes: 3, orphan_inodes: 4 },
        "0100000000000000020000000000000003000000000000000400000000000000",
        Some((16, CountersRecord { bytes: 1, inodes: 2, ..CountersRecord::default() })),
    );
    golden(AllocatorRecord { next_inode: 3, next_upload: 4 }, "03000000000000000400000000000000");
    golden(TopologyRecord { moves: 5 }, "0500000000000000");
    golden(
        ServerRecord {
            uuid: id,
            next_mount: 1,
            next_session: 2,
            garbage_seq: 3,
            hash_secret: [4; 16],
            token_secret: [5; 32],
        },
        "30313233343536373839616263646566010000000000000002000000000000000300000000000000040404040404040404040404040404040505050505050505050505050505050505050505050505050505050505050505",
    );
    let session = SessionRecord {
        mount: MountId(1),
        generation: 2,
        read_only: true,
        pin: Some(Version(4)),
        client: "pod".into(),
        uploads: vec![(UploadId(1), UploadId(9))],
        opened: Timestamp(3),
    };
    let earlier = SessionRecord { pin: None, ..session.clone() };
    golden_since(
        session,
        "0100000000000000020000000103000000706f6401000100000000000000090000000000000003000000000000000400000000000000",
        Some((46, earlier)),
    );
    golden(SessionByMountRecord, "");
    golden(
        SlotRecord { generation: 1, sequence: 2, op: OpId(3), reply: Bytes::from_static(b"r") },
        "01000000020000000000000003000000000000000100000072",
    );
    golden(HistoryRecord { version: Version(1), content: Content::Record(vec![7]) }, "01000000000000000107");
    golden(HistoryRecord { version: Version(1), content: Content::Removed }, "010000000000000002");
    let snapshot = Some(SnapshotRecord { name: "s".into(), created: Timestamp(1) });
    golden(
        PinRecord { snapshot, clones: 2, bytes: 3, inodes: 4, next_inode: 5, next_upload: 6 },
        "0101000000730100000000000000020000000300000000000000040000000000000005000000000000000600000000000000",
    );
    golden(SliceRecord { named: 3, len: 5 << 20 }, "030000000000500000000000");
    golden(PackRecord { owner: SessionId(7), len: 1 << 20, named: 3 }, "07000000000000000000100003000000");
}

#[test]
fn golden_bytes_of_keys_and_values() {
    let name = Name::try_from("n").unwrap();
    let (mount, inode) = (MountId(1), InodeId(2));
    let keys = [
        Key::Inode(mount, inode),
        Key::Dentry(mount, inode, 5, name.clone()),
        Key::Chunk(mount, inode, 3),
        Key::Xattr(mount, inode, Bytes::from_static(b"a\x00\x01")),
        Key::Parent(mount, inode, InodeId(4), 5, name),
        Key::Orphan(mount, inode),
        Key::Garbage(6),
        Key::Volume(mount),
        Key::VolumeName("v".into()),
        Key::VolumeUuid(VolumeId(Uuid::from_bytes(*b"0123456789abcdef"))),
        Key::Counters(mount),
        Key::Allocator(mount),
        Key::Server,
        Key::Session(SessionId(7)),
        Key::SessionByMount(mount, SessionId(7)),
        Key::Slot(SessionId(7), 8),
        Key::Topology(mount),
        Key::Pack(mount, UploadId(258)),
        Key::History(Key::Chunk(mount, inode, 3).encode(), Version(9)),
        Key::Pin(mount, Version(9)),
        Key::Slice(mount, SliceId { upload: UploadId(4), inode, chunk: 3 }),
    ];
    let encoded: Vec<String> = keys.iter().map(|key| hex::encode(key.encode())).collect();
    assert_eq!(
        encoded.join(" "),
        "0100000000000000010000000000000002 020000000000000001000000000000000200000000000000056e 030000000000000001000000000000000200000003 04000000000000000100000000000000026101010102 0500000000000000010000000000000002000000000000000400000000000000056e 0600000000000000010000000000000002 070000000000000006 080000000000000001 0976 0a30313233343536373839616263646566 0b0000000000000001 0c0000000000000001 0d 0e0000000000000007 0f00000000000000010000000000000007 1000000000000000070008 110000000000000001 1200000000000000010000000000000102 13030000000000000001000000000000000200000003000000000000000009 1400000000000000010000000000000009 1500000000000000010000000000000004000000000000000200000003"
    );
    let value = seal_value(&keys[0].encode(), Version(9), &Content::Record(b"payload".to_vec()));
    assert_eq!(hex::encode(&value), "0109000000000000007061796c6f61640c8786b8");
    assert_eq!(open_value(&keys[0].encode(), &value).unwrap(), (Version(9), Some(&b"payload"[..])));
    let removed = seal_value(&keys[0].encode(), Version(9), &Content::Removed);
    assert_eq!(open_value(&keys[0].encode(), &removed).unwrap(), (Version(9), None));
    assert!(open_value(&keys[1].encode(), &value).is_err(), "another key's value must be refused");
}

#[test]
fn the_hash_of_a_name_never_changes() {
    let hash = |name: &str| dentry_hash(&[3; 16], &Name::try_from(name).unwrap());
    assert_eq!(format!("{:x} {:x}", hash("a"), hash("checkpoint-000001.pt")), "3df797f4c38c185e 51b9e6970bc14b4c");
}

fn attr() -> Attr {
    Attr {
        inode: InodeId(1),
        kind: FileKind::Socket,
        mode: 0o7777,
        uid: 1,
        gid: 2,
        nlink: 3,
        size: 4,
        mapped: 5,
        rdev: 6,
        atime: Timestamp(7),
        mtime: Timestamp(8),
        ctime: Timestamp(9),
        btime: Timestamp(i64::MIN),
        version: Version(u64::MAX),
    }
}

#[test]
fn replies_come_back_and_fit_a_slot() {
    let long = "\u{e9}".repeat(2000);
    let mut replies = vec![
        Ok(Applied::Unit),
        Ok(Applied::Entry { attr: attr(), created: true }),
        Ok(Applied::Removed { inode: InodeId(2), nlink: 1 }),
        Ok(Applied::Uploads { first: UploadId(4), count: 5 }),
    ];
    replies.extend(
        [
            MetaError::NotFound,
            MetaError::Exists,
            MetaError::NotDirectory,
            MetaError::IsDirectory,
            MetaError::NotEmpty,
            MetaError::NameTooLong,
            MetaError::Invalid("text".into()),
            MetaError::NotPermitted,
            MetaError::TooManyLinks,
            MetaError::NoAttribute,
            MetaError::AttributeTooLarge,
            MetaError::TooLarge,
            MetaError::TooFragmented(7),
            MetaError::NoSpace("a".into()),
            MetaError::QuotaExceeded("b".into()),
            MetaError::ReadOnly,
            MetaError::SessionExpired(8),
            MetaError::Superseded(9),
            MetaError::Unauthorized("c".into()),
            MetaError::Busy("d".into()),
            MetaError::Unavailable("e".into()),
            MetaError::Deadline("f".into()),
            MetaError::Corrupt("g".into()),
            MetaError::Internal("h".into()),
        ]
        .map(Err),
    );
    for reply in replies {
        let bytes = encode_reply(&reply);
        assert!(bytes.len() <= MAX_REPLY);
        assert_eq!(decode_reply(&bytes).unwrap(), reply);
    }
    let bytes = encode_reply(&Err(MetaError::Invalid(long.clone())));
    assert!(bytes.len() <= MAX_REPLY);
    assert!(matches!(decode_reply(&bytes).unwrap(), Err(MetaError::Invalid(text)) if long.starts_with(&text)));
}

#[test]
fn events_come_back() {
    let name = Name::try_from("name").unwrap();
    let events = [
        Event::EntrySet { parent: InodeId(1), name: name.clone(), inode: InodeId(2) },
        Event::EntryRemoved { parent: InodeId(1), name },
        Event::AttrChanged(InodeId(3)),
        Event::BodyChanged(InodeId(4)),
        Event::Unlinked(InodeId(5)),
    ];
    let mut bytes = Vec::new();
    events.iter().for_each(|event| encode_event(&mut bytes, event));
    let mut from = Reader::new("events", &bytes);
    let back: Vec<Event> = events.iter().map(|_| decode_event(&mut from).unwrap()).collect();
    assert_eq!(back, events);
    from.finish(()).unwrap();
}

#[test]
fn an_extent_of_the_largest_numbers_stays_below_96_bytes() {
    let max = u64::MAX;
    let slice = SliceId { upload: UploadId(max), inode: InodeId(max), chunk: u32::MAX };
    let extent = Extent { offset: max, len: max, slice, slice_offset: max, slice_len: max };
    let mut bytes = Vec::new();
    ChunkRecord { extents: vec![extent] }.encode(&mut bytes);
    assert!(bytes.len() <= 96, "{}", bytes.len());
    assert_eq!(ChunkRecord::decode(&bytes).unwrap().extents, [extent]);
}

fn any_name() -> impl Strategy<Value = Name> {
    // Bytes around the escapes are the interesting ones.
    vec(prop_oneof![1..4u8, any::<u8>()], 1..8).prop_filter_map("not a name", |bytes| Name::new(bytes).ok())
}

fn any_key() -> impl Strategy<Value = Key> {
    let id = prop_oneof![0..3u64, any::<u64>()];
    let text = vec(prop_oneof![0..3u8, any::<u8>()], 0..6);
    (0..21usize, id.clone(), id.clone(), id.clone(), id, any_name(), text).prop_map(|(kind, a, b, c, d, name, text)| {
        let (mount, inode, session) = (MountId(a), InodeId(b), SessionId(b));
        match kind {
            0 => Key::Inode(mount, inode),
            1 => Key::Dentry(mount, inode, c, name),
            2 => Key::Chunk(mount, inode, c as u32),
            3 => Key::Xattr(mount, inode, text.into()),
            4 => Key::Parent(mount, inode, InodeId(c), d, name),
            5 => Key::Orphan(mount, inode),
            6 => Key::Garbage(a),
            7 => Key::Volume(mount),
            8 => Key::VolumeName(String::from_utf8_lossy(&text).into_owned()),
            9 => Key::VolumeUuid(VolumeId(Uuid::from_u64_pair(a, b))),
            10 => Key::Counters(mount),
            11 => Key::Allocator(mount),
            12 => Key::Server,
            13 => Key::Session(session),
            14 => Key::SessionByMount(mount, session),
            15 => Key::Slot(session, c as u16),
            16 => Key::Topology(mount),
            17 => Key::Pack(mount, UploadId(c)),
            18 => Key::Pin(mount, Version(c)),
            19 => Key::Slice(mount, SliceId { upload: UploadId(c), inode, chunk: d as u32 }),
            _ => {
                let key = match b % 3 {
                    0 => Key::Inode(mount, InodeId(d)),
                    1 => Key::Dentry(mount, InodeId(d), c, name),
                    _ => Key::Xattr(mount, InodeId(d), text.into()),
                };
                Key::History(key.encode(), Version(c))
            }
        }
    })
}

proptest! {
    #[test]
    fn keys_come_back_and_never_poison_the_store(keys in vec(any_key(), 2..40)) {
        for one in &keys {
            let bytes = one.encode();
            prop_assert_eq!(&Key::decode(&bytes).unwrap(), one);
            prop_assert_eq!(tree_of(&bytes), one.family().tree());
            for other in keys.iter().filter(|other| *other != one) {
                let mut poison = bytes.clone();
                poison.push(0);
                prop_assert!(!other.encode().starts_with(&poison), "{:?} beside {:?}", one, other);
                prop_assert_ne!(other.encode(), bytes.clone());
            }
        }
    }

    #[test]
    fn tails_that_differ_by_zeros_stay_apart(tail in vec(0..3u8, 0..4), more in vec(0..3u8, 1..4)) {
        let key = |tail: &[u8]| Key::Xattr(MountId(1), InodeId(1), tail.to_vec().into()).encode();
        let mut poison = key(&tail);
        poison.push(0);
        prop_assert!(!key(&[tail, more].concat()).starts_with(&poison));
    }

    #[test]
    fn packs_are_found_from_their_upload_on(first in 0..5u64, upload in 0..10u64) {
        let prefix = KeyPrefix::packs_from(MountId(1), UploadId(first));
        let key = Key::Pack(MountId(1), UploadId(upload)).encode();
        prop_assert!(key.starts_with(prefix.bytes()));
        let follows = prefix.start_after(None).is_none_or(|after| key > after);
        prop_assert_eq!(follows, upload >= first);
    }

    #[test]
    fn damage_of_a_value_is_found(payload in vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut value = seal_value(b"key", Version(3), &Content::Record(payload));
        let at = at.index(value.len());
        value[at] ^= 1 << bit;
        prop_assert!(open_value(b"key", &value).is_err());
    }

    #[test]
    fn a_listing_continues_after_its_cookie(hash in 4..100u64, cookie in 0..110u64, name in any_name()) {
        let key = Key::Dentry(MountId(1), InodeId(1), hash, name);
        let prefix = KeyPrefix::entries_after(MountId(1), InodeId(1), cookie);
        let follows = prefix.start_after(None).is_none_or(|after| key.encode() > after);
        prop_assert_eq!(follows, hash > cookie);
    }
}
