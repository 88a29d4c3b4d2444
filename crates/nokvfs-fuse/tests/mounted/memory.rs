//! A model of the metadata service in memory, so that these tests need no other crate to work. `Volume::new` chooses.

use bytes::Bytes;
use nokvfs_meta::service::*;
use nokvfs_types::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub struct Memory {
    volume: VolumeInfo,
    s: Mutex<S>,
}
#[derive(Debug, Default)]
struct Node {
    attr: Option<Attr>,
    ext: Vec<Extent>,
    target: Bytes,
    kids: BTreeMap<u64, (Name, InodeId)>,
    parent: u64,
    xattr: BTreeMap<Bytes, Bytes>,
}
#[derive(Debug, Default)]
struct S {
    n: BTreeMap<u64, Node>,
    v: u64,
    next: u64,
    up: u64,
}
fn hash(name: &Name) -> u64 {
    use std::hash::*;
    let mut h = std::collections::hash_map::DefaultHasher::new();
    name.as_bytes().hash(&mut h);
    (h.finish() >> 1).max(4)
}
impl S {
    fn a(&mut self, i: InodeId) -> MetaResult<&mut Attr> {
        self.n.get_mut(&i.0).and_then(|n| n.attr.as_mut()).ok_or(MetaError::NotFound)
    }
    fn dir(&mut self, i: InodeId) -> MetaResult<&mut Node> {
        let n = self.n.get_mut(&i.0).ok_or(MetaError::NotFound)?;
        if n.attr.as_ref().unwrap().kind != FileKind::Directory {
            return Err(MetaError::NotDirectory);
        }
        Ok(n)
    }
    fn find(&mut self, p: InodeId, name: &Name) -> MetaResult<InodeId> {
        self.dir(p)?.kids.get(&hash(name)).map(|k| k.1).ok_or(MetaError::NotFound)
    }
    fn touch(&mut self, i: InodeId) {
        self.v += 1;
        let v = self.v;
        let n = self.n.get_mut(&i.0).unwrap();
        let len = n.kids.len() as u64;
        let a = n.attr.as_mut().unwrap();
        a.version = Version(v);
        a.ctime = Timestamp::now();
        if a.kind == FileKind::Directory {
            a.size = len;
            a.mtime = a.ctime;
        }
    }
    fn drop_link(&mut self, i: InodeId) -> u32 {
        let a = self.a(i).unwrap();
        if a.kind == FileKind::Directory {
            a.nlink = 0
        } else {
            a.nlink -= 1
        };
        let l = a.nlink;
        self.touch(i);
        l
    }
    fn recount(&mut self, d: InodeId) {
        let subs: u32 = self.n[&d.0]
            .kids
            .values()
            .filter(|k| self.n[&k.1.0].attr.as_ref().unwrap().kind == FileKind::Directory)
            .count() as u32;
        self.a(d).unwrap().nlink = 2 + subs;
        self.touch(d);
    }
}
impl Memory {
    pub fn new() -> Arc<Self> {
        let spec = VolumeSpec {
            name: "t".into(),
            quota_bytes: 0,
            quota_inodes: 0,
            root_mode: 0o777,
            root_uid: 0,
            root_gid: 0,
        };
        let volume = VolumeInfo {
            id: VolumeId::random(),
            mount: MountId(1),
            spec,
            state: VolumeState::Active,
            usage: VolumeUsage::default(),
            sessions: 1,
        };
        let m = Memory { volume, s: Mutex::default() };
        {
            let mut s = m.s.lock();
            s.next = 1;
            let a = mk(1, FileKind::Directory, 0o755, 0, 0, 1);
            s.n.insert(1, Node { attr: Some(a), parent: 1, ..Default::default() });
        }
        Arc::new(m)
    }
}
fn mk(i: u64, kind: FileKind, mode: u16, uid: u32, gid: u32, v: u64) -> Attr {
    let t = Timestamp::now();
    Attr {
        inode: InodeId(i),
        kind,
        mode,
        uid,
        gid,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        size: 0,
        mapped: 0,
        rdev: 0,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        version: Version(v),
    }
}
#[async_trait::async_trait]
impl MetadataService for Memory {
    fn volume(&self) -> &VolumeInfo {
        &self.volume
    }
    async fn lookup(&self, _: &RequestContext, p: InodeId, name: &Name) -> MetaResult<Attr> {
        let mut s = self.s.lock();
        let i = s.find(p, name)?;
        s.a(i).cloned()
    }
    async fn getattr(&self, _: &RequestContext, i: InodeId) -> MetaResult<Attr> {
        self.s.lock().a(i).cloned()
    }
    async fn readdir(
        &self,
        _: &RequestContext,
        d: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage> {
        tokio::task::yield_now().await;
        let mut s = self.s.lock();
        let n = s.dir(d)?;
        let parent = InodeId(n.parent);
        let v: Vec<_> = n.kids.range(after + 1..).take(limit as usize).map(|(c, (n, i))| (*c, n.clone(), *i)).collect();
        let end = v.len() < limit as usize;
        let entries = v
            .into_iter()
            .map(|(cookie, name, inode)| {
                let a = s.n[&inode.0].attr.clone().unwrap();
                DirEntry { name, inode, kind: a.kind, cookie, attr: attrs.then_some(a) }
            })
            .collect();
        Ok(DirPage { entries, end, parent })
    }
    async fn readlink(&self, _: &RequestContext, i: InodeId) -> MetaResult<Bytes> {
        Ok(self.s.lock().n[&i.0].target.clone())
    }
    async fn getxattr(&self, _: &RequestContext, i: InodeId, n: &[u8]) -> MetaResult<Bytes> {
        self.s.lock().n.get(&i.0).ok_or(MetaError::NotFound)?.xattr.get(n).cloned().ok_or(MetaError::NoAttribute)
    }
    async fn listxattr(&self, _: &RequestContext, i: InodeId) -> MetaResult<Vec<Bytes>> {
        Ok(self.s.lock().n.get(&i.0).ok_or(MetaError::NotFound)?.xattr.keys().cloned().collect())
    }
    async fn body(&self, _: &RequestContext, i: InodeId, from: u64) -> MetaResult<BodyView> {
        let mut s = self.s.lock();
        let attr = s.a(i)?.clone();
        Ok(BodyView {
            attr,
            extents: s.n[&i.0].ext.iter().filter(|e| e.end() > from).copied().collect(),
            complete_to: u64::MAX,
        })
    }
    async fn mutate(&self, ctx: &RequestContext, m: Mutation) -> MetaResult<Applied> {
        tokio::task::yield_now().await;
        let mut g = self.s.lock();
        let s = &mut *g;
        match m {
            Mutation::Create { parent, name, node, mode, open_existing } => {
                if let Ok(i) = s.find(parent, &name) {
                    let a = s.a(i)?.clone();
                    return if open_existing && a.kind == FileKind::File && matches!(node, NewNode::File) {
                        Ok(Applied::Entry { attr: a, created: false })
                    } else {
                        Err(MetaError::Exists)
                    };
                }
                let d = s.dir(parent)?;
                let pa = d.attr.clone().unwrap();
                if pa.nlink == 0 {
                    return Err(MetaError::NotFound);
                }
                s.next += 1;
                s.v += 1;
                let i = s.next;
                let (kind, rdev, target) = match node {
                    NewNode::File => (FileKind::File, 0, Bytes::new()),
                    NewNode::Directory => (FileKind::Directory, 0, Bytes::new()),
                    NewNode::Symlink(t) => (FileKind::Symlink, 0, t),
                    NewNode::Special { kind, rdev } => (kind, rdev, Bytes::new()),
                };
                let mut a = mk(i, kind, mode, ctx.caller.uid, ctx.caller.gid, s.v);
                a.rdev = rdev;
                a.size = target.len() as u64;
                if pa.mode & 0o2000 != 0 {
                    a.gid = pa.gid;
                    if kind == FileKind::Directory {
                        a.mode |= 0o2000
                    }
                }
                s.n.insert(i, Node { attr: Some(a.clone()), target, parent: parent.0, ..Default::default() });
                s.dir(parent)?.kids.insert(hash(&name), (name, InodeId(i)));
                s.recount(parent);
                Ok(Applied::Entry { attr: a, created: true })
            }
            Mutation::Link { inode, parent, name } => {
                if s.find(parent, &name).is_ok() {
                    return Err(MetaError::Exists);
                }
                let a = s.a(inode)?;
                if a.kind == FileKind::Directory {
                    return Err(MetaError::NotPermitted);
                }
                if a.nlink == 0 {
                    return Err(MetaError::NotFound);
                }
                a.nlink += 1;
                s.touch(inode);
                s.dir(parent)?.kids.insert(hash(&name), (name, inode));
                s.recount(parent);
                Ok(Applied::Entry { attr: s.a(inode)?.clone(), created: false })
            }
            Mutation::Unlink { parent, name } => {
                let i = s.find(parent, &name)?;
                if s.a(i)?.kind == FileKind::Directory {
                    return Err(MetaError::IsDirectory);
                }
                s.dir(parent)?.kids.remove(&hash(&name));
                let nlink = s.drop_link(i);
                s.recount(parent);
                Ok(Applied::Removed { inode: i, nlink })
            }
            Mutation::Rmdir { parent, name } => {
                let i = s.find(parent, &name)?;
                if !s.dir(i)?.kids.is_empty() {
                    return Err(MetaError::NotEmpty);
                }
                s.dir(parent)?.kids.remove(&hash(&name));
                s.drop_link(i);
                s.recount(parent);
                Ok(Applied::Removed { inode: i, nlink: 0 })
            }
            Mutation::Rename { parent, name, new_parent, new_name, mode } => {
                let i = s.find(parent, &name)?;
                let old = s.find(new_parent, &new_name).ok();
                let kd = s.a(i)?.kind == FileKind::Directory;
                if kd {
                    let mut up = new_parent.0;
                    while up != 1 {
                        if up == i.0 {
                            return Err(MetaError::Invalid("cycle".into()));
                        }
                        up = s.n[&up].parent;
                    }
                }
                match (mode, old) {
                    (RenameMode::NoReplace, Some(_)) => return Err(MetaError::Exists),
                    (RenameMode::Exchange, None) => return Err(MetaError::NotFound),
                    (RenameMode::Exchange, Some(o)) => {
                        s.dir(parent)?.kids.insert(hash(&name), (name, o));
                        s.dir(new_parent)?.kids.insert(hash(&new_name), (new_name, i));
                        s.n.get_mut(&o.0).unwrap().parent = parent.0;
                        s.n.get_mut(&i.0).unwrap().parent = new_parent.0;
                        s.recount(parent);
                        s.recount(new_parent);
                        s.touch(i);
                        s.touch(o);
                        return Ok(Applied::Unit);
                    }
                    (_, Some(o)) => {
                        if o == i {
                            return Ok(Applied::Unit);
                        }
                        let od = s.a(o)?.kind == FileKind::Directory;
                        if kd && !od {
                            return Err(MetaError::NotDirectory);
                        }
                        if !kd && od {
                            return Err(MetaError::IsDirectory);
                        }
                        if od && !s.dir(o)?.kids.is_empty() {
                            return Err(MetaError::NotEmpty);
                        }
                        s.drop_link(o);
                    }
                    _ => {}
                }
                s.dir(parent)?.kids.remove(&hash(&name));
                s.dir(new_parent)?.kids.insert(hash(&new_name), (new_name, i));
                s.n.get_mut(&i.0).unwrap().parent = new_parent.0;
                s.recount(parent);
                s.recount(new_parent);
                s.touch(i);
                Ok(Applied::Unit)
            }
            Mutation::SetAttr { inode, set } => {
                s.touch(inode);
                let n = s.n.get_mut(&inode.0).unwrap();
                let a = n.attr.as_mut().unwrap();
                let now = Timestamp::now();
                if let Some(m) = set.mode {
                    a.mode = m
                }
                if let Some(u) = set.uid {
                    a.uid = u
                }
                if let Some(g) = set.gid {
                    a.gid = g
                }
                if let Some(z) = set.size {
                    a.size = z;
                    a.mtime = now;
                    n.ext = n.ext.iter().filter_map(|e| e.clip(0, z)).collect();
                    a.mapped = n.ext.iter().map(|e| e.len).sum();
                }
                let t = |x: SetTime| match x {
                    SetTime::Now => now,
                    SetTime::At(t) => t,
                };
                if let Some(x) = set.atime {
                    a.atime = t(x)
                }
                if let Some(x) = set.mtime {
                    a.mtime = t(x)
                }
                Ok(Applied::Entry { attr: a.clone(), created: false })
            }
            Mutation::SetXattr { inode, name, value, mode } => {
                let n = s.n.get_mut(&inode.0).ok_or(MetaError::NotFound)?;
                match (mode, n.xattr.contains_key(&name)) {
                    (XattrMode::Create, true) => return Err(MetaError::Exists),
                    (XattrMode::Replace, false) => return Err(MetaError::NoAttribute),
                    _ => {}
                }
                if value.len() > MAX_XATTR_VALUE {
                    return Err(MetaError::AttributeTooLarge);
                }
                n.xattr.insert(name, value);
                s.touch(inode);
                Ok(Applied::Unit)
            }
            Mutation::RemoveXattr { inode, name } => {
                s.n.get_mut(&inode.0).ok_or(MetaError::NotFound)?.xattr.remove(&name).ok_or(MetaError::NoAttribute)?;
                s.touch(inode);
                Ok(Applied::Unit)
            }
            Mutation::Publish(p) => {
                s.touch(p.inode);
                let n = s.n.get_mut(&p.inode.0).unwrap();
                if let Some(t) = p.truncate {
                    n.ext = n.ext.iter().filter_map(|e| e.clip(0, t)).collect();
                    n.attr.as_mut().unwrap().size = t.min(n.attr.as_ref().unwrap().size);
                }
                let mut laid = Vec::new();
                for old in &n.ext {
                    let mut start = old.offset;
                    for new in &p.extents {
                        laid.extend(old.clip(start, new.offset.max(start)));
                        start = start.max(new.end().min(old.end()).max(old.offset));
                    }
                    laid.extend(old.clip(start, u64::MAX));
                }
                laid.extend(p.extents.iter().copied());
                laid.sort_by_key(|e| e.offset);
                n.ext = laid;
                let a = n.attr.as_mut().unwrap();
                a.size = a.size.max(p.size);
                a.mtime = p.written;
                a.mapped = n.ext.iter().map(|e| e.len).sum();
                Ok(Applied::Entry { attr: a.clone(), created: false })
            }
            Mutation::ReserveUploads { count, .. } => {
                let first = UploadId(s.up + 1);
                s.up += u64::from(count);
                Ok(Applied::Uploads { first, count })
            }
        }
    }
    async fn statfs(&self, _: &RequestContext) -> MetaResult<FsStat> {
        let s = self.s.lock();
        let used_bytes = s.n.values().filter_map(|n| n.attr.as_ref()).map(|a| a.mapped).sum();
        Ok(FsStat { used_bytes, total_bytes: 1 << 40, used_inodes: s.n.len() as u64, total_inodes: 1 << 20 })
    }
    fn opened(&self, _: InodeId) {}
    fn closed(&self, _: InodeId) {}
    async fn close(&self) -> MetaResult<()> {
        Ok(())
    }
}
