//! The S3 operations. What is not here answers NotImplemented.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio::sync::Semaphore;

use crate::disk::{Change, Disk};
use crate::errors::ChangeError;
use crate::read::{self, Object as OpenObject, Pieces, SMALL};
use crate::stage::{Stage, Staged};

/// Puts that write at once: each holds up to [`PIECE`] of its body, and a thread while it flushes.
const WRITERS: usize = 64;
/// Bytes of a body that are gathered before they are written.
const PIECE: usize = 1 << 20;
/// S3's limits.
const BODY_MAX: u64 = 5 << 30;
const KEY_MAX: usize = 1024;
const BATCH_MAX: usize = 1000;

/// The one bucket.
pub(crate) struct Bucket {
    disk: Arc<Disk>,
    name: String,
    writers: Semaphore,
}

impl Bucket {
    pub(crate) fn new(disk: Arc<Disk>, name: String) -> Self {
        Self { disk, name, writers: Semaphore::new(WRITERS) }
    }

    fn check(&self, bucket: &str, key: Option<&str>) -> S3Result<()> {
        if bucket != self.name {
            return Err(s3_error!(NoSuchBucket, "the trial store has the bucket {} only", self.name));
        }
        match key {
            Some("") => Err(s3_error!(InvalidArgument, "empty key")),
            Some(key) if key.len() > KEY_MAX => Err(s3_error!(KeyTooLongError)),
            _ => Ok(()),
        }
    }

    async fn open(&self, key: &str) -> S3Result<OpenObject> {
        let path = self.disk.file(key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let opened = match read::open(&path, true) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                blocking(move || read::open(&path, false)).await?.map_err(internal)?
            }
            other => other.map_err(internal)?,
        };
        opened.ok_or_else(|| s3_error!(NoSuchKey))
    }

    async fn stage(&self, mut body: StreamingBlob, len: Option<i64>, md5: Option<[u8; 16]>) -> S3Result<Staged> {
        let disk = Arc::clone(&self.disk);
        let mut stage: Option<Stage> = None;
        let mut received = 0;
        loop {
            let mut pieces: Vec<Bytes> = Vec::new();
            let mut gathered = 0;
            let mut ended = false;
            while gathered < PIECE {
                match body.next().await {
                    Some(Ok(piece)) => {
                        gathered += piece.len();
                        pieces.push(piece);
                    }
                    Some(Err(error)) => return Err(broken_body(error)),
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            received += gathered as u64;
            if received > BODY_MAX {
                return Err(s3_error!(EntityTooLarge));
            }
            if ended && len.is_some_and(|len| u64::try_from(len) != Ok(received)) {
                return Err(s3_error!(IncompleteBody));
            }
            let (before, disk) = (stage.take(), Arc::clone(&disk));
            let step = move || write_step(before, &disk, &pieces, ended, md5);
            match blocking(step).await? {
                Ok(Step::Written(next)) => stage = Some(next),
                Ok(Step::Finished(staged)) => return Ok(staged),
                Ok(Step::WrongDigest) => return Err(s3_error!(BadDigest)),
                Err(error) => return Err(change_error(&error)),
            }
        }
    }
}

enum Step {
    Written(Stage),
    Finished(Staged),
    WrongDigest,
}

fn write_step(
    stage: Option<Stage>,
    disk: &Disk,
    pieces: &[Bytes],
    ended: bool,
    md5: Option<[u8; 16]>,
) -> Result<Step, ChangeError> {
    let mut stage = match stage {
        Some(stage) => stage,
        None => Stage::new(disk.unnamed_file()?, md5.is_some()),
    };
    stage.write(pieces)?;
    if !ended {
        return Ok(Step::Written(stage));
    }
    if md5.is_some() && stage.md5() != md5 {
        return Ok(Step::WrongDigest);
    }
    stage.finish().map(Step::Finished)
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let bucket = s3s::dto::Bucket { name: Some(self.name.clone()), ..Default::default() };
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(vec![bucket]), ..Default::default() }))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check(&req.input.bucket, None)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        if req.input.bucket != self.name {
            return Err(s3_error!(AccessDenied, "the trial store has the bucket {} only", self.name));
        }
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        self.check(&input.bucket, Some(&input.key))?;
        let absent = match &input.if_none_match {
            None => false,
            Some(ETagCondition::Any) => true,
            Some(ETagCondition::ETag(_)) => return Err(s3_error!(NotImplemented, "If-None-Match takes * only")),
        };
        if input.if_match.is_some() {
            return Err(s3_error!(NotImplemented, "If-Match is not supported"));
        }
        // Spares the body's way to disk; the committer decides.
        if absent && self.disk.file(&input.key).is_some() {
            return Err(change_error(&ChangeError::Exists));
        }
        let md5 = match &input.content_md5 {
            None => None,
            Some(text) => Some(decode_md5(text).ok_or_else(|| s3_error!(InvalidDigest))?),
        };
        let body = input.body.unwrap_or_else(|| StreamingBlob::from(Body::empty()));
        let permit = self.writers.acquire().await.map_err(|_| s3_error!(ServiceUnavailable))?;
        let staged = self.stage(body, input.content_length, md5).await?;
        drop(permit);
        let etag = staged.footer.etag();
        let put = Change::Put { key: input.key, staged, absent };
        self.disk.change(put).await.map_err(|error| change_error(&error))?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        self.check(&input.bucket, Some(&input.key))?;
        let object = self.open(&input.key).await?;
        let len = object.footer.len;
        let range = match &input.range {
            None => 0..len,
            Some(range) => range.check(len).map_err(|_| s3_error!(InvalidRange))?,
        };
        let content_range = input.range.map(|_| format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1)));
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some((range.end - range.start) as i64),
            content_range,
            e_tag: Some(ETag::Strong(object.footer.etag())),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        };
        let small = range.end - range.start <= SMALL;
        let cached = if small { read::read_cached(&object.file, range.clone()) } else { Ok(Bytes::new()) };
        output.body = Some(match cached {
            Ok(bytes) if small => StreamingBlob::from(Body::from(bytes)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(internal(error)),
            _ => StreamingBlob::new(Pieces::new(object.file, range)),
        });
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check(&req.input.bucket, Some(&req.input.key))?;
        let object = self.open(&req.input.key).await?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(object.footer.len as i64),
            e_tag: Some(ETag::Strong(object.footer.etag())),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check(&req.input.bucket, Some(&req.input.key))?;
        let delete = Change::Delete { key: req.input.key };
        self.disk.change(delete).await.map_err(|error| change_error(&error))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.check(&req.input.bucket, None)?;
        let objects = req.input.delete.objects;
        if objects.len() > BATCH_MAX {
            return Err(s3_error!(MalformedXML, "at most {BATCH_MAX} keys"));
        }
        let quiet = req.input.delete.quiet.unwrap_or(false);
        let changes = objects.into_iter().map(|object| async {
            let key = object.key;
            let done = self.disk.change(Change::Delete { key: key.clone() }).await;
            (key, done)
        });
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (key, done) in futures::future::join_all(changes).await {
            match done {
                Ok(()) if quiet => {}
                Ok(()) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
                Err(error) => errors.push(s3s::dto::Error {
                    key: Some(key),
                    code: Some("InternalError".to_owned()),
                    message: Some(error.to_string()),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        self.check(&input.bucket, None)?;
        let limit = input.max_keys.unwrap_or(BATCH_MAX as i32);
        let limit = usize::try_from(limit).map_err(|_| s3_error!(InvalidArgument, "max-keys"))?.min(BATCH_MAX);
        let after = match &input.continuation_token {
            Some(token) => Some(decode_token(token).ok_or_else(|| s3_error!(InvalidArgument, "continuation-token"))?),
            None => input.start_after.clone(),
        };
        let prefix = input.prefix.as_deref().unwrap_or("");
        let delimiter = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let listing = self.list(prefix, delimiter, after.as_deref(), limit);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            max_keys: Some(limit as i32),
            key_count: Some((listing.contents.len() + listing.folders.len()) as i32),
            is_truncated: Some(listing.next.is_some()),
            next_continuation_token: listing.next.map(hex::encode),
            contents: Some(listing.contents),
            common_prefixes: Some(listing.folders),
            prefix: input.prefix,
            delimiter: input.delimiter,
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            ..Default::default()
        }))
    }
}

