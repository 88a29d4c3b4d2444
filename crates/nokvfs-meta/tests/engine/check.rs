//! Checks: a store that keeps its rules has no findings, whatever is going on; one that breaks a rule has that one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_meta::commit::{Committer, Txn};
use nokvfs_meta::layout::{
    Body, Content, CountersRecord, DentryRecord, Family, HistoryRecord, InodeRecord, Key, KeyPrefix, OrphanRecord,
    PackRecord, ParentRecord, PinRecord, Record, SessionByMountRecord, SliceRecord, Tree, VolumeRecord, XattrRecord,
    open_value, seal_value,
};
use nokvfs_meta::service::{CheckService, MetaResult, MetadataService, SnapshotService, VolumeService};
use nokvfs_meta::store::{Anchor, Base, Batch, Change, Envelope, HoltStore, MetaStore, RawReads};
use nokvfs_object::ObjectStore;
use nokvfs_types::{
    Applied, CheckSpec, CloneSpec, Extent, FileKind, Finding, InodeId, MetaError, MountId, Mutation, NewNode, Publish,
    SessionId, SetAttr, SliceId, Timestamp, Token, UploadId, Version, VolumeInfo, XattrMode,
};

use crate::{Mounted, PATIENCE, World, file, name, node, options, unlink};

const ROOT: InodeId = InodeId::ROOT;
const ALL: CheckSpec = CheckSpec { volume: None, snapshots: true, objects: false };

async fn check(world: &World, spec: CheckSpec) -> MetaResult<Vec<Finding>> {
    static RUN: AtomicU64 = AtomicU64::new(1);
    let (run, mut findings) = (RUN.fetch_add(1, Ordering::Relaxed), Vec::new());
    for step in 0.. {
        let answer = world.engine.check(run, step, spec.clone()).await?;
        findings.extend(answer.findings);
        if answer.done {
            break;
        }
    }
    Ok(findings)
}

/// The rules that are broken.
async fn broken(world: &World, spec: CheckSpec) -> BTreeSet<String> {
    let findings = check(world, spec).await.expect("a check");
    findings.into_iter().map(|finding| finding.rule).collect()
}

async fn reserve(mount: &Mounted, count: u32) -> UploadId {
    match mount.apply(Mutation::ReserveUploads { count, settled: UploadId(0) }).await {
        Applied::Uploads { first, .. } => first,
        other => panic!("no uploads: {other:?}"),
    }
}

fn publish(inode: InodeId, extents: Vec<Extent>) -> Mutation {
    Mutation::Publish(Publish { inode, truncate: None, size: 0, written: Timestamp::now(), extents })
}

fn extent(offset: u64, slice: SliceId) -> Extent {
    Extent { offset, len: 10, slice, slice_offset: 0, slice_len: 10 }
}

/// Uploads and publishes 10 bytes at each offset.
async fn write(world: &World, mount: &Mounted, inode: InodeId, offsets: &[u64]) {
    let first = reserve(mount, offsets.len() as u32).await;
    let mut extents = Vec::new();
    for (number, offset) in offsets.iter().enumerate() {
        let slice = SliceId { upload: UploadId(first.0 + number as u64), inode, chunk: (offset >> 26) as u32 };
        let key = slice.object_key(mount.volume().origin(slice.upload), 0);
        world.objects.put(&key, Bytes::from_static(b"0123456789 and a digest")).await.expect("put");
        extents.push(extent(*offset, slice));
    }
    mount.apply(publish(inode, extents)).await;
}

/// A volume with one of everything, a snapshot and a clone. Inodes 2 to 8 are what `make` makes, in its order.
struct Sample {
    world: World,
    mount: MountId,
    snapshot: Version,
    volume: (VolumeInfo, Token),
}

const DIR: InodeId = InodeId(2);
const PLAIN: InodeId = InodeId(3);
const LINKED: InodeId = InodeId(4);
const CHUNKED: InodeId = InodeId(5);
const PACKED: InodeId = InodeId(6);
const SHARED: InodeId = InodeId(7);
const GONE: InodeId = InodeId(8);

