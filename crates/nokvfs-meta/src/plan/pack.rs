//! Packs: objects that small bodies of several files share. Each inode or chunk record that names a pack counts once in
//! the pack's record. A pack whose count is zero goes once its writer can't publish more of it: its upload is settled, or
//! its session ended.

use nokvfs_failpoint::failpoint;
use nokvfs_types::{Extent, MetaError, PACK_SIZE, SessionId, SliceId, UploadId};

use super::Plan;
use crate::layout::{Key, KeyPrefix, PackRecord, SessionRecord};
use crate::service::MetaResult;
use crate::session::ENDED;

/// Packs that one settling looks at; the next one goes on from there.
const SETTLE: usize = 8192;
/// Pack records of one scan.
const PAGE: usize = 256;

/// Who publishes, and which uploads it may still publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'p> {
    pub session: SessionId,
    pub uploads: &'p [(UploadId, UploadId)],
}

impl Plan<'_, '_> {
    /// Refuses packs that this session may not publish: another's, or settled ones, whose objects may be gone.
    pub(super) fn check_packs(&self, extents: &[Extent]) -> MetaResult<()> {
        for Extent { slice, slice_len, .. } in extents.iter().filter(|extent| extent.slice.is_pack()) {
            let own = self.writer.is_some_and(|writer| holds(writer.uploads, slice.upload));
            if !own || slice.chunk != 0 || *slice_len > PACK_SIZE {
                return Err(MetaError::Invalid(format!(
                    "{slice} of {slice_len} bytes: a pack has at most {PACK_SIZE}, and only the session that uploaded it can publish it"
                )));
            }
        }
        Ok(())
    }

    /// Counts records that name a pack from now on, or no longer.
    pub(super) fn count_pack(&mut self, pack: SliceId, len: u64, change: i64) -> MetaResult<()> {
        let (mount, volume) = self.target.lineage.owner(pack.upload);
        let key = Key::Pack(mount, pack.upload);
        let mut record = match (self.txn.get::<PackRecord>(&key)?, self.writer) {
            (Some(record), _) => record,
            (None, Some(writer)) if change >= 0 => {
                PackRecord { owner: writer.session, len: len.min(PACK_SIZE) as u32, named: 0 }
            }
            (None, _) => return Err(MetaError::Corrupt(format!("{pack} is named and has no record"))),
        };
        let named = i64::from(record.named) + change;
        record.named = u32::try_from(named)
            .map_err(|_| MetaError::Corrupt(format!("{pack} is named by {} records, then by {named}", record.named)))?;
        failpoint!("plan.pack_counted");
        if record.named == 0 && self.is_settled(record.owner, pack.upload)? {
            failpoint!("plan.pack_dropped");
            self.garbage.push((mount, volume, pack, u64::from(record.len)));
            return self.txn.delete(&key);
        }
        self.txn.put(&key, &record)
    }

    fn is_settled(&mut self, owner: SessionId, upload: UploadId) -> MetaResult<bool> {
        let session = self.txn.get::<SessionRecord>(&Key::Session(owner))?;
        Ok(session.is_none_or(|session| session.generation == ENDED || !holds(&session.uploads, upload)))
    }

    /// Makes garbage of a session's packs that nothing names from one upload on, before another; answers how far it came.
    pub(crate) fn drop_packs(&mut self, owner: SessionId, from: UploadId, before: UploadId) -> MetaResult<UploadId> {
        let mount = self.target.mount;
        let prefix = KeyPrefix::packs_from(mount, from);
        let (mut looked, mut after) = (0, None);
        loop {
            let mut page = Vec::new();
            let count = self.txn.scan::<PackRecord>(&prefix, after, PAGE, |key, record| page.push((key, record)))?;
            after = page.last().map(|(key, _)| key.clone());
            for (key, record) in page {
                let Key::Pack(_, upload) = key else { continue };
                if upload >= before {
                    return Ok(before);
                }
                if looked == SETTLE {
                    return Ok(upload);
                }
                looked += 1;
                // Uploads of other sessions may lie in between.
                if record.owner == owner && record.named == 0 {
                    self.garbage.push((mount, self.target.id, SliceId::pack(upload), u64::from(record.len)));
                    self.txn.delete(&key)?;
                }
            }
            if count < PAGE {
                return Ok(before);
            }
        }
    }
}

fn holds(uploads: &[(UploadId, UploadId)], upload: UploadId) -> bool {
    uploads.iter().any(|(first, end)| *first <= upload && upload < *end)
}
