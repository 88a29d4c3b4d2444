//! Objects on their way from the stage to the store, and the slices they belong to.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nokvfs_failpoint::failpoint;
use nokvfs_object::ObjectError;
use nokvfs_types::{BLOCK_SIZE, SliceId, UploadId};
use tokio::sync::{Notify, OnceCell};

use crate::codec::FrameWriter;
use crate::file::{OpenFile, Source};
use crate::frames::SlicePart;
use crate::pack::{Pack, is_small};
use crate::ranges::{At, RangeMap};
use crate::stage::StageBlock;
use crate::store::Bodies;
use crate::{BodyError, FRAME_PAYLOAD};

/// Pauses between tries of an upload, after the store gave up its own.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// No request to a store is under way longer than this.
const LATE: Duration = Duration::from_secs(300);

/// Nothing names the slice's objects.
const UNSENT: u8 = 0;
/// A publish that names them was sent; its answer is not known.
const SENT: u8 = 1;
/// The body names them.
const PUBLISHED: u8 = 2;

/// Whether a body may name a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate(u8);

/// A slice that is being written. When it is dropped without having been published, its objects are deleted.
#[derive(Debug)]
pub(crate) struct OpenSlice {
    bodies: Arc<Bodies>,
    inode: nokvfs_types::InodeId,
    chunk: u32,
    upload: OnceCell<UploadId>,
    /// Bytes of all objects. All but the last are whole blocks.
    len: AtomicU64,
    fate: AtomicU8,
    /// The pack that it became a part of, and where it begins there.
    pack: OnceLock<(Arc<Pack>, u64)>,
}

impl OpenSlice {
    pub fn new(bodies: &Arc<Bodies>, inode: nokvfs_types::InodeId, chunk: u32) -> Arc<Self> {
        Arc::new(Self {
            bodies: bodies.clone(),
            inode,
            chunk,
            upload: OnceCell::new(),
            len: AtomicU64::new(0),
            fate: AtomicU8::new(UNSENT),
            pack: OnceLock::new(),
        })
    }

    pub fn len(&self) -> u64 {
        match self.pack.get() {
            Some((pack, _)) => pack.len,
            None => self.len.load(Ordering::Relaxed),
        }
    }

    /// Where its bytes begin in its pack, if it is in one.
    pub fn base_in_pack(&self) -> Option<u64> {
        self.pack.get().map(|(_, at)| *at)
    }

    /// Its bytes are in a pack.
    pub fn join(&self, pack: &Arc<Pack>, at: u64) {
        // Once: a slice is uploaded again only after an upload that failed, which joins nothing.
        drop(self.pack.set((pack.clone(), at)));
    }

    /// Whether a further object fits behind those that are there.
    pub fn is_open(&self) -> bool {
        self.len().is_multiple_of(BLOCK_SIZE)
    }

    /// Adds an object; answers where it begins. Under the file's lock.
    pub fn extend(&self, len: u64) -> u64 {
        self.len.fetch_add(len, Ordering::Relaxed)
    }

    /// The slice's name, once an upload has begun.
    pub fn known_id(&self) -> Option<SliceId> {
        if let Some((pack, _)) = self.pack.get() {
            return Some(SliceId::pack(pack.upload));
        }
        self.upload.get().map(|upload| SliceId { upload: *upload, inode: self.inode, chunk: self.chunk })
    }

    pub async fn id(&self) -> Result<SliceId, BodyError> {
        let upload = *self.upload.get_or_try_init(|| self.bodies.ids.take()).await?;
        Ok(SliceId { upload, inode: self.inode, chunk: self.chunk })
    }

    /// Before a publish that names the slice; answers its fate so far.
    pub fn sent(&self) -> Fate {
        Fate(self.fate.swap(SENT, Ordering::AcqRel))
    }

    /// The publish was refused for sure: the slice's fate is what it was before.
    pub fn refused(&self, before: Fate) {
        self.fate.store(before.0, Ordering::Release);
    }

    pub fn published(&self) {
        self.fate.store(PUBLISHED, Ordering::Release);
        if self.pack.get().is_some() {
            return;
        }
        if let Some(upload) = self.upload.get() {
            self.bodies.ids.settle(*upload);
        }
    }

