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
