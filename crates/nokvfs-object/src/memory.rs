//! An object store in memory, for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::{check_delete, check_key, check_list, clip_range};
use crate::{ListPage, ObjectError, ObjectInfo, ObjectStore};

/// Objects in memory, gone with the process. The total size is bounded: past it puts answer
/// [`ObjectError::Unavailable`], as a full store would.
pub struct MemoryStore {
    state: Mutex<State>,
    limit: u64,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    bytes: u64,
}

impl MemoryStore {
    /// An empty store of at most 1 GiB.
    pub fn new() -> Self {
        Self::with_limit(1 << 30)
    }

    /// An empty store of at most `limit` bytes of bodies.
    pub fn with_limit(limit: u64) -> Self {
        Self { state: Mutex::default(), limit }
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.state.lock().objects.len()
    }

    /// No object is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all bodies.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// Replaces a body behind the users' back: what a corrupt store would answer.
    pub fn overwrite(&self, key: &str, body: Bytes) -> Result<(), ObjectError> {
        self.insert(key, body, true).map(|_| ())
    }

    fn insert(&self, key: &str, body: Bytes, replace: bool) -> Result<bool, ObjectError> {
        check_key(key)?;
        let mut state = self.state.lock();
        let old = state.objects.get(key).map(|body| body.len() as u64);
        if old.is_some() && !replace {
            return Ok(false);
        }
        let bytes = state.bytes - old.unwrap_or(0) + body.len() as u64;
        if bytes > self.limit {
            return Err(ObjectError::Unavailable(format!("the memory store is full ({} bytes)", self.limit)));
        }
        state.bytes = bytes;
        state.objects.insert(key.to_owned(), body);
        Ok(true)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.len()).field("limit", &self.limit).finish()
    }
}

#[async_trait::async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), ObjectError> {
        self.insert(key, body, true).map(|_| ())
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool, ObjectError> {
        self.insert(key, body, false)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        check_key(key)?;
        let body = self.state.lock().objects.get(key).cloned();
        let body = body.ok_or_else(|| ObjectError::NotFound(key.to_owned()))?;
        let Some(range) = range else { return Ok(body) };
        let range = clip_range(key, range, body.len() as u64)?;
        Ok(body.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, ObjectError> {
        check_key(key)?;
        let state = self.state.lock();
        let body = state.objects.get(key).ok_or_else(|| ObjectError::NotFound(key.to_owned()))?;
        Ok(ObjectInfo { key: key.to_owned(), len: body.len() as u64 })
    }

    async fn delete(&self, keys: &[String]) -> Result<(), ObjectError> {
        check_delete(keys)?;
        let mut state = self.state.lock();
        for key in keys {
            if let Some(body) = state.objects.remove(key) {
                state.bytes -= body.len() as u64;
            }
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<ListPage, ObjectError> {
        check_list(limit)?;
        let state = self.state.lock();
        let start = after.unwrap_or("").max(prefix).to_owned();
        let mut objects = Vec::new();
        for (key, body) in state.objects.range(start..) {
            if after.is_some_and(|after| key.as_str() <= after) {
                continue;
            }
            if !key.starts_with(prefix) {
                break;
            }
            if objects.len() == limit as usize {
                return Ok(ListPage { objects, more: true });
            }
            objects.push(ObjectInfo { key: key.clone(), len: body.len() as u64 });
        }
        Ok(ListPage { objects, more: false })
    }
}
