//! What a volume is, told as simply as possible: the engine must answer the same.

use std::collections::BTreeMap;

use nokvfs_types::{FileKind, MetaError, RenameMode, SliceId, XattrMode};

/// Sizes are multiples of this.
pub const UNIT: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: FileKind,
    pub mode: u16,
    pub gid: u32,
    pub uid: u32,
    pub nlink: u32,
    pub parent: usize,
    pub entries: BTreeMap<&'static str, usize>,
    pub xattrs: BTreeMap<&'static str, Vec<u8>>,
    /// Per unit of the file: which unit of which slice it is.
    pub content: Vec<Option<(SliceId, u64)>>,
}

impl Node {
    pub fn size(&self) -> u64 {
        match self.kind {
            FileKind::Directory => self.entries.len() as u64,
            FileKind::Symlink => 6,
            _ => self.content.len() as u64 * UNIT,
        }
    }

    pub fn mapped(&self) -> u64 {
        self.content.iter().flatten().count() as u64 * UNIT
    }

    fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// A publish: where each run of units goes, and from where it comes.
#[derive(Clone, Debug)]
pub struct Run {
    pub start: u64,
    pub len: u64,
    pub slice: SliceId,
    pub slice_start: u64,
}

#[derive(Clone, Debug)]
pub struct Reference {
    pub nodes: Vec<Node>,
    pub quota: (u64, u64),
    pub uid: u32,
    pub gid: u32,
}

type Answer<T> = Result<T, MetaError>;

fn invalid<T>() -> Answer<T> {
    Err(MetaError::Invalid(String::new()))
}

fn over<T>() -> Answer<T> {
    Err(MetaError::QuotaExceeded(String::new()))
}

impl Reference {
    pub fn new(root: Node, quota: (u64, u64), uid: u32, gid: u32) -> Self {
        Reference { nodes: vec![root], quota, uid, gid }
    }

    pub fn used(&self) -> (u64, u64) {
        (self.nodes.iter().map(Node::mapped).sum(), self.nodes.len() as u64)
    }

    /// Only what has a name.
    pub fn reachable(&self) -> (u64, u64) {
        let live = || self.nodes.iter().filter(|node| node.nlink > 0);
        (live().map(Node::mapped).sum(), live().count() as u64)
    }

