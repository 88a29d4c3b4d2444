//! What a volume, or a snapshot of one, must show.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use nokvfs_meta::LocalService;
use nokvfs_meta::service::MetadataService;
use nokvfs_types::{Attr, FileKind, InodeId, MetaError, SliceId, VolumeId};

use crate::reference::{Node, Reference, UNIT};
use crate::world::context;

pub const XATTRS: [&str; 3] = ["user.one", "user.two", "trusted.three"];

/// A reference, and which inode is which node.
#[derive(Clone, Debug)]
pub struct View {
    pub reference: Reference,
    pub inodes: Vec<InodeId>,
    /// How long each slice is that was ever published here, in units.
    pub lens: BTreeMap<SliceId, u64>,
    /// The volume whose objects a slice's are.
    pub owners: BTreeMap<SliceId, VolumeId>,
}

impl View {
    /// Without what has no name.
    pub fn named(&self) -> View {
        let mut view = self.clone();
        let kept = view.reference.forget_unnamed();
        view.inodes = kept.into_iter().map(|node| self.inodes[node]).collect();
        view
    }

    /// All slices that a file names, with whose they are.
    pub fn slices(&self) -> BTreeSet<(VolumeId, SliceId)> {
        let units = self.reference.nodes.iter().flat_map(|node| node.content.iter().flatten());
        units.map(|(slice, _)| (self.owners[slice], *slice)).collect()
    }

    /// An answer that shows a node is that node.
    pub fn check_attr(&self, node: usize, attr: &Attr) {
        let expected = &self.reference.nodes[node];
        let shown = (attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.mapped);
        let wanted = (
            expected.kind,
            expected.mode,
            expected.uid,
            expected.gid,
            expected.nlink,
            expected.size(),
            expected.mapped(),
        );
        assert_eq!((attr.inode, shown), (self.inodes[node], wanted));
    }

    /// Everything that can be read is what the reference says.
    pub async fn compare(&self, service: &LocalService) {
        for (node, expected) in self.reference.nodes.iter().enumerate() {
            let (ctx, inode) = (context(), self.inodes[node]);
            self.check_attr(node, &service.getattr(&ctx, inode).await.unwrap());
            for name in XATTRS {
                let value = service.getxattr(&ctx, inode, name.as_bytes()).await;
                let wanted = expected.xattrs.get(name).map(|value| Bytes::from(value.clone()));
                assert_eq!(value, wanted.ok_or(MetaError::NoAttribute));
            }
            assert_eq!(service.listxattr(&ctx, inode).await.unwrap().len(), expected.xattrs.len());
            match expected.kind {
                FileKind::Directory => self.compare_dir(service, inode, expected).await,
                FileKind::File => assert_eq!(self.content(service, inode, expected.size()).await, expected.content),
                FileKind::Symlink => assert_eq!(service.readlink(&ctx, inode).await.unwrap(), &b"target"[..]),
                _ => {}
            }
        }
    }

    async fn compare_dir(&self, service: &LocalService, inode: InodeId, expected: &Node) {
        let mut listed = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = service.readdir(&context(), inode, after, 2, true).await.unwrap();
            for entry in page.entries {
                after = entry.cookie;
                let node = self.inodes.iter().position(|inode| *inode == entry.inode).unwrap();
                self.check_attr(node, entry.attr.as_ref().unwrap());
                let found = service.lookup(&context(), inode, &entry.name).await.unwrap();
                assert_eq!(found.inode, entry.inode);
                assert!(listed.insert(entry.name.to_string(), node).is_none());
            }
            if page.end {
                assert_eq!(page.parent, self.inodes[expected.parent]);
                break;
            }
        }
        let wanted: BTreeMap<String, usize> =
            expected.entries.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect();
        assert_eq!(listed, wanted);
    }

    async fn content(&self, service: &LocalService, inode: InodeId, size: u64) -> Vec<Option<(SliceId, u64)>> {
        let mut content = vec![None; (size / UNIT) as usize];
        let (mut from, mut end) = (0, 0);
        loop {
            let view = service.body(&context(), inode, from).await.unwrap();
            for extent in view.extents {
                assert!(extent.offset >= end && extent.end() <= size, "{extent:?} after {end}, size {size}");
                assert_eq!(extent.slice_len, self.lens[&extent.slice] * UNIT);
                end = extent.end();
                for unit in 0..extent.len / UNIT {
                    let at = (extent.offset / UNIT + unit) as usize;
                    content[at] = Some((extent.slice, extent.slice_offset / UNIT + unit));
                }
            }
            if view.complete_to == u64::MAX {
                return content;
            }
            from = view.complete_to;
        }
    }
}
