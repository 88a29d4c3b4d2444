//! What commits that are planned and not durable yet change. Readers ask before they look, because a commit that was
//! answered early may not show in the store, and after, because one that shows may still be lost.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use nokvfs_types::{Event, InodeId, MountId, Name, Version};
use parking_lot::Mutex;

use super::command::MetadataCommand;
use crate::layout::{InodeRecord, Key, Record};

/// The last commit of each inode and name, from planning until it is durable: no more than the commands of the batch
/// that is being written and of the one that is being planned.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    order: VecDeque<(Version, What)>,
    inodes: HashMap<(MountId, InodeId), Version>,
    dirs: HashMap<(MountId, InodeId), Dir>,
}

/// A directory whose names change.
#[derive(Debug)]
struct Dir {
    names: HashMap<Name, Version>,
    /// As the last of the commits leaves it, and that one.
    record: Option<(InodeRecord, Version)>,
}

#[derive(Debug)]
enum What {
    Inode(MountId, InodeId),
    Name(MountId, InodeId, Name),
}

impl Unsettled {
    /// Notes what a command changes. Called in the order of commits.
    pub(crate) fn note(&self, command: &MetadataCommand) {
        let version = command.version;
        let mut state = self.state.lock();
        for (mount, event) in &command.events {
            match event {
                Event::EntrySet { parent, name, inode } => {
                    state.inode(version, *mount, *inode);
                    state.name(command, *mount, *parent, name);
                }
                Event::EntryRemoved { parent, name } => state.name(command, *mount, *parent, name),
                Event::AttrChanged(inode) | Event::BodyChanged(inode) | Event::Unlinked(inode) => {
                    state.inode(version, *mount, *inode);
                }
            }
        }
        self.count.store(state.order.len(), Ordering::Release);
    }

    /// All up to here is durable, or lost.
    pub(crate) fn settle(&self, durable: Version) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        while let Some((version, what)) = state.order.pop_front_if(|(version, _)| *version <= durable) {
            state.forget(version, what);
        }
        self.count.store(state.order.len(), Ordering::Release);
    }

    fn ask<T>(&self, ask: impl FnOnce(&State) -> Option<T>) -> Option<T> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        ask(&self.state.lock())
    }

    /// The last commit that changed an inode otherwise than by changing names in it.
    pub(crate) fn of_inode(&self, mount: MountId, inode: InodeId) -> Option<Version> {
        self.ask(|state| state.inodes.get(&(mount, inode)).copied())
    }

    /// The last commit that set or removed a name.
    pub(crate) fn of_name(&self, mount: MountId, parent: InodeId, name: &Name) -> Option<Version> {
        self.ask(|state| state.dirs.get(&(mount, parent))?.names.get(name).copied())
    }

    /// The last commit that set or removed any name in a directory.
    pub(crate) fn of_names(&self, mount: MountId, parent: InodeId) -> Option<Version> {
        self.ask(|state| state.dirs.get(&(mount, parent))?.names.values().max().copied())
    }

    /// A directory as the last commit that changed its names leaves it, and that commit.
    pub(crate) fn of_dir(&self, mount: MountId, dir: InodeId) -> Option<(InodeRecord, Version)> {
        self.ask(|state| state.dirs.get(&(mount, dir))?.record.clone())
    }
}

impl State {
    fn inode(&mut self, version: Version, mount: MountId, inode: InodeId) {
        self.inodes.insert((mount, inode), version);
        self.order.push_back((version, What::Inode(mount, inode)));
    }

    fn name(&mut self, command: &MetadataCommand, mount: MountId, parent: InodeId, name: &Name) {
        let version = command.version;
        let dir = self.dirs.entry((mount, parent)).or_insert_with(|| Dir { names: HashMap::new(), record: None });
        dir.names.insert(name.clone(), version);
        dir.record = record_of(command, mount, parent).map(|record| (record, version)).or(dir.record.take());
        self.order.push_back((version, What::Name(mount, parent, name.clone())));
    }

    fn forget(&mut self, version: Version, what: What) {
        match what {
            What::Inode(mount, inode) => remove_if(&mut self.inodes, &(mount, inode), version),
            What::Name(mount, parent, name) => {
                if let Some(dir) = self.dirs.get_mut(&(mount, parent)) {
                    remove_if(&mut dir.names, &name, version);
                    if dir.names.is_empty() {
                        self.dirs.remove(&(mount, parent));
                    }
                }
            }
        }
    }
}

/// What a command makes of an inode.
fn record_of(command: &MetadataCommand, mount: MountId, inode: InodeId) -> Option<InodeRecord> {
    let key = Key::Inode(mount, inode).encode();
    let at = command.mutations.binary_search_by(|(changed, _)| changed.cmp(&key)).ok()?;
    let decoded = InodeRecord::decode(command.mutations[at].1.as_ref()?.record()?);
    decoded.inspect_err(|error| tracing::error!(%inode, %error, "a directory that was just planned can't be read")).ok()
}

/// Removes an entry unless a later commit made it.
fn remove_if<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Version>, key: &K, version: Version) {
    if map.get(key) == Some(&version) {
        map.remove(key);
    }
}