    /// Drops what has no name; answers which nodes are left, in the order that they have now.
    pub fn forget_unnamed(&mut self) -> Vec<usize> {
        let kept: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].nlink > 0).collect();
        let place = |node: &usize| kept.binary_search(node).unwrap_or(usize::MAX);
        let mut nodes: Vec<Node> = kept.iter().map(|node| self.nodes[*node].clone()).collect();
        for node in &mut nodes {
            node.entries.values_mut().for_each(|entry| *entry = place(entry));
            // That of a file is where it was made, which may be gone.
            node.parent = place(&node.parent);
        }
        self.nodes = nodes;
        kept
    }

    fn dir(&self, dir: usize) -> Answer<&Node> {
        match &self.nodes[dir] {
            node if !node.is_dir() => Err(MetaError::NotDirectory),
            node if node.nlink == 0 => Err(MetaError::NotFound),
            node => Ok(node),
        }
    }

    /// The node, and whether it is new.
    pub fn create(
        &mut self,
        parent: usize,
        name: &'static str,
        kind: FileKind,
        mode: u16,
        open_existing: bool,
    ) -> Answer<(usize, bool)> {
        let dir = self.dir(parent)?;
        let set_gid = dir.mode & 0o2000 != 0;
        let dir_gid = dir.gid;
        if let Some(&there) = dir.entries.get(name) {
            if open_existing && kind == FileKind::File && self.nodes[there].kind == FileKind::File {
                return Ok((there, false));
            }
            return Err(MetaError::Exists);
        }
        if self.quota.1 > 0 && self.used().1 >= self.quota.1 {
            return over();
        }
        let is_dir = kind == FileKind::Directory;
        let strip = !is_dir && set_gid && dir_gid != self.gid && mode & 0o2010 == 0o2010;
        let node = Node {
            kind,
            mode: if set_gid && is_dir { mode | 0o2000 } else { mode & if strip { !0o2000 } else { !0 } },
            uid: self.uid,
            gid: if set_gid { dir_gid } else { self.gid },
            nlink: if is_dir { 2 } else { 1 },
            parent,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            content: Vec::new(),
        };
        self.nodes.push(node);
        let made = self.nodes.len() - 1;
        self.nodes[parent].entries.insert(name, made);
        self.nodes[parent].nlink += u32::from(is_dir);
        Ok((made, true))
    }

    pub fn link(&mut self, node: usize, parent: usize, name: &'static str) -> Answer<()> {
        self.dir(parent)?;
        if self.nodes[node].is_dir() {
            return Err(MetaError::NotPermitted);
        }
        if self.nodes[parent].entries.contains_key(name) {
            return Err(MetaError::Exists);
        }
        if self.nodes[node].nlink == 0 {
            return Err(MetaError::NotFound);
        }
        self.nodes[node].nlink += 1;
        self.nodes[parent].entries.insert(name, node);
        Ok(())
    }

    pub fn unlink(&mut self, parent: usize, name: &'static str, want_dir: bool) -> Answer<(usize, u32)> {
        let there = *self.dir(parent)?.entries.get(name).ok_or(MetaError::NotFound)?;
        match (self.nodes[there].is_dir(), want_dir) {
            (true, false) => return Err(MetaError::IsDirectory),
            (false, true) => return Err(MetaError::NotDirectory),
            _ => {}
        }
        if !self.nodes[there].entries.is_empty() {
            return Err(MetaError::NotEmpty);
        }
        self.nodes[parent].entries.remove(name);
        self.drop_link(parent, there);
        Ok((there, self.nodes[there].nlink))
    }

    fn drop_link(&mut self, parent: usize, node: usize) {
        if self.nodes[node].is_dir() {
            self.nodes[node].nlink = 0;
            self.nodes[parent].nlink -= 1;
        } else {
            self.nodes[node].nlink -= 1;
        }
    }

    fn is_below(&self, mut at: usize, top: usize) -> bool {
        while at != top && at != 0 {
            at = self.nodes[at].parent;
        }
        at == top
    }

    pub fn rename(&mut self, from: (usize, &'static str), to: (usize, &'static str), mode: RenameMode) -> Answer<()> {
        self.dir(from.0)?;
        self.dir(to.0)?;
        let moved = *self.nodes[from.0].entries.get(from.1).ok_or(MetaError::NotFound)?;
        let there = self.nodes[to.0].entries.get(to.1).copied();
        match (there, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(MetaError::Exists),
            (None, RenameMode::Exchange) => return Err(MetaError::NotFound),
            (Some(there), _) if there == moved => return Ok(()),
            _ => {}
        }
        let exchange = mode == RenameMode::Exchange;
        if self.nodes[moved].is_dir() && self.is_below(to.0, moved) {
            return invalid();
        }
        if let Some(there) = there {
            if exchange && self.nodes[there].is_dir() && self.is_below(from.0, there) {
                return invalid();
            }
            if !exchange {
                match (self.nodes[moved].is_dir(), self.nodes[there].is_dir()) {
                    (true, false) => return Err(MetaError::NotDirectory),
                    (false, true) => return Err(MetaError::IsDirectory),
                    _ if !self.nodes[there].entries.is_empty() => return Err(MetaError::NotEmpty),
                    _ => self.drop_link(to.0, there),
                }
            }
        }
        self.nodes[from.0].entries.remove(from.1);
        self.place(moved, from.0, to);
        if let Some(there) = there.filter(|_| exchange) {
            self.place(there, to.0, from);
        }
        Ok(())
    }

    fn place(&mut self, node: usize, from: usize, to: (usize, &'static str)) {
        self.nodes[to.0].entries.insert(to.1, node);
        if self.nodes[node].is_dir() {
            self.nodes[from].nlink -= 1;
            self.nodes[to.0].nlink += 1;
            self.nodes[node].parent = to.0;
        }
    }

    pub fn resize(&mut self, node: usize, units: usize) -> Answer<()> {
        match self.nodes[node].kind {
            FileKind::File => {}
            FileKind::Directory => return Err(MetaError::IsDirectory),
            _ => return invalid(),
        }
        self.nodes[node].content.resize(units, None);
        Ok(())
    }

    /// Allocates or unmaps units.
    pub fn fallocate(&mut self, node: usize, from: usize, units: usize, unmap: bool, size: usize) -> Answer<()> {
        if self.nodes[node].kind != FileKind::File {
            return invalid();
        }
        let missing = (units as u64 * UNIT).saturating_sub(self.nodes[node].mapped());
        if !unmap && self.quota.0 > 0 && missing > 0 && self.used().0 + missing > self.quota.0 {
            return over();
        }
        let content = &mut self.nodes[node].content;
        let len = content.len();
        if unmap {
            content[len.min(from)..len.min(from + units)].fill(None);
        }
        content.resize(len.max(size), None);
        Ok(())
    }

    pub fn publish(&mut self, node: usize, truncate: Option<usize>, runs: &[Run], size: usize) -> Answer<()> {
        if self.nodes[node].kind != FileKind::File {
            return invalid();
        }
        let before = self.nodes[node].clone();
        let content = &mut self.nodes[node].content;
        if let Some(units) = truncate {
            content.truncate(units);
        }
        let cut = self.used().0;
        let content = &mut self.nodes[node].content;
        for run in runs {
            let end = (run.start + run.len) as usize;
            content.resize(content.len().max(end), None);
            for unit in 0..run.len {
                content[(run.start + unit) as usize] = Some((run.slice, run.slice_start + unit));
            }
        }
        content.resize(content.len().max(size), None);
        let used = self.used().0;
        if self.quota.0 > 0 && used > cut && used > self.quota.0 {
            self.nodes[node] = before;
            return over();
        }
        Ok(())
    }

    pub fn set_xattr(&mut self, node: usize, name: &'static str, value: Vec<u8>, mode: XattrMode) -> Answer<()> {
        let xattrs = &mut self.nodes[node].xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(MetaError::Exists),
            (XattrMode::Replace, false) => return Err(MetaError::NoAttribute),
            _ => {}
        }
        xattrs.insert(name, value);
        Ok(())
    }

    pub fn remove_xattr(&mut self, node: usize, name: &'static str) -> Answer<()> {
        self.nodes[node].xattrs.remove(name).map(drop).ok_or(MetaError::NoAttribute)
    }
}
