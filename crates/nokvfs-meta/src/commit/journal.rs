//! What one batch says in the journal: everything that a watcher, a standby or a restore needs.

use nokvfs_types::{Event, MetaError, MountId, Timestamp, Version};
use sha2::{Digest, Sha256};

use crate::layout::{Reader, Tree, decode_event, encode_event, put_bytes, put_u32, put_u64};
use crate::service::MetaResult;
use crate::store::{Anchor, Change, Envelope};

const FORMAT: u8 = 1;

/// A batch's journal entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalBatch {
    /// The last commit before the batch.
    pub after: Version,
    /// The last commit of the batch.
    pub last: Version,
    /// When it was committed.
    pub at: Timestamp,
    /// Tree, key and sealed value (`None`: deleted) of each changed record.
    pub changes: Vec<(Tree, Vec<u8>, Option<Vec<u8>>)>,
    /// Events with their commit and volume, in commit order.
    pub events: Vec<(Version, MountId, Event)>,
}

impl JournalBatch {
    /// Reads an envelope's payload.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] for anything else.
    pub fn decode(payload: &[u8]) -> MetaResult<JournalBatch> {
        let mut from = Reader::new("journal entry", payload);
        if from.u8()? != FORMAT {
            return Err(from.corrupt());
        }
        let after = Version(from.u64()?);
        let last = Version(from.u64()?);
        let at = from.time()?;
        let mut changes = Vec::new();
        for _ in 0..from.u32()? {
            let tree = from.u8()?;
            let tree = Tree::from_code(tree).ok_or_else(|| from.corrupt())?;
            let key = from.bytes()?.to_vec();
            let value = if from.bool()? { Some(from.bytes()?.to_vec()) } else { None };
            changes.push((tree, key, value));
        }
        let mut events = Vec::new();
        for _ in 0..from.u32()? {
            events.push((Version(from.u64()?), MountId(from.u64()?), decode_event(&mut from)?));
        }
        from.finish(JournalBatch { after, last, at, changes, events })
    }
}

/// The envelope of a batch that follows `previous`.
pub(crate) fn envelope(
    previous: Anchor,
    last: Version,
    at: Timestamp,
    changes: &[Change],
    events: &[(Version, MountId, Event)],
) -> Envelope {
    let size: usize =
        changes.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, Vec::len) + 10).sum();
    let mut payload = Vec::with_capacity(size + events.len() * 64 + 40);
    payload.push(FORMAT);
    put_u64(&mut payload, previous.version().0);
    put_u64(&mut payload, last.0);
    payload.extend_from_slice(&at.0.to_le_bytes());
    put_u32(&mut payload, changes.len() as u32);
    for change in changes {
        payload.push(change.tree as u8);
        put_bytes(&mut payload, &change.key);
        payload.push(u8::from(change.value.is_some()));
        if let Some(value) = &change.value {
            put_bytes(&mut payload, value);
        }
    }
    put_u32(&mut payload, events.len() as u32);
    for (version, mount, event) in events {
        put_u64(&mut payload, version.0);
        put_u64(&mut payload, mount.0);
        encode_event(&mut payload, event);
    }
    let current = Anchor { sequence: previous.sequence + 1, digest: digest(&previous, last, &payload) };
    Envelope { previous, current, payload }
}

/// The version, then 24 bytes of SHA-256 over the digest before and the payload: two histories that part never agree
/// again.
fn digest(previous: &Anchor, last: Version, payload: &[u8]) -> [u8; 32] {
    let mut hash: [u8; 32] = Sha256::new().chain_update(previous.digest).chain_update(payload).finalize().into();
    hash[..8].copy_from_slice(&last.0.to_be_bytes());
    hash
}

/// Whether an envelope is what its positions say.
pub(crate) fn verify(envelope: &Envelope) -> MetaResult<()> {
    let Envelope { previous, current, payload } = envelope;
    if current.sequence == previous.sequence + 1 && digest(previous, current.version(), payload) == current.digest {
        return Ok(());
    }
    Err(MetaError::Corrupt(format!("journal entry {} does not follow from the one before it", current.sequence)))
}
