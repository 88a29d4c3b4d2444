use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::layout::{Content, seal_value};

const START: Anchor = Anchor { sequence: 0, digest: [0; 32] };

/// Keys of several families in two trees, few enough that they meet.
fn key() -> impl Strategy<Value = Key> {
    use nokvfs_types::{InodeId, MountId, Name};
    let id = 1..4u64;
    prop_oneof![
        (id.clone(), id.clone()).prop_map(|(mount, inode)| Key::Inode(MountId(mount), InodeId(inode))),
        (id.clone(), id.clone(), 0..3u32).prop_map(|(mount, inode, chunk)| Key::Chunk(
            MountId(mount),
            InodeId(inode),
            chunk
        )),
        (id.clone(), id.clone(), 4..7u64, "[ab]{1,3}").prop_map(|(mount, dir, hash, name)| {
            Key::Dentry(MountId(mount), InodeId(dir), hash, Name::try_from(name.as_str()).unwrap())
        }),
        (id.clone(), id, vec(0..3u8, 0..4)).prop_map(|(mount, inode, name)| Key::Xattr(
            MountId(mount),
            InodeId(inode),
            name.into()
        )),
    ]
}

#[derive(Clone, Debug)]
struct Step {
    writes: Vec<(Key, Option<Vec<u8>>)>,
    fenced: bool,
    empty: Option<Key>,
    checkpoint: bool,
    reopen: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (key(), proptest::option::weighted(0.7, vec(any::<u8>(), 0..200)));
    (
        vec(write, 1..12),
        any::<bool>(),
        proptest::option::weighted(0.3, key()),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(writes, fenced, empty, checkpoint, reopen)| Step { writes, fenced, empty, checkpoint, reopen })
}

fn batch(store: &dyn MetaStore, step: &Step, sequence: u64) -> Batch {
    let (_, previous) = store.journal().unwrap();
    let mut seen = BTreeSet::new();
    let mut changes = Vec::new();
    for (key, value) in step.writes.iter().filter(|(key, _)| seen.insert(key.clone())) {
        let (tree, key) = (key.family().tree(), key.encode());
        let base = match store.get_raw(tree, &key).unwrap() {
            None if value.is_none() => continue,
            _ if !step.fenced => Base::Unread,
            None => Base::Absent,
            Some(stored) => Base::Token(stored.token),
        };
        let value = value.clone().map(|payload| seal_value(&key, Version(sequence), &Content::Record(payload)));
        changes.push(Change { tree, key, base, value });
    }
    let guards = step.empty.iter().map(|key| {
        let bytes = key.encode();
        Guard::PrefixEmpty { tree: key.family().tree(), prefix: bytes[..17.min(bytes.len())].to_vec() }
    });
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&sequence.to_be_bytes());
    let current = Anchor { sequence: previous.sequence + 1, digest };
    Batch {
        guards: guards.collect(),
        changes,
        envelope: Envelope { previous, current, payload: vec![sequence as u8 | 1] },
    }
}

/// All keys and values of a tree, and what scans from each key on answer.
fn contents(store: &dyn RawReads, tree: Tree) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8], _| {
        all.push((key.to_vec(), value.to_vec()));
        Ok(true)
    };
    store.scan_raw(tree, &[], None, usize::MAX, visit).unwrap();
    all
}