    /// Uploads pieces as one object of the slice.
    pub async fn put_pieces(&self, at: u64, pieces: &[Piece]) -> Result<(), BodyError> {
        let _permit =
            self.bodies.uploads.acquire().await.map_err(|_| BodyError::Protocol("nothing: uploads are closed"))?;
        let mut writer = self.writer(at, pieces.iter().map(|piece| piece.len).sum()).await?;
        for piece in pieces {
            match &piece.source {
                Source::Staged { block, at } => {
                    let (block, at, len) = (block.clone(), *at, piece.len);
                    // Hashing a block takes a millisecond, and a stage on a disk may have to be read from there.
                    let copy =
                        tokio::task::spawn_blocking(move || copy_staged(&mut writer, &block, at, len).map(|()| writer));
                    writer = copy.await.map_err(|_| BodyError::Stage("reading was stopped".to_owned()))??;
                }
                Source::Stored(part) => {
                    let mut pieces = Vec::new();
                    self.bodies.frames.fetch(*part, piece.len).pieces(&mut pieces).await?;
                    pieces.iter().for_each(|piece| writer.push(piece));
                }
            }
        }
        self.put(at, writer).await.map(drop)
    }

    /// Puts one object of the slice.
    pub async fn put(&self, at: u64, writer: FrameWriter) -> Result<SliceId, BodyError> {
        let slice = self.id().await?;
        let block = (at / BLOCK_SIZE) as u32;
        let object = writer.finish();
        failpoint!("body.uploading");
        self.bodies.store.put(&slice.object_key(self.bodies.volume, block), object.clone()).await?;
        failpoint!("body.uploaded");
        self.bodies.frames.keep(slice, block, &object);
        Ok(slice)
    }

    /// A writer for the object at `at`.
    pub async fn writer(&self, at: u64, len: u64) -> Result<FrameWriter, BodyError> {
        let key = self.id().await?.object_key(self.bodies.volume, (at / BLOCK_SIZE) as u32);
        Ok(FrameWriter::new(&key, len))
    }
}

impl Drop for OpenSlice {
    fn drop(&mut self) {
        let fate = self.fate.load(Ordering::Acquire);
        // Objects of a publish without an answer may be named by the body: they are the session's sweep's.
        match (self.pack.get(), fate) {
            (Some((pack, _)), fate) => {
                match fate {
                    PUBLISHED => pack.named(),
                    SENT => pack.uncertain(),
                    _ => {}
                }
                // An upload of its own that failed before.
                if let Some(upload) = self.upload.get() {
                    let slice = SliceId { upload: *upload, inode: self.inode, chunk: self.chunk };
                    self.bodies.delete_late(slice, self.len.load(Ordering::Relaxed));
                }
            }
            (None, UNSENT) => {
                if let Some(slice) = self.known_id() {
                    self.bodies.delete_unused(slice, self.len());
                }
            }
            _ => {}
        }
    }
}

impl Bodies {
    /// Deletes the objects of a slice that no body names, in the background; then the upload is settled.
    pub(crate) fn delete_unused(self: &Arc<Self>, slice: SliceId, len: u64) {
        let bodies = self.clone();
        self.runtime.spawn(async move { bodies.delete_and_settle(slice, len).await });
    }

    /// The same after an upload that failed: the objects may still come, later than a deletion now.
    pub(crate) fn delete_late(self: &Arc<Self>, slice: SliceId, len: u64) {
        let bodies = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = bodies.delete(slice, len).await {
                tracing::debug!(%slice, %error, "unused objects are deleted later");
            }
            tokio::time::sleep(LATE).await;
            bodies.delete_and_settle(slice, len).await;
        });
    }

    async fn delete(&self, slice: SliceId, len: u64) -> Result<(), ObjectError> {
        let keys: Vec<_> = (0..SliceId::blocks(len)).map(|block| slice.object_key(self.volume, block)).collect();
        self.store.delete(&keys).await
    }

    async fn delete_and_settle(&self, slice: SliceId, len: u64) {
        failpoint!("body.unused");
        match self.delete(slice, len).await {
            Ok(()) if slice.is_pack() => self.ids.settle_pack(slice.upload),
            Ok(()) => self.ids.settle(slice.upload),
            Err(error) => tracing::info!(%slice, %error, "unused objects are left to the sweep of the session"),
        }
    }
}

/// One object: what it holds, and how far it got.
#[derive(Debug)]
pub(crate) struct Job {
    pub slice: Arc<OpenSlice>,
    /// What it held when it was sealed, less what was cut off since: file offsets to slice offsets.
    pub content: RangeMap<At>,
    pub uploaded: bool,
    pub failures: u64,
    pub error: Option<BodyError>,
    /// Ends the pause between two tries.
    pub retry: Arc<Notify>,
}

