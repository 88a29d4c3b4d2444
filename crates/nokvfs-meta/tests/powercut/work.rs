//! Numbered commands whose effects follow from their numbers, and what a store holds after so many of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use nokvfs_meta::commit::{Committer, Txn};
use nokvfs_meta::layout::{CountersRecord, DentryRecord, Family, Key, KeyPrefix, XattrRecord};
use nokvfs_meta::service::MetaResult;
use nokvfs_meta::store::{MetaStore, ReadRecords, StoreOptions};
use nokvfs_types::{FileKind, InodeId, MountId, Name};

use crate::disk;
use crate::image::Random;

const MOUNT: MountId = MountId(1);

/// No command has this number: what is read is not what was written.
const NONE: u64 = u64::MAX;

/// What a command does to one key: it names the command, or it goes.
type Effect = (Key, Option<u64>);

/// By key, the number of the command that wrote it last.
pub type State = BTreeMap<Key, u64>;

pub fn open(dir: &Path) -> MetaResult<(Arc<dyn MetaStore>, Committer)> {
    // A short log, so that cuts also meet checkpoints.
    Committer::open(StoreOptions { low_water: 0, wal_limit: 192 << 10, ..StoreOptions::new(dir, 16 << 20) })
}

fn effects(number: u64) -> Vec<Effect> {
    let mut random = Random(number);
    (0..1 + random.below(4))
        .map(|_| {
            let at = random.below(300);
            let key = if random.below(4) == 0 {
                Key::Xattr(MOUNT, InodeId(at % 40), Bytes::from_static(b"user.x"))
            } else {
                Key::Dentry(MOUNT, InodeId(1 + at % 7), at, Name::try_from(format!("n{at}").as_str()).unwrap())
            };
            (key, (random.below(5) > 0).then_some(number))
        })
        .collect()
}

/// Whether a command writes a key.
pub fn writes(number: u64, key: &Key) -> bool {
    effects(number).contains(&(key.clone(), Some(number)))
}

fn value(number: u64) -> Bytes {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + Random(number).below(3000) as usize, number as u8);
    value.into()
}

fn command(txn: &mut Txn<'_>) -> MetaResult<u64> {
    let counters = Key::Counters(MOUNT);
    let number = txn.get::<CountersRecord>(&counters)?.unwrap_or_default().inodes + 1;
    txn.put(&counters, &CountersRecord { inodes: number, ..CountersRecord::default() })?;
    for (key, effect) in effects(number) {
        match (&key, effect) {
            (_, None) => txn.delete(&key)?,
            (Key::Xattr(..), Some(number)) => txn.put(&key, &XattrRecord { value: value(number) })?,
            (_, Some(number)) => txn.put(&key, &DentryRecord { inode: InodeId(number), kind: FileKind::File })?,
        }
    }
    Ok(number)
}

/// Runs so many commands, some at a time, and tells the disk which are acknowledged.
pub fn run(committer: &Committer, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut running = FuturesUnordered::new();
        for at in 0..count {
            running.push(committer.submit(command));
            // Sometimes few share a write, sometimes many.
            while running.len() > at / 32 % 8 {
                disk::told(running.next().await.unwrap().unwrap());
            }
        }
        while let Some(answer) = running.next().await {
            disk::told(answer.unwrap());
        }
        // Behind it the last batch is in the journal's segments, too.
        committer.submit(|_| Ok(())).await.unwrap();
    });
}

/// How many commands a store holds, and what they left.
pub fn read(store: &dyn MetaStore) -> MetaResult<(u64, State)> {
    let count = store.get::<CountersRecord>(&Key::Counters(MOUNT))?.map_or(0, |(counters, _)| counters.inodes);
    let mut state = State::new();
    store.scan::<DentryRecord>(&KeyPrefix::all(Family::Dentry), None, usize::MAX, |key, record, _| {
        state.insert(key, record.inode.0);
    })?;
    store.scan::<XattrRecord>(&KeyPrefix::all(Family::Xattr), None, usize::MAX, |key, record, _| {
        let number = u64::from_le_bytes(record.value[..8].try_into().unwrap());
        state.insert(key, if record.value == value(number) { number } else { NONE });
    })?;
    // Point reads go another way than scans.
    let mut hidden = Vec::new();
    for (key, number) in &mut state {
        if !matches!(key, Key::Dentry(..)) {
            continue;
        }
        match store.get::<DentryRecord>(key)? {
            None => hidden.push(key.clone()),
            Some((record, _)) if record.inode.0 != *number => *number = NONE,
            Some(_) => {}
        }
    }
    state.retain(|key, _| !hidden.contains(key));
    Ok((count, state))
}

/// What commands leave, one after the other.
#[derive(Default)]
pub struct States(Vec<State>);

impl States {
    pub fn after(&mut self, count: u64) -> &State {
        if self.0.is_empty() {
            self.0.push(State::new());
        }
        while self.0.len() as u64 <= count {
            let mut state = self.0.last().unwrap().clone();
            for (key, effect) in effects(self.0.len() as u64) {
                match effect {
                    Some(number) => drop(state.insert(key, number)),
                    None => drop(state.remove(&key)),
                }
            }
            self.0.push(state);
        }
        &self.0[count as usize]
    }
}