impl Sample {
    async fn new() -> Sample {
        let world = World::new().await;
        let volume = world.volume("v").await;
        let mount = world.mount(&volume).await;
        mount.make(node(ROOT, "d", NewNode::Directory)).await;
        for (parent, text) in
            [(DIR, "plain"), (ROOT, "linked"), (ROOT, "chunked"), (ROOT, "packed"), (DIR, "shared"), (ROOT, "gone")]
        {
            mount.make(file(parent, text)).await;
        }
        mount.apply(Mutation::Link { inode: LINKED, parent: DIR, name: name("again") }).await;
        let xattr = Mutation::SetXattr {
            inode: PLAIN,
            name: Bytes::from_static(b"user.k"),
            value: Bytes::from_static(b"value"),
            mode: XattrMode::Set,
        };
        mount.apply(xattr).await;
        write(&world, &mount, PLAIN, &[0, 100]).await;
        write(&world, &mount, SHARED, &[0]).await;
        let many: Vec<u64> = (0..12).map(|number| number * 10_000_000).collect();
        write(&world, &mount, CHUNKED, &many).await;
        let pack = SliceId::pack(reserve(&mount, 1).await);
        let key = pack.object_key(volume.0.id, 0);
        world.objects.put(&key, Bytes::from_static(b"0123456789 and a digest")).await.expect("put");
        mount.apply(publish(PACKED, vec![extent(0, pack)])).await;
        let snapshot = world.engine.create_snapshot(volume.0.id, "s").await.expect("a snapshot").version;
        // From now on history names what it names, too.
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        mount.apply(Mutation::SetAttr { inode: SHARED, set: set.clone() }).await;
        mount.apply(Mutation::SetAttr { inode: PACKED, set }).await;
        mount.opened(GONE);
        mount.apply(unlink(ROOT, "gone")).await;
        let spec = CloneSpec {
            source: volume.0.id,
            snapshot: Some("s".into()),
            name: "c".into(),
            quota_bytes: 0,
            quota_inodes: 0,
        };
        let clone = world.engine.clone_volume(spec).await.expect("a clone");
        let other = world.mount(&clone).await;
        other.apply(unlink(DIR, "plain")).await;
        write(&world, &other, SHARED, &[50]).await;
        Sample { mount: volume.0.mount, snapshot, world, volume }
    }