#[derive(Default)]
struct Listing {
    contents: Vec<Object>,
    folders: Vec<CommonPrefix>,
    next: Option<String>,
}

impl Bucket {
    /// Lists in key order. The next page begins after `next`: a key, or a bound above all keys of a folder.
    fn list(&self, prefix: &str, delimiter: Option<&str>, after: Option<&str>, limit: usize) -> Listing {
        self.disk.with_index(|index| {
            let mut listing = Listing::default();
            let mut last: Option<String> = after.map(str::to_owned);
            while let Some((key, entry)) = {
                let lower = match last.as_deref() {
                    Some(last) if last >= prefix => Bound::Excluded(last),
                    _ => Bound::Included(prefix),
                };
                index.range::<str, _>((lower, Bound::Unbounded)).next().filter(|(key, _)| key.starts_with(prefix))
            } {
                if listing.contents.len() + listing.folders.len() == limit {
                    listing.next = last;
                    break;
                }
                let rest = &key[prefix.len()..];
                if let Some(end) = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len())) {
                    let folder = &key[..prefix.len() + end];
                    last = Some(format!("{folder}{}", char::MAX));
                    listing.folders.push(CommonPrefix { prefix: Some(folder.to_owned()) });
                    continue;
                }
                last = Some(key.to_string());
                listing.contents.push(Object {
                    key: Some(key.to_string()),
                    size: Some(entry.len as i64),
                    last_modified: Some(entry.modified.into()),
                    ..Default::default()
                });
            }
            listing
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> S3Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| s3_error!(error, InternalError))
}

fn internal(error: io::Error) -> S3Error {
    S3Error::with_message(S3ErrorCode::InternalError, error.to_string())
}

fn broken_body(error: s3s::StdError) -> S3Error {
    // A wrong x-amz-content-sha256 and a connection that broke both end the body with an error.
    S3Error::with_message(S3ErrorCode::IncompleteBody, error.to_string())
}

fn change_error(error: &ChangeError) -> S3Error {
    match error {
        ChangeError::Exists => s3_error!(PreconditionFailed, "the key is taken"),
        ChangeError::Full => {
            let code = S3ErrorCode::Custom("InsufficientStorage".into());
            let mut error = S3Error::with_message(code, "the trial store's disk is full");
            error.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            error
        }
        ChangeError::Failed(text) => S3Error::with_message(S3ErrorCode::InternalError, text.clone()),
    }
}

fn decode_token(token: &str) -> Option<String> {
    String::from_utf8(hex::decode(token).ok()?).ok()
}

fn decode_md5(text: &str) -> Option<[u8; 16]> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
}
