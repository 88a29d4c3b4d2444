//! Random operations on a namespace, each answer and the whole tree against [`crate::tree`].

use std::collections::BTreeMap;

use bytes::Bytes;
use nokvfs_meta::service::{MetaResult, MetadataService};
use nokvfs_types::{Ack, Applied, FileKind, InodeId, MetaError, Mutation, NewNode, RenameMode, SetAttr, XattrMode};
use proptest::prelude::*;

use crate::tree::{Answer, Done, Node, Tree};
use crate::{Mounted, ROOT, World, cases, context, name, runtime, until};

const NAMES: [&str; 5] = ["a", "b", "c", "\u{e9} \n", "x\u{1}y"];
const XATTRS: [&str; 2] = ["user.one", "trusted.two"];

/// An operation; numbers pick one of what there is then.
#[derive(Clone, Debug)]
enum Op {
    Create { dir: usize, name: usize, kind: usize, mode: u16, open: bool },
    Link { inode: usize, dir: usize, name: usize },
    Unlink { dir: usize, name: usize },
    Rmdir { dir: usize, name: usize },
    Rename { from: (usize, usize), to: (usize, usize), mode: usize },
    Size { inode: usize, size: u64 },
    Owner { inode: usize, mode: u16, uid: u32, gid: u32 },
    SetXattr { inode: usize, name: usize, len: usize, mode: usize },
    RemoveXattr { inode: usize, name: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (some, text) = (0..1000usize, 0..NAMES.len());
    prop_oneof![
        6 => (some.clone(), text.clone(), 0..6usize, 0..0o10000u16, any::<bool>())
            .prop_map(|(dir, name, kind, mode, open)| Op::Create { dir, name, kind, mode, open }),
        2 => (some.clone(), some.clone(), text.clone()).prop_map(|(inode, dir, name)| Op::Link { inode, dir, name }),
        2 => (some.clone(), text.clone()).prop_map(|(dir, name)| Op::Unlink { dir, name }),
        2 => (some.clone(), text.clone()).prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        6 => ((some.clone(), text.clone()), (some.clone(), text), 0..3usize)
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        1 => (some.clone(), prop_oneof![0..5000u64, Just(1 << 40)]).prop_map(|(inode, size)| Op::Size { inode, size }),
        1 => (some.clone(), 0..0o10000u16, 0..3u32, 0..3u32)
            .prop_map(|(inode, mode, uid, gid)| Op::Owner { inode, mode, uid, gid }),
        1 => (some.clone(), 0..2usize, prop_oneof![0..9usize, 32_767..32_770usize], 0..3usize)
            .prop_map(|(inode, name, len, mode)| Op::SetXattr { inode, name, len, mode }),
        1 => (some, 0..2usize).prop_map(|(inode, name)| Op::RemoveXattr { inode, name }),
    ]
}

fn new_node(kind: usize) -> (NewNode, FileKind) {
    match kind {
        0 | 1 => (NewNode::Directory, FileKind::Directory),
        2 => (NewNode::Symlink(Bytes::from_static(b"../to/\xff")), FileKind::Symlink),
        3 => (NewNode::Special { kind: FileKind::CharDevice, rdev: 77 }, FileKind::CharDevice),
        _ => (NewNode::File, FileKind::File),
    }
}

/// Plans an operation on the model and as a mutation.
fn both(tree: &mut Tree, op: &Op) -> (Mutation, Answer) {
    const MODES: [RenameMode; 3] = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    const XATTR_MODES: [XattrMode; 3] = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
    match *op {
        Op::Create { dir, name: text, kind, mode, open } => {
            let parent = tree.any_dir(dir);
            let (node, kind) = new_node(kind);
            let answer = tree.create(parent, NAMES[text], kind, open);
            (
                Mutation::Create {
                    parent,
                    name: name(NAMES[text]),
                    node,
                    mode,
                    open_existing: open,
                    ack: Ack::Durable,
                },
                answer,
            )
        }
        Op::Link { inode, dir, name: text } => {
            let (inode, parent) = (tree.any(inode), tree.any_dir(dir));
            (Mutation::Link { inode, parent, name: name(NAMES[text]) }, tree.link(inode, parent, NAMES[text]))
        }
        Op::Unlink { dir, name: text } => {
            let parent = tree.any_dir(dir);
            (Mutation::Unlink { parent, name: name(NAMES[text]) }, tree.remove(parent, NAMES[text], false))
        }
        Op::Rmdir { dir, name: text } => {
            let parent = tree.any_dir(dir);
            (Mutation::Rmdir { parent, name: name(NAMES[text]) }, tree.remove(parent, NAMES[text], true))
        }
        Op::Rename { from, to, mode } => {
            let (parent, new_parent) = (tree.any_dir(from.0), tree.any_dir(to.0));
            let (old, new, mode) = (NAMES[from.1], NAMES[to.1], MODES[mode]);
            let mutation = Mutation::Rename { parent, name: name(old), new_parent, new_name: name(new), mode };
            (mutation, tree.rename((parent, old), (new_parent, new), mode))
        }
        Op::Size { inode, size } => {
            let inode = tree.any(inode);
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            (Mutation::SetAttr { inode, set }, tree.set_size(inode, size))
        }
        Op::Owner { inode, mode, uid, gid } => {
            let inode = tree.any(inode);
            let set = SetAttr { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
            (Mutation::SetAttr { inode, set }, tree.set_owner(inode, mode, uid, gid))
        }
        Op::SetXattr { inode, name, len, mode } => {
            let (inode, mode, value) = (tree.any(inode), XATTR_MODES[mode], vec![len as u8; len]);
            let set = Mutation::SetXattr { inode, name: XATTRS[name].into(), value: value.clone().into(), mode };
            (set, tree.set_xattr(inode, XATTRS[name], value, mode))
        }
        Op::RemoveXattr { inode, name } => {
            let inode = tree.any(inode);
            (Mutation::RemoveXattr { inode, name: XATTRS[name].into() }, tree.remove_xattr(inode, XATTRS[name]))
        }
    }
}

/// The node of an accepted create.
fn node_of(tree: &Tree, mutation: &Mutation) -> Option<(InodeId, String, Node)> {
    let Mutation::Create { parent, name, node, mode, .. } = mutation else { return None };
    let dir = tree.node(*parent);
    let kind = match node {
        NewNode::File => FileKind::File,
        NewNode::Directory => FileKind::Directory,
        NewNode::Symlink(_) => FileKind::Symlink,
        NewNode::Special { kind, .. } => *kind,
    };
    // A set-group-id directory gives its group; a program of a group that the caller is not in loses the bit.
    let (mut mode, mut gid) = (*mode, 1000);
    if dir.mode & 0o2000 != 0 {
        gid = dir.gid;
        if kind == FileKind::Directory {
            mode |= 0o2000;
        } else if mode & 0o2010 == 0o2010 && gid != 1000 {
            mode &= !0o2000;
        }
    }
    let mut made = Node::new(kind, mode, 1000, gid, *parent);
    if let NewNode::Symlink(target) = node {
        made.target = target.clone();
    }
    Some((*parent, String::from_utf8(name.as_bytes().to_vec()).expect("text"), made))
}

/// The texts of refusals are for people.
fn same_kind(one: &MetaError, other: &MetaError) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// Carries one operation out on both sides.
async fn step(mount: &Mounted, tree: &mut Tree, op: &Op) {
    let (mutation, expected) = both(tree, op);
    let answer: MetaResult<Applied> = mount.try_apply(mutation.clone()).await;
    let (done, mut touched) = match (expected, &answer) {
        (Ok(expected), Ok(_)) => expected,
        (Err(expected), Err(error)) if same_kind(&expected, error) => return,
        (expected, _) => panic!("{mutation:?}: {answer:?}, the model says {expected:?}"),
    };
    let shown = match (&done, answer.expect("applied")) {
        (Done::Nothing, Applied::Unit) => None,
        (Done::Found(inode), Applied::Entry { attr, created: false })
        | (Done::Changed(inode), Applied::Entry { attr, created: false })
            if attr.inode == *inode =>
        {
            Some(attr)
        }
        (Done::Made, Applied::Entry { attr, created: true }) => {
            let (parent, name, node) = node_of(tree, &mutation).expect("a create");
            tree.made(parent, &name, attr.inode, node);
            // Held open, so that it stays when its last link goes.
            mount.opened(attr.inode);
            touched.push((attr.inode, true));
            Some(attr)
        }
        (Done::Removed(inode, links), Applied::Removed { inode: removed, nlink })
            if (removed, nlink) == (*inode, *links) =>
        {
            None
        }
        (done, answer) => panic!("{mutation:?}: {answer:?}, the model says {done:?}"),
    };
    for (inode, content) in touched {
        check_touched(mount, tree, inode, content).await;
    }
    if let Some(attr) = shown {
        assert_eq!(Some(&attr), tree.node(attr.inode).seen.as_ref(), "{mutation:?} answers what is there");
    }
}

async fn check_touched(mount: &Mounted, tree: &mut Tree, inode: InodeId, content: bool) {
    let attr = mount.getattr(&context(), inode).await.expect("attributes");
    let node = tree.node(inode);
    assert_eq!(
        (attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.mapped),
        (node.kind, node.mode, node.uid, node.gid, tree.nlink(inode), tree.size(inode), 0),
        "inode {inode}"
    );
    if let Some(before) = &node.seen {
        assert!(attr.version >= before.version, "inode {inode}: {before:?}, then {attr:?}");
        assert_eq!(attr.btime, before.btime);
        assert_eq!(attr.atime, before.atime);
        assert!(content || attr.mtime == before.mtime, "inode {inode}: {before:?}, then {attr:?}");
    }
    assert!(!content || attr.mtime == attr.ctime, "{attr:?}");
    tree.nodes.get_mut(&inode).expect("a node").seen = Some(attr);
}

/// Everything under the root, read back.
async fn check_tree(mount: &Mounted, tree: &Tree) {
    for inode in tree.reachable() {
        let node = tree.node(inode);
        let attr = mount.getattr(&context(), inode).await.expect("attributes");
        if let Some(seen) = &node.seen {
            assert_eq!(&attr, seen);
        }
        let mut names = mount.listxattr(&context(), inode).await.expect("names");
        names.sort();
        assert_eq!(names, node.xattrs.keys().map(|name| Bytes::from(name.clone())).collect::<Vec<_>>());
        for (name, value) in &node.xattrs {
            assert_eq!(mount.getxattr(&context(), inode, name.as_bytes()).await.expect("value"), value.as_slice());
        }
        match node.kind {
            FileKind::Symlink => assert_eq!(mount.readlink(&context(), inode).await.as_ref(), Ok(&node.target)),
            FileKind::Directory => check_dir(mount, tree, inode).await,
            _ => {}
        }
    }
}

async fn check_dir(mount: &Mounted, tree: &Tree, dir: InodeId) {
    let node = tree.node(dir);
    let (mut listed, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = mount.readdir(&context(), dir, after, 2, true).await.expect("a page");
        assert_eq!(page.parent, node.parent, "the parent of {dir}");
        for entry in &page.entries {
            assert_eq!(entry.attr.as_ref(), tree.node(entry.inode).seen.as_ref());
            let text = String::from_utf8(entry.name.as_bytes().to_vec()).expect("text");
            assert!(listed.insert(text, entry.inode).is_none(), "{:?} twice", entry.name);
        }
        match page.entries.last() {
            Some(last) if !page.end => after = last.cookie,
            _ => break,
        }
    }
    assert_eq!(listed, node.entries);
    for text in NAMES {
        let found = mount.lookup(&context(), dir, &name(text)).await.map(|attr| attr.inode);
        assert_eq!(found, node.entries.get(text).copied().ok_or(MetaError::NotFound));
    }
}

#[test]
fn every_answer_and_the_tree_are_as_posix_has_them() {
    let runtime = runtime();
    let world = std::cell::RefCell::new(runtime.block_on(World::new()));
    let kept = std::cell::RefCell::new(Vec::new());
    cases(48, prop::collection::vec(op(), 1..120), |ops| {
        let world = world.borrow();
        runtime.block_on(async {
            let volume = world.volume().await;
            let mount = world.mount(&volume).await;
            let mut tree = Tree::new();
            for op in &ops {
                step(&mount, &mut tree, op).await;
            }
            check_tree(&mount, &tree).await;
            assert_eq!(world.usage(&volume).await, (0, tree.nodes.len() as u64), "open orphans count");
            let reachable = tree.reachable();
            for inode in tree.nodes.keys().filter(|inode| **inode != ROOT) {
                mount.closed(*inode);
            }
            until("orphans are gone", async || world.usage(&volume).await.1 == reachable.len() as u64).await;
            for inode in tree.nodes.keys().filter(|inode| !reachable.contains(inode)) {
                assert_eq!(mount.getattr(&context(), *inode).await, Err(MetaError::NotFound));
            }
            mount.close().await.expect("closed");
            kept.borrow_mut().push((volume, tree));
        });
    });
    let mut world = world.into_inner();
    runtime.block_on(async {
        world.restart().await;
        for (volume, tree) in kept.take() {
            let mount = world.mount(&volume).await;
            check_tree(&mount, &tree).await;
            assert_eq!(world.usage(&volume).await, (0, tree.reachable().len() as u64));
            mount.close().await.expect("closed");
        }
        world.engine.close().await.expect("closed");
    });
}
