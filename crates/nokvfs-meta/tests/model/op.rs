//! What is done to a volume.

use nokvfs_types::{FileKind, RenameMode, XattrMode};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::pair::{MOST_UNITS, NAMES};
use crate::view::XATTRS;

#[derive(Clone, Debug)]
pub enum Op {
    Create { dir: usize, name: usize, kind: FileKind, mode: u16, open_existing: bool },
    Link { node: usize, dir: usize, name: usize },
    Unlink { dir: usize, name: usize, want_dir: bool },
    Rename { from: (usize, usize), to: (usize, usize), mode: RenameMode },
    Resize { node: usize, units: u64 },
    Chmod { node: usize, mode: u16, owner: Option<(u32, u32)> },
    Publish { node: usize, truncate: Option<u64>, runs: Vec<(u64, u64)>, size: u64 },
    Fallocate { node: usize, from: u64, units: u64, unmap: bool, size: u64 },
    SetXattr { node: usize, name: usize, len: usize, mode: XattrMode },
    RemoveXattr { node: usize, name: usize },
}

fn kind() -> impl Strategy<Value = FileKind> {
    prop_oneof![
        4 => Just(FileKind::File),
        5 => Just(FileKind::Directory),
        1 => Just(FileKind::Symlink),
        1 => Just(FileKind::Fifo),
    ]
}

pub fn op() -> impl Strategy<Value = Op> {
    let (node, name) = (0..1000usize, 0..NAMES.len());
    let mode = prop_oneof![Just(0o644u16), Just(0o755), Just(0o2775), Just(0o6711), Just(0o1777)];
    let rename =
        prop_oneof![4 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 3 => Just(RenameMode::Exchange)];
    let set = prop_oneof![3 => Just(XattrMode::Set), 1 => Just(XattrMode::Create), 1 => Just(XattrMode::Replace)];
    let run = (0..MOST_UNITS, 1..40u64);
    prop_oneof![
        10 => (node.clone(), name.clone(), kind(), mode.clone(), any::<bool>())
            .prop_map(|(dir, name, kind, mode, open_existing)| Op::Create { dir, name, kind, mode, open_existing }),
        3 => (node.clone(), node.clone(), name.clone()).prop_map(|(node, dir, name)| Op::Link { node, dir, name }),
        4 => (node.clone(), name.clone(), any::<bool>())
            .prop_map(|(dir, name, want_dir)| Op::Unlink { dir, name, want_dir }),
        9 => ((node.clone(), name.clone()), (node.clone(), name.clone()), rename)
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        3 => (node.clone(), 0..MOST_UNITS).prop_map(|(node, units)| Op::Resize { node, units }),
        2 => (node.clone(), mode, proptest::option::of((0..5u32, 0..5u32)))
            .prop_map(|(node, mode, owner)| Op::Chmod { node, mode, owner }),
        8 => (node.clone(), proptest::option::weighted(0.3, 0..MOST_UNITS), vec(run, 0..6), 0..MOST_UNITS)
            .prop_map(|(node, truncate, runs, size)| Op::Publish { node, truncate, runs, size }),
        6 => (node.clone(), 0..MOST_UNITS, 1..80u64, proptest::bool::weighted(0.8), prop_oneof![Just(0), 0..MOST_UNITS])
            .prop_map(|(node, from, units, unmap, size)| Op::Fallocate { node, from, units, unmap, size }),
        2 => (node.clone(), 0..XATTRS.len(), 0..200usize, set)
            .prop_map(|(node, name, len, mode)| Op::SetXattr { node, name, len, mode }),
        1 => (node, 0..XATTRS.len()).prop_map(|(node, name)| Op::RemoveXattr { node, name }),
    ]
}
