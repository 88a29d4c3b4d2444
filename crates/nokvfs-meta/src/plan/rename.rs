//! Moving entries.

use nokvfs_types::{Applied, Event, FileKind, InodeId, MetaError, Name, RenameMode};

use super::Plan;
use crate::layout::{DentryRecord, Key, ParentRecord, TopologyRecord};
use crate::service::MetaResult;

/// Deepest directory that a directory can be moved to: what the walk to the root may cost.
const MAX_DEPTH: usize = 65_536;

type Place<'n> = (InodeId, &'n Name);

impl Plan<'_, '_> {
    pub(super) fn rename(&mut self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> MetaResult<Applied> {
        self.dir(from.0)?;
        self.dir(to.0)?;
        let moved = self.entry(from.0, from.1)?.ok_or(MetaError::NotFound)?;
        let there = self.entry(to.0, to.1)?;
        match (&there, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(MetaError::Exists),
            (None, RenameMode::Exchange) => return Err(MetaError::NotFound),
            // Two names of one inode, or one name twice: POSIX has it do nothing.
            (Some(there), _) if there.inode == moved.inode => return Ok(Applied::Unit),
            _ => {}
        }
        let crosses = from.0 != to.0;
        let moves_dir = moved.kind == FileKind::Directory;
        let back_dir =
            mode == RenameMode::Exchange && there.as_ref().is_some_and(|there| there.kind == FileKind::Directory);
        if crosses && moves_dir {
            self.check_outside(moved.inode, to.0)?;
        }
        if crosses
            && back_dir
            && let Some(there) = &there
        {
            self.check_outside(there.inode, from.0)?;
        }
        if crosses && (moves_dir || back_dir) {
            let key = Key::Topology(self.target.mount);
            let topology: TopologyRecord = self.txn.get(&key)?.unwrap_or_default();
            self.txn.put(&key, &TopologyRecord { moves: topology.moves + 1 })?;
        }
        match there {
            Some(there) if mode == RenameMode::Exchange => self.exchange((from, &moved), (to, &there))?,
            there => self.replace(from, to, &moved, there.as_ref())?,
        }
        Ok(Applied::Unit)
    }

    fn replace(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        moved: &DentryRecord,
        there: Option<&DentryRecord>,
    ) -> MetaResult<()> {
        let subdirs = i32::from(moved.kind == FileKind::Directory);
        let mut gained = (1, subdirs);
        if let Some(there) = there {
            let is_dir = there.kind == FileKind::Directory;
            match (moved.kind == FileKind::Directory, is_dir) {
                (true, false) => return Err(MetaError::NotDirectory),
                (false, true) => return Err(MetaError::IsDirectory),
                _ => {}
            }
            gained = (0, 0);
            if is_dir {
                let record = self.named_inode(there.inode)?;
                if record.size > 0 {
                    return Err(MetaError::NotEmpty);
                }
                self.drop_dir(there.inode, record)?;
            } else {
                self.drop_link(there.inode, to.0, to.1)?;
            }
        }
        self.remove_entry(from.0, from.1)?;
        self.put_entry(to.0, to.1, moved.inode, moved.kind)?;
        self.change_dir(from.0, -1, -subdirs)?;
        self.change_dir(to.0, gained.0, gained.1)?;
        self.arrive(moved, from, to)
    }

    fn exchange(&mut self, first: (Place<'_>, &DentryRecord), second: (Place<'_>, &DentryRecord)) -> MetaResult<()> {
        let ((from, moved), (to, there)) = (first, second);
        self.put_entry(to.0, to.1, moved.inode, moved.kind)?;
        self.put_entry(from.0, from.1, there.inode, there.kind)?;
        let is_dir = |entry: &DentryRecord| i32::from(entry.kind == FileKind::Directory);
        let gain = is_dir(moved) - is_dir(there);
        self.change_dir(from.0, 0, -gain)?;
        self.change_dir(to.0, 0, gain)?;
        self.arrive(moved, from, to)?;
        self.arrive(there, to, from)
    }

    /// What a move changes in the moved inode.
    fn arrive(&mut self, entry: &DentryRecord, from: Place<'_>, to: Place<'_>) -> MetaResult<()> {
        let mut record = self.named_inode(entry.inode)?;
        record.ctime = self.now();
        if record.kind == FileKind::Directory {
            record.parent = to.0;
        } else if record.nlink > 1 {
            let old = self.parent_key(entry.inode, from.0, from.1);
            let new = self.parent_key(entry.inode, to.0, to.1);
            self.txn.delete(&old)?;
            self.txn.put(&new, &ParentRecord)?;
        }
        self.put_inode(entry.inode, &record)?;
        self.emit(Event::AttrChanged(entry.inode));
        Ok(())
    }

    /// Refuses to put a directory below itself: walks from the place up to the root.
    fn check_outside(&mut self, moved: InodeId, place: InodeId) -> MetaResult<()> {
        let mut at = place;
        for _ in 0..MAX_DEPTH {
            if at == moved {
                return Err(MetaError::Invalid("a directory can't be moved below itself".into()));
            }
            if at == InodeId::ROOT {
                return Ok(());
            }
            at = self.named_inode(at)?.parent;
        }
        Err(MetaError::Invalid(format!("the place is more than {MAX_DEPTH} directories deep")))
    }
}
