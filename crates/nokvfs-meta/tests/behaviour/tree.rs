//! A namespace in memory: what POSIX says each operation does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use nokvfs_meta::service::MetaResult;
use nokvfs_types::{Attr, FileKind, InodeId, MAX_XATTR_VALUE, MetaError, RenameMode, XattrMode};

use crate::ROOT;

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    /// Of a file.
    pub size: u64,
    pub parent: InodeId,
    pub entries: BTreeMap<String, InodeId>,
    pub target: Bytes,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// As the engine last showed it after it was touched.
    pub seen: Option<Attr>,
}

impl Node {
    pub fn new(kind: FileKind, mode: u16, uid: u32, gid: u32, parent: InodeId) -> Node {
        Node {
            kind,
            mode,
            uid,
            gid,
            links: 1,
            size: 0,
            parent,
            entries: BTreeMap::new(),
            target: Bytes::new(),
            xattrs: BTreeMap::new(),
            seen: None,
        }
    }
}

/// What an operation does.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    Nothing,
    /// An inode that was there.
    Found(InodeId),
    /// The next new inode.
    Made,
    Removed(InodeId, u32),
    Changed(InodeId),
}

/// The answer, and the inodes that it changes; `true` where mtime moves.
pub type Answer = MetaResult<(Done, Vec<(InodeId, bool)>)>;

#[derive(Debug)]
pub struct Tree {
    pub nodes: BTreeMap<InodeId, Node>,
}

impl Tree {
    pub fn new() -> Tree {
        Tree { nodes: BTreeMap::from([(ROOT, Node::new(FileKind::Directory, 0o755, 7, 8, ROOT))]) }
    }

    pub fn node(&self, inode: InodeId) -> &Node {
        &self.nodes[&inode]
    }

    fn change(&mut self, inode: InodeId) -> &mut Node {
        self.nodes.get_mut(&inode).expect("a node")
    }

    /// The `which`th of all inodes that ever were.
    pub fn any(&self, which: usize) -> InodeId {
        *self.nodes.keys().nth(which % self.nodes.len()).expect("one")
    }

    /// The `which`th of all directories, removed ones too.
    pub fn any_dir(&self, which: usize) -> InodeId {
        let dirs: Vec<_> = self.nodes.iter().filter(|(_, node)| node.kind == FileKind::Directory).collect();
        *dirs[which % dirs.len()].0
    }

    fn is_dir(&self, inode: InodeId) -> bool {
        self.node(inode).kind == FileKind::Directory
    }

    fn live_dir(&self, inode: InodeId) -> MetaResult<&Node> {
        let node = self.nodes.get(&inode).ok_or(MetaError::NotFound)?;
        match node.kind {
            FileKind::Directory if node.links == 0 => Err(MetaError::NotFound),
            FileKind::Directory => Ok(node),
            _ => Err(MetaError::NotDirectory),
        }
    }

    pub fn nlink(&self, inode: InodeId) -> u32 {
        let node = self.node(inode);
        if node.kind != FileKind::Directory || node.links == 0 {
            return node.links;
        }
        2 + node.entries.values().filter(|child| self.is_dir(**child)).count() as u32
    }

    pub fn size(&self, inode: InodeId) -> u64 {
        let node = self.node(inode);
        match node.kind {
            FileKind::Directory => node.entries.len() as u64,
            FileKind::Symlink => node.target.len() as u64,
            _ => node.size,
        }
    }

    /// Inodes that have a name.
    pub fn reachable(&self) -> BTreeSet<InodeId> {
        let mut found = BTreeSet::new();
        let mut open = vec![ROOT];
        while let Some(inode) = open.pop() {
            assert!(self.node(inode).links > 0);
            if found.insert(inode) {
                open.extend(self.node(inode).entries.values());
            } else {
                assert!(!self.is_dir(inode), "the model has a cycle");
            }
        }
        found
    }

    pub fn create(&self, parent: InodeId, name: &str, kind: FileKind, open_existing: bool) -> Answer {
        let dir = self.live_dir(parent)?;
        match dir.entries.get(name) {
            Some(found) if open_existing && kind == FileKind::File && self.node(*found).kind == FileKind::File => {
                Ok((Done::Found(*found), vec![]))
            }
            Some(_) => Err(MetaError::Exists),
            None => Ok((Done::Made, vec![(parent, true)])),
        }
    }

    /// Adds what [`Tree::create`] said would be made.
    pub fn made(&mut self, parent: InodeId, name: &str, inode: InodeId, node: Node) {
        assert!(self.nodes.insert(inode, node).is_none(), "inode {inode} was given out twice");
        self.change(parent).entries.insert(name.into(), inode);
    }

