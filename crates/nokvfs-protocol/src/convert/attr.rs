//! Attributes, extents and directory pages.

use nokvfs_types::{
    Attr, BodyView, CHUNK_SIZE, DirEntry, DirPage, Extent, FileKind, InodeId, Name, SliceId, Timestamp, UploadId,
    Version,
};

use super::{Checked, inode, invalid, mode, required};
use crate::wire;

pub(super) fn kind_to_wire(kind: FileKind) -> i32 {
    match kind {
        FileKind::File => wire::FileKind::File,
        FileKind::Directory => wire::FileKind::Directory,
        FileKind::Symlink => wire::FileKind::Symlink,
        FileKind::Fifo => wire::FileKind::Fifo,
        FileKind::Socket => wire::FileKind::Socket,
        FileKind::CharDevice => wire::FileKind::CharDevice,
        FileKind::BlockDevice => wire::FileKind::BlockDevice,
    }
    .into()
}

pub(super) fn kind_from_wire(kind: i32) -> Checked<FileKind> {
    Ok(match wire::FileKind::try_from(kind) {
        Ok(wire::FileKind::File) => FileKind::File,
        Ok(wire::FileKind::Directory) => FileKind::Directory,
        Ok(wire::FileKind::Symlink) => FileKind::Symlink,
        Ok(wire::FileKind::Fifo) => FileKind::Fifo,
        Ok(wire::FileKind::Socket) => FileKind::Socket,
        Ok(wire::FileKind::CharDevice) => FileKind::CharDevice,
        Ok(wire::FileKind::BlockDevice) => FileKind::BlockDevice,
        Ok(wire::FileKind::Unspecified) | Err(_) => return invalid(format!("kind of inode {kind}")),
    })
}

pub(super) fn attr_to_wire(attr: &Attr) -> wire::Attr {
    wire::Attr {
        inode: attr.inode.0,
        kind: kind_to_wire(attr.kind),
        mode: u32::from(attr.mode),
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        mapped: attr.mapped,
        rdev: attr.rdev,
        atime: attr.atime.0,
        mtime: attr.mtime.0,
        ctime: attr.ctime.0,
        btime: attr.btime.0,
        version: attr.version.0,
    }
}

pub(super) fn attr_from_wire(attr: wire::Attr) -> Checked<Attr> {
    Ok(Attr {
        inode: inode(attr.inode)?,
        kind: kind_from_wire(attr.kind)?,
        mode: mode(attr.mode)?,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        mapped: attr.mapped,
        rdev: attr.rdev,
        atime: Timestamp(attr.atime),
        mtime: Timestamp(attr.mtime),
        ctime: Timestamp(attr.ctime),
        btime: Timestamp(attr.btime),
        version: Version(attr.version),
    })
}

pub(super) fn extents_to_wire(extents: &[Extent]) -> Vec<wire::Extent> {
    let to_wire = |extent: &Extent| wire::Extent {
        offset: extent.offset,
        len: extent.len,
        upload: extent.slice.upload.0,
        inode: extent.slice.inode.0,
        chunk: extent.slice.chunk,
        slice_offset: extent.slice_offset,
        slice_len: extent.slice_len,
    };
    extents.iter().map(to_wire).collect()
}

/// Extents must be sorted, must not overlap, none may cross a chunk, and each must lie inside its slice. A slice of inode
/// 0 is a pack.
pub(super) fn extents_from_wire(extents: Vec<wire::Extent>) -> Checked<Vec<Extent>> {
    let mut checked = Vec::with_capacity(extents.len());
    let mut free_from = 0;
    for extent in extents {
        let wire::Extent { offset, len, upload, inode: owner, chunk, slice_offset, slice_len } = extent;
        let Some(end) = offset.checked_add(len) else {
            return invalid(format!("extent at {offset} of {len} bytes"));
        };
        if len == 0 || offset / CHUNK_SIZE != (end - 1) / CHUNK_SIZE {
            return invalid(format!("extent at {offset} of {len} bytes: it must hold some and stay in its chunk"));
        }
        if offset < free_from {
            return invalid(format!("extent at {offset}: extents must be sorted and not overlap"));
        }
        if slice_offset.checked_add(len).is_none_or(|slice_end| slice_end > slice_len) {
            return invalid(format!("extent at {offset} reaches beyond its slice of {slice_len} bytes"));
        }
        free_from = end;
        let slice = SliceId { upload: UploadId(upload), inode: InodeId(owner), chunk };
        checked.push(Extent { offset, len, slice, slice_offset, slice_len });
    }
    Ok(checked)
}

pub(super) fn body_to_wire(body: &BodyView) -> wire::BodyView {
    wire::BodyView {
        attr: Some(attr_to_wire(&body.attr)),
        extents: extents_to_wire(&body.extents),
        complete_to: body.complete_to,
    }
}

pub(super) fn body_from_wire(body: wire::BodyView) -> Checked<BodyView> {
    Ok(BodyView {
        attr: attr_from_wire(required(body.attr, "a body's attributes")?)?,
        extents: extents_from_wire(body.extents)?,
        complete_to: body.complete_to,
    })
}

pub(super) fn page_to_wire(page: &DirPage) -> wire::DirPage {
    let to_wire = |entry: &DirEntry| wire::DirEntry {
        name: entry.name.to_bytes(),
        inode: entry.inode.0,
        kind: kind_to_wire(entry.kind),
        cookie: entry.cookie,
        attr: entry.attr.as_ref().map(attr_to_wire),
    };
    wire::DirPage { entries: page.entries.iter().map(to_wire).collect(), end: page.end, parent: page.parent.0 }
}

pub(super) fn page_from_wire(page: wire::DirPage) -> Checked<DirPage> {
    let from_wire = |entry: wire::DirEntry| {
        Ok(DirEntry {
            name: Name::new(entry.name)?,
            inode: inode(entry.inode)?,
            kind: kind_from_wire(entry.kind)?,
            cookie: entry.cookie,
            attr: entry.attr.map(attr_from_wire).transpose()?,
        })
    };
    let entries = page.entries.into_iter().map(from_wire).collect::<Checked<Vec<_>>>()?;
    let parent: InodeId = inode(page.parent)?;
    Ok(DirPage { entries, end: page.end, parent })
}
