//! Packs: small bodies that are uploaded around the same time share an object, so that many writers of small files cost
//! a few requests instead of one each.
//!
//! As in group commit a task takes what has come in while it was busy. What comes alone is an object of its own and never
//! waits; who comes while others do waits for company a little. Once a whole pack waits another task takes that: a store far
//! away gets as many at once as other uploads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nokvfs_failpoint::failpoint;
use nokvfs_types::{PACK_SIZE, SliceId, UploadId};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::BodyError;
use crate::codec::FrameWriter;
use crate::file::Source;
use crate::job::{OpenSlice, Piece, copy_staged, payload};
use crate::store::Bodies;

/// The longest body that is packed. A reader of one small file fetches at most two frames of 128 KiB.
pub(crate) const MEMBER_MAX: u64 = 128 << 10;
/// How long the next pack stays open for as many bodies as the last one had: little beside any store's latency, long enough
/// for the writers that were just answered to come back.
const LINGER: Duration = Duration::from_millis(5);

/// Small bodies that wait to be uploaded; no more than the stage has pages.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    queue: Mutex<Queue>,
    /// As many wait as the task waits for.
    enough: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Member>,
    /// Bytes of those.
    bytes: u64,
    /// Tasks that upload.
    leaders: usize,
    /// How many one of them waits for; 0: none waits.
    expected: usize,
}

/// A body on its way into a pack.
#[derive(Debug)]
struct Member {
    slice: Arc<OpenSlice>,
    pieces: Vec<Piece>,
    done: oneshot::Sender<Result<(), BodyError>>,
}

impl Member {
    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }
}

/// An object that several bodies share. When the last of them let go of it and no body may name it, it is deleted.
#[derive(Debug)]
pub(crate) struct Pack {
    bodies: Arc<Bodies>,
    pub upload: UploadId,
    pub len: u64,
    named: AtomicBool,
    uncertain: AtomicBool,
    /// Its upload did not fail.
    arrived: AtomicBool,
}

impl Pack {
    /// A body names it.
    pub fn named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// A body may name it: the answer to a publish never came.
    pub fn uncertain(&self) {
        self.uncertain.store(true, Ordering::Release);
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        if self.uncertain.load(Ordering::Acquire) {
            return;
        }
        if self.named.load(Ordering::Acquire) {
            self.bodies.ids.settle_pack(self.upload);
        } else {
            let slice = SliceId::pack(self.upload);
            match self.arrived.load(Ordering::Acquire) {
                true => self.bodies.delete_unused(slice, self.len),
                false => self.bodies.delete_late(slice, self.len),
            }
        }
    }
}

/// Whether an upload may share an object.
pub(crate) fn is_small(at: u64, pieces: &[Piece]) -> bool {
    at == 0
        && pieces.iter().map(|piece| piece.len).sum::<u64>() <= MEMBER_MAX
        && pieces.iter().all(|piece| matches!(piece.source, Source::Staged { .. }))
}

impl Bodies {
    /// Uploads a small body, in a pack if others wait as well. Afterwards the slice knows where it is.
    pub(crate) async fn upload_small(
        self: &Arc<Self>,
        slice: &Arc<OpenSlice>,
        pieces: &[Piece],
    ) -> Result<(), BodyError> {
        let (done, answer) = oneshot::channel();
        let leads = {
            let mut queue = self.packer.queue.lock();
            let member = Member { slice: slice.clone(), pieces: pieces.to_vec(), done };
            queue.bytes += member.len();
            queue.waiting.push_back(member);
            let full = queue.bytes >= PACK_SIZE;
            if queue.expected > 0 && (full || queue.waiting.len() >= queue.expected) {
                self.packer.enough.notify_one();
            }
            // One that waits for company takes a full pack itself.
            let further = full && queue.expected == 0 && queue.leaders < self.upload_parallelism;
            let leads = queue.leaders == 0 || further;
            queue.leaders += usize::from(leads);
            leads
        };
        if leads {
            let this = self.clone();
            self.runtime.spawn(async move {
                let mut leading = Leading { bodies: this.clone(), ended: false };
                while let Some(members) = this.packer.next() {
                    let count = members.len();
                    this.upload_members(members).await;
                    if count > 1 {
                        this.packer.linger(count).await;
                    }
                }
                leading.ended = true;
            });
        }
        answer.await.unwrap_or(Err(BodyError::Stage("an upload was stopped".to_owned())))
    }