/// A piece of an object's payload: where in the file it belongs and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub offset: u64,
    pub len: u64,
    pub source: Source,
}

/// What an upload needs.
#[derive(Debug)]
pub(crate) struct Upload {
    pub job: u64,
    pub slice: Arc<OpenSlice>,
    pub at: u64,
    pub pieces: Vec<Piece>,
}

impl Upload {
    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }
}

/// Where staged pieces are: block, position, length.
pub(crate) fn payload(pieces: &[Piece]) -> impl Iterator<Item = (Arc<StageBlock>, u64, u64)> {
    pieces.iter().filter_map(|piece| match &piece.source {
        Source::Staged { block, at } => Some((block.clone(), *at, piece.len)),
        Source::Stored(_) => None,
    })
}

/// Frames bytes of the stage. Reads what may be a disk.
pub(crate) fn copy_staged(writer: &mut FrameWriter, block: &StageBlock, at: u64, len: u64) -> Result<(), BodyError> {
    let mut buffer = vec![0; FRAME_PAYLOAD.min(len) as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(FRAME_PAYLOAD) as usize;
        block.read(at + done, &mut buffer[..part])?;
        writer.push(&buffer[..part]);
        done += part as u64;
    }
    Ok(())
}

impl OpenFile {
    /// Uploads in the background, until that has succeeded or the job is dropped.
    pub(crate) fn start_upload(self: &Arc<Self>, upload: Upload, retry: Arc<Notify>) {
        let file = self.clone();
        let len = upload.len();
        self.bodies.leaving.fetch_add(len, Ordering::Relaxed);
        self.bodies.runtime.spawn(async move {
            let mut pause = RETRY_FIRST;
            // The file may have been cut or given up during a pause.
            while file.state.lock().jobs.contains_key(&upload.job) {
                let result = match is_small(upload.at, &upload.pieces) {
                    true => file.bodies.upload_small(&upload.slice, &upload.pieces).await,
                    false => upload.slice.put_pieces(upload.at, &upload.pieces).await,
                };
                let done = file.note_upload(&upload, result);
                if done {
                    break;
                }
                drop(tokio::time::timeout(pause, retry.notified()).await);
                pause = (pause * 2).min(RETRY_MAX);
            }
            let bodies = file.bodies.clone();
            // The room is free only now that the pieces are gone.
            drop(upload);
            bodies.leaving.fetch_sub(len, Ordering::Relaxed);
            if bodies.stage.is_short() {
                bodies.make_room();
            }
        });
    }

    /// Notes how a try ended; answers whether it was the last.
    fn note_upload(self: &Arc<Self>, upload: &Upload, result: Result<(), BodyError>) -> bool {
        let mut state = self.state.lock();
        let Some(job) = state.jobs.get_mut(&upload.job) else {
            return true;
        };
        let done = match result {
            Ok(()) => {
                job.uploaded = true;
                job.error = None;
                // A pack tells its length; a slice of whole blocks may have grown since.
                let (mut at, slice_len) = match upload.slice.base_in_pack() {
                    Some(base) => (base, upload.slice.len()),
                    None => (upload.at, upload.at + upload.len()),
                };
                for piece in &upload.pieces {
                    if let (Source::Staged { block, .. }, Some(slice)) = (&piece.source, upload.slice.known_id()) {
                        let stored = Source::Stored(SlicePart { slice, offset: at, slice_len });
                        replace(&mut state.live, piece, block, &stored);
                    }
                    at += piece.len;
                }
                true
            }
            Err(error) => {
                tracing::warn!(inode = %self.inode(), %error, "an upload failed; the bytes stay staged and it is tried again");
                job.failures += 1;
                job.error = Some(error);
                false
            }
        };
        drop(state);
        self.progress.notify_waiters();
        done
    }
}

/// Lets the bytes of a piece that are not overwritten since be read from the object instead of the stage.
fn replace(live: &mut RangeMap<Source>, piece: &Piece, staged: &Arc<StageBlock>, stored: &Source) {
    use crate::ranges::Content;
    let current: Vec<_> = live.within(piece.offset..piece.offset + piece.len).collect();
    for span in current {
        if matches!(&span.content, Source::Staged { block, .. } if Arc::ptr_eq(block, staged)) {
            live.lay(span.start, span.len, stored.skip(span.start - piece.offset));
        }
    }
}