    pub fn link(&mut self, inode: InodeId, parent: InodeId, name: &str) -> Answer {
        let dir = self.live_dir(parent)?;
        if self.is_dir(inode) {
            return Err(MetaError::NotPermitted);
        }
        if dir.entries.contains_key(name) {
            return Err(MetaError::Exists);
        }
        if self.node(inode).links == 0 {
            return Err(MetaError::NotFound);
        }
        self.change(parent).entries.insert(name.into(), inode);
        self.change(inode).links += 1;
        Ok((Done::Changed(inode), vec![(parent, true), (inode, false)]))
    }

    pub fn remove(&mut self, parent: InodeId, name: &str, as_dir: bool) -> Answer {
        let dir = self.live_dir(parent)?;
        let inode = *dir.entries.get(name).ok_or(MetaError::NotFound)?;
        match (as_dir, self.is_dir(inode)) {
            (true, false) => return Err(MetaError::NotDirectory),
            (false, true) => return Err(MetaError::IsDirectory),
            (true, true) if !self.node(inode).entries.is_empty() => return Err(MetaError::NotEmpty),
            _ => {}
        }
        self.change(parent).entries.remove(name);
        self.change(inode).links -= 1;
        Ok((Done::Removed(inode, self.node(inode).links), vec![(parent, true), (inode, false)]))
    }

    /// Whether `above` is `inode` or an ancestor of it.
    fn is_above(&self, above: InodeId, inode: InodeId) -> bool {
        let mut at = inode;
        loop {
            if at == above {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = self.node(at).parent;
        }
    }

    pub fn rename(&mut self, from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> Answer {
        let moved = self.live_dir(from.0)?.entries.get(from.1).copied();
        let there = self.live_dir(to.0)?.entries.get(to.1).copied();
        let moved = moved.ok_or(MetaError::NotFound)?;
        if mode == RenameMode::NoReplace && there.is_some() {
            return Err(MetaError::Exists);
        }
        if mode == RenameMode::Exchange && there.is_none() {
            return Err(MetaError::NotFound);
        }
        if there == Some(moved) {
            return Ok((Done::Nothing, vec![]));
        }
        let exchanged = there.filter(|_| mode == RenameMode::Exchange);
        let inside = |dir: InodeId, place: InodeId| self.is_dir(dir) && self.is_above(dir, place);
        if inside(moved, to.0) || exchanged.is_some_and(|there| inside(there, from.0)) {
            return Err(MetaError::Invalid(String::new()));
        }
        let mut touched = vec![(from.0, true), (to.0, true), (moved, false)];
        if let Some(there) = there {
            touched.push((there, false));
        }
        if let Some(there) = exchanged {
            self.change(from.0).entries.insert(from.1.into(), there);
            self.change(there).parent = from.0;
        } else {
            if let Some(there) = there {
                match (self.is_dir(moved), self.is_dir(there)) {
                    (true, false) => return Err(MetaError::NotDirectory),
                    (false, true) => return Err(MetaError::IsDirectory),
                    (true, true) if !self.node(there).entries.is_empty() => return Err(MetaError::NotEmpty),
                    _ => {}
                }
                self.change(there).links -= 1;
            }
            self.change(from.0).entries.remove(from.1);
        }
        self.change(to.0).entries.insert(to.1.into(), moved);
        self.change(moved).parent = to.0;
        Ok((Done::Nothing, touched))
    }

    pub fn set_size(&mut self, inode: InodeId, size: u64) -> Answer {
        match self.node(inode).kind {
            FileKind::File => self.change(inode).size = size,
            FileKind::Directory => return Err(MetaError::IsDirectory),
            _ => return Err(MetaError::Invalid(String::new())),
        }
        Ok((Done::Changed(inode), vec![(inode, true)]))
    }

    pub fn set_owner(&mut self, inode: InodeId, mode: u16, uid: u32, gid: u32) -> Answer {
        let node = self.change(inode);
        (node.mode, node.uid, node.gid) = (mode, uid, gid);
        Ok((Done::Changed(inode), vec![(inode, false)]))
    }

    pub fn set_xattr(&mut self, inode: InodeId, name: &str, value: Vec<u8>, mode: XattrMode) -> Answer {
        if value.len() > MAX_XATTR_VALUE {
            return Err(MetaError::AttributeTooLarge);
        }
        let xattrs = &mut self.change(inode).xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(MetaError::Exists),
            (XattrMode::Replace, false) => return Err(MetaError::NoAttribute),
            _ => {}
        }
        xattrs.insert(name.into(), value);
        Ok((Done::Nothing, vec![(inode, false)]))
    }

    pub fn remove_xattr(&mut self, inode: InodeId, name: &str) -> Answer {
        self.change(inode).xattrs.remove(name).ok_or(MetaError::NoAttribute)?;
        Ok((Done::Nothing, vec![(inode, false)]))
    }
}
