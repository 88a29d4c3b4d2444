//! Which inodes a client has open.

use std::collections::HashMap;

use nokvfs_types::{Heartbeat, HeartbeatReply, InodeId};
use parking_lot::Mutex;

/// Counts opens per inode. As large as the number of files that the kernel lets be open.
#[derive(Debug, Default)]
pub struct OpenTable {
    opens: Mutex<HashMap<InodeId, u32>>,
}

impl OpenTable {
    /// Counts one more open.
    pub fn opened(&self, inode: InodeId) {
        *self.opens.lock().entry(inode).or_insert(0) += 1;
    }

    /// Takes one back.
    pub fn closed(&self, inode: InodeId) {
        let mut opens = self.opens.lock();
        if let Some(count) = opens.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                opens.remove(&inode);
            }
        }
    }

    /// Answers the server's question.
    pub fn answer(&self, reply: &HeartbeatReply) -> Heartbeat {
        let opens = self.opens.lock();
        let (open, closed) = reply.orphans.iter().partition(|inode| opens.contains_key(inode));
        Heartbeat { open, closed }
    }
}
