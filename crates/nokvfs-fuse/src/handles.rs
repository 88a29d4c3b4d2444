//! Open files and directories of a mount.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nokvfs_body::{OpenFile, ReadStream};
use nokvfs_meta::service::MetadataService;
use nokvfs_types::{DirEntry, InodeId};
use parking_lot::{Mutex, RwLock};

/// How often an inode is open here.
#[derive(Debug, Default)]
struct OpenCount {
    opens: u32,
    /// Its last name is gone: nothing that is written matters beyond the last close.
    orphan: bool,
}

/// Which inodes are open, counted. Bounded by the open files of the mount's users.
#[derive(Debug, Default)]
pub(crate) struct Opens(Mutex<HashMap<InodeId, OpenCount>>);

impl Opens {
    pub(crate) fn is_open(&self, inode: InodeId) -> bool {
        self.0.lock().contains_key(&inode)
    }

    pub(crate) fn is_orphan(&self, inode: InodeId) -> bool {
        self.0.lock().get(&inode).is_some_and(|count| count.orphan)
    }

    /// Notes that an inode's last name is gone; answers whether it is open.
    pub(crate) fn orphaned(&self, inode: InodeId) -> bool {
        self.0.lock().get_mut(&inode).map(|count| count.orphan = true).is_some()
    }
}

/// Keeps an inode open, in this mount's count and in the session's.
#[derive(Debug)]
pub(crate) struct Hold {
    inode: InodeId,
    service: Arc<dyn MetadataService>,
    opens: Arc<Opens>,
}

impl Hold {
    pub(crate) fn new(inode: InodeId, service: &Arc<dyn MetadataService>, opens: &Arc<Opens>) -> Self {
        opens.0.lock().entry(inode).or_default().opens += 1;
        service.opened(inode);
        Hold { inode, service: Arc::clone(service), opens: Arc::clone(opens) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut counts = self.opens.0.lock();
        if let Some(count) = counts.get_mut(&self.inode) {
            count.opens -= 1;
            if count.opens == 0 {
                counts.remove(&self.inode);
            }
        }
        drop(counts);
        self.service.closed(self.inode);
    }
}

/// One open of a file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) stream: ReadStream,
    pub(crate) writable: bool,
    pub(crate) hold: Hold,
}

impl FileHandle {
    pub(crate) fn inode(&self) -> InodeId {
        self.hold.inode
    }
}

/// Entries that were read and did not fit into the kernel's buffer.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// The position they follow.
    pub(crate) after: u64,
    pub(crate) entries: Vec<DirEntry>,
    pub(crate) end: bool,
    pub(crate) parent: InodeId,
    /// They carry attributes.
    pub(crate) attrs: bool,
    pub(crate) read_at: Instant,
}

/// One open of a directory. Positions are stateless; this only saves asking twice.
#[derive(Debug, Default)]
pub(crate) struct DirHandle(pub(crate) Mutex<Option<Leftover>>);

/// Handles by the number that the kernel knows them by.
#[derive(Debug)]
pub(crate) struct Handles {
    next: AtomicU64,
    files: RwLock<HashMap<u64, Arc<FileHandle>>>,
    dirs: RwLock<HashMap<u64, Arc<DirHandle>>>,
}

impl Handles {
    pub(crate) fn new() -> Self {
        // Starts where no earlier process that served this mount can have been, so that a handle of a predecessor is
        // never taken for one of ours.
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Handles { next: AtomicU64::new((seconds << 30) | 1), files: RwLock::default(), dirs: RwLock::default() }
    }

    pub(crate) fn add_file(&self, handle: Arc<FileHandle>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.files.write().insert(number, handle);
        number
    }

    pub(crate) fn adopt_file(&self, number: u64, handle: &Arc<FileHandle>) -> Arc<FileHandle> {
        Arc::clone(self.files.write().entry(number).or_insert_with(|| Arc::clone(handle)))
    }

    pub(crate) fn file(&self, number: u64) -> Option<Arc<FileHandle>> {
        self.files.read().get(&number).cloned()
    }

    /// Whether something may write to an inode, through a mapping too.
    pub(crate) fn is_writable(&self, inode: InodeId) -> bool {
        self.files.read().values().any(|handle| handle.writable && handle.inode() == inode)
    }

    pub(crate) fn remove_file(&self, number: u64) -> Option<Arc<FileHandle>> {
        self.files.write().remove(&number)
    }

    pub(crate) fn add_dir(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dirs.write().insert(number, Arc::default());
        number
    }

    /// A predecessor's handle is as good as a new one.
    pub(crate) fn dir(&self, number: u64) -> Arc<DirHandle> {
        self.dirs.read().get(&number).cloned().unwrap_or_default()
    }

    pub(crate) fn remove_dir(&self, number: u64) {
        self.dirs.write().remove(&number);
    }
}