    async fn upload_members(self: &Arc<Self>, members: Vec<Member>) {
        let result = match &members[..] {
            [member] => member.slice.put_pieces(0, &member.pieces).await,
            _ => self.put_pack(&members).await,
        };
        for Member { slice, pieces, done } in members {
            // The stage's room and the pack are the caller's alone once it hears of the end.
            drop((slice, pieces));
            drop(done.send(result.clone()));
        }
    }

    async fn put_pack(self: &Arc<Self>, members: &[Member]) -> Result<(), BodyError> {
        let permit = self.uploads.acquire().await.map_err(|_| BodyError::Protocol("nothing: uploads are closed"))?;
        let len = members.iter().map(Member::len).sum();
        let pack = Arc::new(Pack {
            bodies: self.clone(),
            upload: self.ids.take().await?,
            len,
            named: AtomicBool::new(false),
            uncertain: AtomicBool::new(false),
            arrived: AtomicBool::new(true),
        });
        let id = SliceId::pack(pack.upload);
        let key = id.object_key(self.volume, 0);
        let staged: Vec<_> = members.iter().flat_map(|member| payload(&member.pieces)).collect();
        let mut writer = FrameWriter::new(&key, len);
        let copy = tokio::task::spawn_blocking(move || {
            staged.iter().try_for_each(|(block, at, len)| copy_staged(&mut writer, block, *at, *len))?;
            Ok::<_, BodyError>(writer.finish())
        });
        let object = copy.await.map_err(|_| BodyError::Stage("reading was stopped".to_owned()))??;
        failpoint!("pack.uploading");
        if let Err(error) = self.store.put(&key, object.clone()).await {
            pack.arrived.store(false, Ordering::Release);
            return Err(error.into());
        }
        failpoint!("pack.uploaded");
        drop(permit);
        self.frames.keep(id, 0, &object);
        let mut at = 0;
        for member in members {
            member.slice.join(&pack, at);
            at += member.len();
        }
        Ok(())
    }
}

/// The task that uploads.
struct Leading {
    bodies: Arc<Bodies>,
    ended: bool,
}

impl Drop for Leading {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // It was stopped half-way: if nobody is left to serve those who wait, they hear of it and try again.
        let mut queue = self.bodies.packer.queue.lock();
        queue.leaders -= 1;
        if queue.leaders == 0 {
            queue.waiting.clear();
            (queue.bytes, queue.expected) = (0, 0);
        }
    }
}

impl Packer {
    /// Bodies that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    /// Waits a little until so many bodies are there.
    async fn linger(&self, count: usize) {
        let enough = {
            let mut queue = self.queue.lock();
            // One waits at a time.
            let enough = queue.waiting.len() >= count || queue.bytes >= PACK_SIZE || queue.expected > 0;
            if !enough {
                queue.expected = count;
            }
            enough
        };
        if !enough {
            drop(tokio::time::timeout(LINGER, self.enough.notified()).await);
            self.queue.lock().expected = 0;
        }
    }

    /// What the next object holds; `None` ends the task.
    fn next(&self) -> Option<Vec<Member>> {
        let mut queue = self.queue.lock();
        let mut members = Vec::new();
        let mut len = 0;
        while let Some(member) = queue.waiting.pop_front_if(|member| len + member.len() <= PACK_SIZE) {
            len += member.len();
            members.push(member);
        }
        if members.is_empty() {
            queue.leaders -= 1;
            return None;
        }
        queue.bytes -= len;
        Some(members)
    }
}