    /// Changes records behind the engine's back.
    async fn break_with(&mut self, change: impl Fn(&mut Txn<'_>) -> MetaResult<()> + Send + Sync + 'static) {
        self.world.engine.close().await.expect("close");
        let store = options(self.world.dir.path()).store;
        let (held, committer) = Committer::open(store).expect("the store");
        committer.submit(move |txn| change(txn)).await.expect("written");
        committer.shutdown();
        drop((committer, held));
        self.world.restart().await;
    }

    /// Changes an inode as if it had been written so: it keeps its commit.
    async fn break_inode(&mut self, inode: InodeId, change: fn(&mut InodeRecord)) {
        let key = Key::Inode(self.mount, inode).encode();
        self.break_raw(Tree::Inodes, &key, |value| {
            let (version, payload) = open_value(&key, value).expect("a sound value");
            let mut record = InodeRecord::decode(payload.expect("a record")).expect("an inode");
            change(&mut record);
            let mut payload = Vec::new();
            record.encode(&mut payload);
            seal_value(&key, version, &Content::Record(payload))
        })
        .await;
    }

    /// Changes a value; answers what it was.
    async fn break_raw(&mut self, tree: Tree, key: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        self.world.engine.close().await.expect("close");
        let store = HoltStore::open(options(self.world.dir.path()).store).expect("the store");
        let was = store.get_raw(tree, key).expect("read").expect("a record").value;
        write_raw(&store, tree, key, change(&was));
        store.checkpoint().expect("a checkpoint");
        drop(store);
        self.world.restart().await;
        was
    }

    async fn finds(&self, rules: &[&str]) {
        let found = check(&self.world, ALL).await.expect("a check");
        let names: BTreeSet<&str> = found.iter().map(|finding| finding.rule.as_str()).collect();
        assert_eq!(names, rules.iter().copied().collect(), "{found:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_store_is_clean() {
    let sample = Sample::new().await;
    sample.finds(&[]).await;
    let one = CheckSpec { volume: Some(sample.volume.0.id), snapshots: true, objects: true };
    assert_eq!(check(&sample.world, one).await.expect("a check"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn inodes_that_contradict_what_they_hold_are_found() {
    let mut sample = Sample::new().await;
    sample.break_inode(PLAIN, |record| record.nlink = 2).await;
    sample.finds(&["nlink", "parents"]).await;
    sample.break_inode(PLAIN, |record| record.nlink = 1).await;
    sample.break_inode(PLAIN, |record| record.xattr_bytes += 1).await;
    sample.finds(&["xattr-bytes"]).await;
    sample.break_inode(PLAIN, |record| record.xattr_bytes -= 1).await;
    sample.break_inode(CHUNKED, |record| record.mapped += 1).await;
    sample.finds(&["mapped", "counters"]).await;
    sample.break_inode(CHUNKED, |record| record.mapped -= 1).await;
    sample.break_inode(DIR, |record| record.size += 1).await;
    sample.finds(&["dir-size"]).await;
    sample.break_inode(DIR, |record| record.size -= 1).await;
    sample.break_inode(DIR, |record| record.nlink += 1).await;
    sample.finds(&["dir-nlink"]).await;
    sample.break_inode(DIR, |record| record.nlink -= 1).await;
    sample.break_inode(DIR, |record| record.parent = InodeId(3)).await;
    sample.finds(&["entry"]).await;
    sample.break_inode(DIR, |record| record.parent = ROOT).await;
    sample
        .break_inode(PLAIN, |record| match &mut record.body {
            Body::Inline(extents) => extents.swap(0, 1),
            other => panic!("{other:?}"),
        })
        .await;
    sample.finds(&["body"]).await;
    sample
        .break_inode(PLAIN, |record| match &mut record.body {
            Body::Inline(extents) => {
                extents.swap(0, 1);
                extents[1].slice.upload = UploadId(1 << 40);
            }
            other => panic!("{other:?}"),
        })
        .await;
    // What it named before is named less than counted: the clone unlinked the file, and names it until that is settled.
    sample.finds(&["upload", "slice-named"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_and_what_hangs_on_inodes_are_checked() {
    let mut sample = Sample::new().await;
    let mount = sample.mount;
    let orphan = Key::Orphan(mount, PLAIN);
    let key = orphan.clone();
    sample.break_with(move |txn| txn.put(&key, &OrphanRecord { since: Timestamp(0) })).await;
    // The worker must not be asked to remove it meanwhile: a session that says nothing holds it back.
    sample.finds(&["orphan"]).await;
    sample.break_with(move |txn| txn.delete(&orphan)).await;
    let stray = Key::Xattr(mount, LINKED, Bytes::from_static(b"user.stray"));
    let key = stray.clone();
    sample.break_with(move |txn| txn.put(&key, &XattrRecord { value: Bytes::new() })).await;
    sample.finds(&["stray"]).await;
    sample.break_with(move |txn| txn.delete(&stray)).await;
    let parent = Key::Parent(mount, PLAIN, ROOT, 77, name("nothing"));
    let key = parent.clone();
    sample.break_with(move |txn| txn.put(&key, &ParentRecord)).await;
    sample.finds(&["stray"]).await;
    sample.break_with(move |txn| txn.delete(&parent)).await;
    // An entry under a hash that is not its name's, of an inode that is not there.
    let entry = Key::Dentry(mount, ROOT, 77, name("nothing"));
    let key = entry.clone();
    sample.break_with(move |txn| txn.put(&key, &DentryRecord { inode: InodeId(900), kind: FileKind::File })).await;
    sample.finds(&["entry", "dir-size"]).await;
    sample.break_with(move |txn| txn.delete(&entry)).await;
    sample.finds(&[]).await;
    let prefix = KeyPrefix::entries(mount, DIR);
    sample
        .break_with(move |txn| {
            let mut keys = Vec::new();
            txn.scan::<DentryRecord>(&prefix, None, 10, |key, entry| {
                if entry.inode == PLAIN {
                    keys.push(key);
                }
            })?;
            txn.delete(&keys[0])
        })
        .await;
    sample.finds(&["nlink", "dir-size"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_pins_and_sessions_are_checked() {
    let mut sample = Sample::new().await;
    let (mount, snapshot) = (sample.mount, sample.snapshot);
    sample
        .break_with(move |txn| {
            let key = Key::Counters(mount);
            let counters: CountersRecord = txn.get(&key)?.expect("counters");
            txn.put(&key, &CountersRecord { bytes: counters.bytes + 1, ..counters })
        })
        .await;
    sample.finds(&["counters"]).await;
    sample
        .break_with(move |txn| {
            let key = Key::Counters(mount);
            let counters: CountersRecord = txn.get(&key)?.expect("counters");
            txn.put(&key, &CountersRecord { bytes: counters.bytes - 1, ..counters })?;
            let key = Key::Volume(mount);
            let mut volume: VolumeRecord = txn.get(&key)?.expect("a volume");
            volume.pinned.0 += 1;
            txn.put(&key, &volume)
        })
        .await;
    sample.finds(&["volume"]).await;
    sample
        .break_with(move |txn| {
            let key = Key::Volume(mount);
            let mut volume: VolumeRecord = txn.get(&key)?.expect("a volume");
            volume.pinned.0 -= 1;
            txn.put(&key, &volume)?;
            let key = Key::Pin(mount, snapshot);
            let mut pin: PinRecord = txn.get(&key)?.expect("a pin");
            pin.clones += 1;
            pin.bytes += 5;
            txn.put(&key, &pin)
        })
        .await;
    sample.finds(&["pin-clones", "counters"]).await;
    sample
        .break_with(move |txn| {
            let key = Key::Pin(mount, snapshot);
            let mut pin: PinRecord = txn.get(&key)?.expect("a pin");
            pin.clones -= 1;
            pin.bytes -= 5;
            txn.put(&key, &pin)?;
            txn.put(&Key::SessionByMount(mount, SessionId(700)), &SessionByMountRecord)
        })
        .await;
    sample.finds(&["session"]).await;
    sample
        .break_with(move |txn| {
            txn.delete(&Key::SessionByMount(mount, SessionId(700)))?;
            let was = HistoryRecord { version: Version(1 << 40), content: Content::Removed };
            txn.put(&Key::History(Key::Inode(mount, InodeId(900)).encode(), Version((1 << 40) + 5)), &was)
        })
        .await;
    sample.finds(&["history-unneeded"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_references_are_found() {
    let mut sample = Sample::new().await;
    let mount = sample.mount;
    sample
        .break_with(move |txn| {
            let (mut slices, mut packs) = (Vec::new(), Vec::new());
            txn.scan::<SliceRecord>(&KeyPrefix::of_mount(Family::Slice, mount), None, 100, |key, slice| {
                slices.push((key, slice));
            })?;
            txn.scan::<PackRecord>(&KeyPrefix::of_mount(Family::Pack, mount), None, 100, |key, pack| {
                packs.push((key, pack));
            })?;
            assert!(!slices.is_empty() && packs.len() == 1, "{slices:?} {packs:?}");
            for (key, mut slice) in slices {
                slice.named -= 1;
                txn.put(&key, &slice)?;
            }
            for (key, mut pack) in packs {
                pack.named += 1;
                txn.put(&key, &pack)?;
            }
            Ok(())
        })
        .await;
    sample.finds(&["slice-named", "pack-named"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_short_and_lost_objects_are_found() {
    let sample = Sample::new().await;
    let spec = CheckSpec { objects: true, ..ALL };
    let blocks: Vec<_> = sample.world.objects.keys().into_iter().filter(|key| key.starts_with("blocks/")).collect();
    let slice = SliceId { upload: UploadId(9_999_999), inode: PLAIN, chunk: 0 };
    let lost = slice.object_key(sample.volume.0.id, 0);
    sample.world.objects.put(&lost, Bytes::from_static(b"x")).await.expect("put");
    assert_eq!(broken(&sample.world, spec.clone()).await, BTreeSet::from(["object-leak".to_owned()]));
    sample.world.objects.delete(&[lost]).await.expect("deleted");
    for key in &blocks {
        let body = sample.world.objects.get(key, None).await.expect("an object");
        sample.world.objects.delete(std::slice::from_ref(key)).await.expect("deleted");
        let found = check(&sample.world, spec.clone()).await.expect("a check");
        assert!(found.len() == 1 && found[0].rule == "object-missing" && found[0].text.contains(key), "{found:?}");
        sample.world.objects.put(key, body.slice(..5)).await.expect("put");
        assert_eq!(broken(&sample.world, spec.clone()).await, BTreeSet::from(["object-short".to_owned()]));
        sample.world.objects.put(key, body).await.expect("put");
    }
    assert_eq!(check(&sample.world, spec).await.expect("a check"), []);
}

/// Writes a value as it is.
fn write_raw(store: &dyn MetaStore, tree: Tree, key: &[u8], value: Vec<u8>) {
    let (_, previous) = store.journal().expect("the journal");
    let token = store.get_raw(tree, key).expect("read").expect("a record").token;
    let mut digest = previous.digest;
    digest[31] ^= 1;
    let current = Anchor { sequence: previous.sequence + 1, digest };
    let change = Change { tree, key: key.to_vec(), base: Base::Token(token), value: Some(value) };
    let envelope = Envelope { previous, current, payload: vec![0] };
    store.commit(&Batch { guards: Vec::new(), changes: vec![change], envelope }).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_named_and_the_rest_is_checked() {
    let mut sample = Sample::new().await;
    let mount = sample.mount;
    sample
        .break_with(move |txn| {
            let key = Key::Counters(MountId(mount.0 + 1));
            let counters: CountersRecord = txn.get(&key)?.expect("the clone's counters");
            txn.put(&key, &CountersRecord { inodes: counters.inodes + 1, ..counters })
        })
        .await;
    let keys = [
        Key::Inode(mount, PLAIN),
        Key::Chunk(mount, CHUNKED, 1),
        Key::Xattr(mount, PLAIN, Bytes::from_static(b"user.k")),
        Key::Counters(mount),
    ];
    for key in keys {
        let (tree, bytes) = (key.family().tree(), key.encode());
        let flip = |value: &[u8]| {
            let mut bad = value.to_vec();
            let at = bad.len() / 2;
            bad[at] ^= 0x10;
            bad
        };
        let good = sample.break_raw(tree, &bytes, flip).await;
        let found = check(&sample.world, ALL).await.expect("a check");
        let damaged: Vec<_> = found.iter().filter(|finding| finding.rule == "damaged-record").collect();
        assert!(damaged.len() == 1 && damaged[0].text.contains(&format!("{key:?}")), "{key:?}: {found:#?}");
        sample.break_raw(tree, &bytes, |_| good.clone()).await;
    }
    sample.finds(&["counters"]).await;
}

/// Every byte of every record counts.
#[tokio::test(flavor = "multi_thread")]
async fn any_flipped_byte_of_a_value_is_noticed() {
    let mut sample = Sample::new().await;
    sample.world.engine.close().await.expect("close");
    let store = HoltStore::open(options(sample.world.dir.path()).store).expect("the store");
    let mut values = Vec::new();
    for tree in Tree::ALL {
        store
            .scan_raw(tree, &[], None, usize::MAX, &mut |key, value, _| {
                values.push((key.to_vec(), value.to_vec()));
                Ok(true)
            })
            .expect("a scan");
    }
    assert!(values.len() > 50, "{}", values.len());
    for (key, value) in values {
        for at in 0..value.len() {
            let mut bad = value.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(open_value(&key, &bad).is_err(), "byte {at} of {}", hex::encode(&key));
        }
    }
    drop(store);
    sample.world.restart().await;
}

/// Files, links, moves, bodies and removals in one directory, until told to end; counts its rounds.
async fn churn(world: Arc<World>, mount: Arc<Mounted>, number: u64, stop: Arc<AtomicBool>, rounds: Arc<AtomicU64>) {
    let dir = mount.make(node(ROOT, &format!("dir{number}"), NewNode::Directory)).await.inode;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        rounds.fetch_add(1, Ordering::Relaxed);
        let (first, second) = (format!("f{round}"), format!("g{round}"));
        let inode = mount.make(file(dir, &first)).await.inode;
        let many: Vec<u64> = (0..1 + round % 10).map(|number| number * 9_000_000).collect();
        write(&world, &mount, inode, &many).await;
        mount.apply(Mutation::Link { inode, parent: dir, name: name(&second) }).await;
        let sub = mount.make(node(dir, &format!("s{round}"), NewNode::Directory)).await.inode;
        let moved = Mutation::Rename {
            parent: dir,
            name: name(&second),
            new_parent: sub,
            new_name: name("moved"),
            mode: nokvfs_types::RenameMode::Replace,
        };
        mount.apply(moved).await;
        mount.apply(unlink(dir, &first)).await;
        // Few stay, so that a check takes long enough to meet changes and not longer.
        if round % 64 != 0 {
            mount.apply(unlink(sub, "moved")).await;
            mount.apply(Mutation::Rmdir { parent: dir, name: name(&format!("s{round}")) }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_has_no_findings() {
    let world = Arc::new(World::new().await);
    let volume = world.volume("v").await;
    let mount = Arc::new(world.mount(&volume).await);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut work, rounds) = (Vec::new(), Arc::new(AtomicU64::new(0)));
    for number in 0..2 {
        let (world, mount, stop) = (Arc::clone(&world), Arc::clone(&mount), Arc::clone(&stop));
        work.push(tokio::spawn(churn(world, mount, number, stop, Arc::clone(&rounds))));
    }
    let (engine, id, ended) = (Arc::clone(&world.engine), volume.0.id, Arc::clone(&stop));
    let clones = Arc::clone(&world);
    work.push(tokio::spawn(async move {
        for round in 0u64.. {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            let (snapshot, copy) = (format!("s{round}"), format!("c{round}"));
            engine.create_snapshot(id, &snapshot).await.expect("a snapshot");
            let spec =
                CloneSpec { source: id, snapshot: Some(snapshot.clone()), name: copy, quota_bytes: 0, quota_inodes: 0 };
            let clone = engine.clone_volume(spec).await.expect("a clone");
            let other = clones.mount(&clone).await;
            let inode = other.make(file(ROOT, "own")).await.inode;
            write(&clones, &other, inode, &[0, 100]).await;
            other.close().await.expect("closed");
            engine.delete_snapshot(id, &snapshot).await.expect("deleted");
            engine.delete_volume(clone.0.id).await.expect("deleted");
            // One at a time, however slow the disk is: else there are ever more to check.
            let end = Instant::now() + PATIENCE;
            while engine.volume(clone.0.id).await != Err(MetaError::NotFound) {
                assert!(Instant::now() < end, "the clone is not gone in {PATIENCE:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }));
    let mut checks = 0;
    // However fast the checks are, they meet a hundred rounds of changes.
    while checks < 20 || rounds.load(Ordering::Relaxed) < 100 {
        checks += 1;
        let spec = CheckSpec { volume: None, snapshots: true, objects: checks % 2 == 0 };
        let found = check(&world, spec).await.expect("a check");
        assert_eq!(found, [], "check {checks}");
    }
    stop.store(true, Ordering::Relaxed);
    for work in work {
        work.await.expect("no panic");
    }
    let spec = CheckSpec { volume: None, snapshots: true, objects: true };
    assert_eq!(check(&world, spec).await.expect("a check"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_can_be_asked_again_and_one_check_runs_at_a_time() {
    let sample = Sample::new().await;
    let engine = &sample.world.engine;
    assert_eq!(engine.check(5, 3, ALL).await, Err(MetaError::NotFound));
    let first = engine.check(5, 0, ALL).await.expect("a step");
    assert_eq!(engine.check(5, 0, ALL).await.expect("the same"), first);
    assert!(engine.check(5, 9, ALL).await.is_err());
    assert!(first.done);
    assert!(engine.check(6, 0, ALL).await.is_ok());
}
