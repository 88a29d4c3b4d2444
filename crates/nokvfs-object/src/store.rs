//! The store trait.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::ObjectError;

/// An object, as a listing or a head tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key.
    pub key: String,
    /// Bytes.
    pub len: u64,
}

/// A part of a listing, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<ObjectInfo>,
    /// More objects follow the last one.
    pub more: bool,
}

/// A bucket of immutable objects. All implementations are strongly consistent: what was put is read and listed.
///
/// Transient failures are retried inside until the implementation's deadline; none of these calls waits longer.
#[async_trait::async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Puts an object, whole; replaces one that is there.
    async fn put(&self, key: &str, body: Bytes) -> Result<(), ObjectError>;

    /// Puts an object unless the key is taken; answers whether it was put. Atomic between clients.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool, ObjectError>;

    /// Reads an object, or `range` of it. A range that reaches beyond the end answers what there is; one that begins
    /// at or beyond it is [`ObjectError::Invalid`].
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError>;

    /// An object's length.
    async fn head(&self, key: &str) -> Result<ObjectInfo, ObjectError>;

    /// Deletes objects, at most 1,000. Keys that name none are fine. On an error some may be deleted.
    async fn delete(&self, keys: &[String]) -> Result<(), ObjectError>;

    /// Lists objects whose keys start with `prefix`, after the key `after`, at most `limit` (1 to 1,000).
    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<ListPage, ObjectError>;
}

/// The longest key that every S3 store takes, in bytes.
const KEY_MAX: usize = 1024;
/// Keys in one delete and objects in one page of a listing: S3's own limit.
const BATCH_MAX: usize = 1000;

/// Refuses keys that some store would refuse, or that its XML could not carry.
pub(crate) fn check_key(key: &str) -> Result<(), ObjectError> {
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(ObjectError::Invalid(format!("a key has 1 to {KEY_MAX} bytes, this one {}", key.len())));
    }
    if key.chars().any(char::is_control) {
        return Err(ObjectError::Invalid(format!("a control character in the key {key:?}")));
    }
    Ok(())
}

/// Refuses a delete of too many keys, or of one that can't be.
pub(crate) fn check_delete(keys: &[String]) -> Result<(), ObjectError> {
    if keys.len() > BATCH_MAX {
        return Err(ObjectError::Invalid(format!("delete at most {BATCH_MAX} objects at once, not {}", keys.len())));
    }
    keys.iter().try_for_each(|key| check_key(key))
}

/// Refuses a page size that no store serves.
pub(crate) fn check_list(limit: u32) -> Result<(), ObjectError> {
    if limit == 0 || limit as usize > BATCH_MAX {
        return Err(ObjectError::Invalid(format!("list 1 to {BATCH_MAX} objects at once, not {limit}")));
    }
    Ok(())
}

/// The part of `range` that an object of `len` bytes has.
pub(crate) fn clip_range(key: &str, range: Range<u64>, len: u64) -> Result<Range<u64>, ObjectError> {
    if range.start >= range.end || range.start >= len {
        return Err(ObjectError::Invalid(format!("range {range:?} of {key}, which has {len} bytes")));
    }
    Ok(range.start..range.end.min(len))
}