fn same(model: &dyn MetaStore, holt: &dyn MetaStore) {
    for tree in Tree::ALL {
        let all = contents(model, tree);
        assert_eq!(contents(holt, tree), all);
        holt.view(|moment| {
            assert_eq!(contents(moment, tree), all);
            Ok(())
        })
        .unwrap();
        for (key, value) in &all {
            assert_eq!(&holt.get_raw(tree, key).unwrap().unwrap().value, value);
            let after = |store: &dyn MetaStore| {
                let mut keys = Vec::new();
                let visit = &mut |key: &[u8], _: &[u8], _| {
                    keys.push(key.to_vec());
                    Ok(true)
                };
                store.scan_raw(tree, &key[..9], Some(key), 3, visit).unwrap();
                keys
            };
            assert_eq!(after(holt), after(model));
        }
    }
    assert_eq!(holt.journal().unwrap(), model.journal().unwrap());
    let from = model.journal().unwrap().0;
    assert_eq!(holt.envelopes_after(from).unwrap(), model.envelopes_after(from).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn holt_does_what_the_model_does(steps in vec(step(), 1..24)) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { low_water: 0, ..StoreOptions::new(dir.path(), 64 << 20) };
        let holt: Box<dyn MetaStore> = Box::new(HoltStore::open(options).unwrap());
        let model: Box<dyn MetaStore> = Box::new(ModelStore::default());
        prop_assert_eq!(holt.journal().unwrap(), (START, START));
        for (number, step) in steps.iter().enumerate() {
            let sequence = number as u64 + 1;
            let (ours, theirs) = (batch(&*model, step, sequence), batch(&*holt, step, sequence));
            if !ours.changes.is_empty() {
                prop_assert_eq!(holt.commit(&theirs), model.commit(&ours));
            }
            for store in [&*model, &*holt] {
                if step.checkpoint {
                    store.checkpoint().unwrap();
                }
                if step.reopen {
                    store.reopen().unwrap();
                }
            }
        }
        same(&*model, &*holt);
    }
}

#[test]
fn a_stale_token_or_a_full_prefix_fails_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { low_water: 0, ..StoreOptions::new(dir.path(), 64 << 20) };
    let stores: [Box<dyn MetaStore>; 2] =
        [Box::new(HoltStore::open(options).unwrap()), Box::new(ModelStore::default())];
    for store in stores {
        use nokvfs_types::{InodeId, MountId};
        let (one, two) = (Key::Inode(MountId(1), InodeId(1)), Key::Inode(MountId(1), InodeId(2)));
        let write = |key: &Key| Step {
            writes: vec![(key.clone(), Some(vec![1]))],
            fenced: true,
            empty: None,
            checkpoint: false,
            reopen: false,
        };
        let stale = batch(&*store, &write(&one), 1);
        store.commit(&stale).unwrap();
        let mut second = batch(&*store, &write(&two), 2);
        second.changes.push(stale.changes[0].clone());
        assert_eq!(store.commit(&second), Err(CommitError::Guard));
        second.changes.pop();
        second.guards.push(Guard::PrefixEmpty { tree: Tree::Inodes, prefix: one.encode()[..9].to_vec() });
        assert_eq!(store.commit(&second), Err(CommitError::Guard));
        second.guards.clear();
        second.guards.push(Guard::Record { tree: Tree::Inodes, key: one.encode(), base: Base::Absent });
        assert_eq!(store.commit(&second), Err(CommitError::Guard));
        assert!(store.get_raw(Tree::Inodes, &two.encode()).unwrap().is_none());
        second.guards.clear();
        store.commit(&second).unwrap();
        assert!(store.get_raw(Tree::Inodes, &two.encode()).unwrap().is_some());
    }
}

#[test]
fn a_damaged_value_is_reported_and_one_process_holds_the_store() {
    use nokvfs_types::{InodeId, MountId};

    use crate::layout::OrphanRecord;
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { low_water: 0, ..StoreOptions::new(dir.path(), 64 << 20) };
    let store: Box<dyn MetaStore> = Box::new(HoltStore::open(options.clone()).unwrap());
    let key = Key::Orphan(MountId(1), InodeId(9));
    let mut sealed = seal_value(&key.encode(), Version(1), &Content::Record(vec![0; 8]));
    sealed[12] ^= 4;
    let change = Change { tree: Tree::Inodes, key: key.encode(), base: Base::Absent, value: Some(sealed) };
    let current = Anchor { sequence: 1, digest: [1; 32] };
    let envelope = Envelope { previous: START, current, payload: vec![1] };
    store.commit(&Batch { guards: Vec::new(), changes: vec![change], envelope }).unwrap();
    let error = store.get::<OrphanRecord>(&key).unwrap_err();
    assert!(matches!(&error, MetaError::Corrupt(text) if text.contains("Orphan")), "{error}");
    assert!(matches!(store.get::<crate::layout::InodeRecord>(&key), Err(MetaError::Internal(_))));
    assert!(matches!(HoltStore::open(options), Err(MetaError::Unavailable(_))));
}
