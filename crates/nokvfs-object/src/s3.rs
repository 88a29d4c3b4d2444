//! The S3 backend.
//!
//! The SDK sends single requests; retries, deadlines and the number in flight are ours, because one attempt here
//! includes reading the body, and because a lost reply of a conditional put needs a look at the object.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::s3_error::{Failure, chain, judge};
use crate::store::{check_delete, check_key, check_list, clip_range};
use crate::{ListPage, ObjectError, ObjectInfo, ObjectStore, S3Options};

/// Servers and load balancers drop idle connections after 20 s and more; a reused dead one costs a retry.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// A TCP and TLS handshake that takes longer is tried anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait between attempts; doubles up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Attempts that a deadline must have room for: one that stalls is given up while others still can succeed.
const ATTEMPTS_MIN: u32 = 3;
/// The largest object that [`ObjectStore::get`] holds in memory; ours are blocks of 4 MiB.
const GET_MAX: u64 = 256 << 20;
/// A probe answers while someone waits for it.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// Objects in a bucket of any store that speaks S3.
pub struct S3Store {
    client: Client,
    options: S3Options,
    prefix: String,
    in_flight: Arc<Semaphore>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Store").field(&self.options).finish()
    }
}

impl S3Store {
    /// A store for `options`. Connects at the first call; [`S3Store::check`] proves that it works.
    pub fn new(options: S3Options) -> Result<Self, ObjectError> {
        options.validate()?;
        let pool = Builder::new().pool_idle_timeout(POOL_IDLE).pool_max_idle_per_host(options.max_in_flight);
        let http_client = if options.is_https() {
            let trust = match &options.ca {
                Some(ca) => TrustStore::empty().with_pem_certificate(ca.as_bytes()),
                None => TrustStore::default(),
            };
            let tls = TlsContext::builder().with_trust_store(trust).build();
            let tls = tls.map_err(|error| ObjectError::Invalid(format!("S3 option ca: {}", chain(&error))))?;
            pool.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls).build_https()
        } else {
            pool.build_http()
        };
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let credentials = Credentials::new(&options.access_key, &options.secret_key, None, None, "options");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client)
            .endpoint_url(options.endpoint.trim_end_matches('/'))
            .region(Region::new(options.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(options.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build())
            .build();
        let prefix = options.key_prefix();
        let in_flight = Arc::new(Semaphore::new(options.max_in_flight));
        Ok(Self { client: Client::from_conf(config), options, prefix, in_flight })
    }

    /// Proves that objects can be written, read and deleted; the error says what to correct. At most 10 s.
    pub async fn check(&self) -> Result<(), ObjectError> {
        let place = format!("bucket {} at {}", self.options.bucket, self.options.endpoint);
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|error| ObjectError::Unavailable(format!("no random bytes: {error}")))?;
        let key = format!("probe/{:016x}", u64::from_le_bytes(id));
        let body = Bytes::from_static(b"written, read and deleted at start");
        let deadline = Instant::now() + CHECK_DEADLINE.min(self.options.deadline);
        let probe = async {
            self.put_until(&key, body.clone(), deadline).await?;
            let read = self.get_until(&key, None, deadline).await;
            let deleted = self.delete_until(std::slice::from_ref(&key), deadline).await;
            if read? != body {
                return Err(ObjectError::Invalid(format!("{place} answers other bytes than were put")));
            }
            deleted
        };
        probe.await.map_err(|error| match error {
            ObjectError::NotFound(text) => ObjectError::Invalid(format!("{place}: {text}")),
            ObjectError::Denied(text) => ObjectError::Denied(format!("{place}: {text}")),
            ObjectError::Invalid(text) => ObjectError::Invalid(format!("{place}: {text}")),
            ObjectError::Unavailable(text) | ObjectError::Deadline(text) => {
                ObjectError::Unavailable(format!("{place} can't be used, is the endpoint right and up? {text}"))
            }
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline
    }

    fn full_key(&self, key: &str) -> Result<String, ObjectError> {
        check_key(key)?;
        let full = format!("{}{key}", self.prefix);
        check_key(&full)?;
        Ok(full)
    }

    /// Calls `attempt` until it succeeds, fails for good, or `deadline` passes. `attempt` learns whether an earlier one
    /// may have taken effect.
    async fn retry<T, F, Fut>(&self, what: &str, deadline: Instant, attempt: F) -> Result<T, ObjectError>
    where
        F: Fn(bool) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let slice = self.options.deadline / ATTEMPTS_MIN;
        let mut ambiguous = false;
        let mut backoff = BACKOFF_MIN;
        let mut last: Option<ObjectError> = None;
        loop {
            let Ok(permit) = timeout_at(deadline, self.in_flight.acquire()).await else { break };
            let _permit = permit.map_err(|_| ObjectError::Unavailable(format!("{what}: the store is closed")))?;
            let until = deadline.min(Instant::now() + slice);
            let failure = match timeout_at(until, attempt(ambiguous)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::broken(format!("{what}: no answer within {:?}", slice.min(self.options.deadline))),
            };
            drop(_permit);
            if !failure.retry {
                return Err(failure.error);
            }
            ambiguous |= failure.ambiguous;
            tracing::debug!(error = %failure.error, "retrying");
            last = Some(failure.error);
            let wait = backoff.mul_f64(0.5 + 0.5 * jitter());
            if Instant::now() + wait >= deadline {
                break;
            }
            tokio::time::sleep(wait).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        Err(match last {
            Some(error) => ObjectError::Unavailable(format!("{error}; gave up after {:?}", self.options.deadline)),
            None => ObjectError::Deadline(format!("{what}: {} requests were in flight", self.options.max_in_flight)),
        })
    }

    async fn put_until(&self, key: &str, body: Bytes, deadline: Instant) -> Result<(), ObjectError> {
        let full = self.full_key(key)?;
        let what = format!("put {full}");
        self.retry(&what, deadline, |_| self.put_once(&what, &full, body.clone(), false)).await
    }

    async fn put_once(&self, what: &str, full: &str, body: Bytes, absent: bool) -> Result<(), Failure> {
        let mut put = self.client.put_object().bucket(&self.options.bucket).key(full);
        if absent {
            put = put.if_none_match("*");
        }
        let put = put.body(ByteStream::from(body));
        // TLS protects the body already; a SHA-256 of it would cost more than the rest of the request.
        let sent = if self.options.is_https() {
            put.customize().disable_payload_signing().send().await
        } else {
            put.send().await
        };
        sent.map(|_| ()).map_err(|error| judge(what, error))
    }

    /// One attempt of a conditional put. "Taken" after an attempt of ours whose reply was lost may mean our own object:
    /// then the content decides.
    async fn put_absent_once(&self, what: &str, full: &str, body: Bytes, ambiguous: bool) -> Result<bool, Failure> {
        match self.put_once(what, full, body.clone(), true).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.status == Some(412) && !ambiguous => Ok(false),
            Err(failure) if failure.status == Some(412) => Ok(self.get_once(what, full, None).await? == body),
            Err(failure) => Err(failure),
        }
    }

    async fn get_until(&self, key: &str, range: Option<Range<u64>>, deadline: Instant) -> Result<Bytes, ObjectError> {
        let full = self.full_key(key)?;
        if let Some(range) = range.as_ref().filter(|range| range.start >= range.end) {
            return Err(ObjectError::Invalid(format!("empty range {range:?} of {full}")));
        }
        let what = format!("get {full}");
        self.retry(&what, deadline, |_| self.get_once(&what, &full, range.clone())).await
    }

    async fn get_once(&self, what: &str, full: &str, range: Option<Range<u64>>) -> Result<Bytes, Failure> {
        let mut get = self.client.get_object().bucket(&self.options.bucket).key(full);
        if let Some(range) = &range {
            get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let got = get.send().await.map_err(|error| judge(what, error))?;
        let len = got.content_length().and_then(|len| u64::try_from(len).ok()).unwrap_or(0);
        if len > GET_MAX {
            return Err(Failure::fatal(ObjectError::Invalid(format!("{what}: {len} bytes, over {GET_MAX}"))));
        }
        let ranged = got.content_range().is_some();
        let body = read_body(what, got.body, len).await?;
        match range {
            // A store may answer the whole object instead of the range.
            Some(range) if !ranged => {
                let range = clip_range(full, range, body.len() as u64).map_err(Failure::fatal)?;
                Ok(body.slice(range.start as usize..range.end as usize))
            }
            Some(range) if body.len() as u64 > range.end - range.start => {
                Err(Failure::fatal(ObjectError::Invalid(format!("{what}: more bytes than were asked for"))))
            }
            _ => Ok(body),
        }
    }

    async fn head_once(&self, what: &str, full: &str) -> Result<u64, Failure> {
        let head = self.client.head_object().bucket(&self.options.bucket).key(full).send().await;
        let head = head.map_err(|error| judge(what, error))?;
        let len = head.content_length().and_then(|len| u64::try_from(len).ok());
        len.ok_or_else(|| Failure::fatal(ObjectError::Invalid(format!("{what}: the store tells no length"))))
    }

    async fn delete_until(&self, keys: &[String], deadline: Instant) -> Result<(), ObjectError> {
        check_delete(keys)?;
        let full = keys.iter().map(|key| self.full_key(key)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = full.first() else { return Ok(()) };
        let what = format!("delete {first} and {} more", full.len() - 1);
        self.retry(&what, deadline, |_| self.delete_once(&what, &full)).await
    }

    async fn delete_once(&self, what: &str, full: &[String]) -> Result<(), Failure> {
        let bucket = &self.options.bucket;
        if let [key] = full {
            let deleted = self.client.delete_object().bucket(bucket).key(key).send().await;
            return match deleted.map_err(|error| judge(what, error)) {
                Err(failure) if matches!(failure.error, ObjectError::NotFound(_)) => Ok(()),
                other => other.map(|_| ()),
            };
        }
        let objects = full.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let invalid = |error| Failure::fatal(ObjectError::Invalid(format!("{what}: {}", chain(&error))));
        let objects = objects.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let delete = Delete::builder().quiet(true).set_objects(Some(objects)).build().map_err(invalid)?;
        let done = self.client.delete_objects().bucket(bucket).delete(delete).send().await;
        let done = done.map_err(|error| judge(what, error))?;
        match done.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
            None => Ok(()),
            Some(error) => {
                let code = error.code().unwrap_or("no error code");
                let text = format!("delete {}: {code}: {}", error.key().unwrap_or(""), error.message().unwrap_or(""));
                match code {
                    "AccessDenied" => Err(Failure::fatal(ObjectError::Denied(text))),
                    _ => Err(Failure::broken(text)),
                }
            }
        }
    }

    async fn list_once(&self, what: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<ListPage, Failure> {
        let limit = limit as i32;
        let list = self.client.list_objects_v2().bucket(&self.options.bucket).prefix(prefix).max_keys(limit);
        let page = list.set_start_after(after.map(str::to_owned)).send().await;
        let page = page.map_err(|error| judge(what, error))?;
        let mut objects = Vec::with_capacity(page.contents().len());
        for object in page.contents() {
            let key = object.key().and_then(|key| key.strip_prefix(&self.prefix));
            let len = object.size().and_then(|len| u64::try_from(len).ok());
            let (Some(key), Some(len)) = (key, len) else {
                let text = format!("{what}: an object without key or size, or outside of the prefix");
                return Err(Failure::fatal(ObjectError::Invalid(text)));
            };
            objects.push(ObjectInfo { key: key.to_owned(), len });
        }
        Ok(ListPage { objects, more: page.is_truncated().unwrap_or(false) })
    }
}

#[async_trait::async_trait]
impl ObjectStore for S3Store {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), ObjectError> {
        self.put_until(key, body, self.deadline()).await
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool, ObjectError> {
        let full = self.full_key(key)?;
        let what = format!("put if absent {full}");
        let attempt = |ambiguous| self.put_absent_once(&what, &full, body.clone(), ambiguous);
        self.retry(&what, self.deadline(), attempt).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        self.get_until(key, range, self.deadline()).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, ObjectError> {
        let full = self.full_key(key)?;
        let what = format!("head {full}");
        let len = self.retry(&what, self.deadline(), |_| self.head_once(&what, &full)).await?;
        Ok(ObjectInfo { key: key.to_owned(), len })
    }

    async fn delete(&self, keys: &[String]) -> Result<(), ObjectError> {
        self.delete_until(keys, self.deadline()).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<ListPage, ObjectError> {
        check_list(limit)?;
        let full = format!("{}{prefix}", self.prefix);
        let after = after.map(|after| format!("{}{after}", self.prefix));
        let what = format!("list {full}");
        self.retry(&what, self.deadline(), |_| self.list_once(&what, &full, after.as_deref(), limit)).await
    }
}

/// Reads a body of `len` announced bytes into one buffer.
async fn read_body(what: &str, mut body: ByteStream, len: u64) -> Result<Bytes, Failure> {
    let broken = |error| Failure::broken(format!("{what}: {}", chain(&error)));
    let Some(first) = body.try_next().await.map_err(broken)? else {
        return if len == 0 { Ok(Bytes::new()) } else { Err(Failure::broken(format!("{what}: no body"))) };
    };
    if first.len() as u64 == len {
        return Ok(first);
    }
    let mut buffer = BytesMut::with_capacity(len as usize);
    buffer.extend_from_slice(&first);
    while let Some(piece) = body.try_next().await.map_err(broken)? {
        if (buffer.len() + piece.len()) as u64 > GET_MAX {
            return Err(Failure::fatal(ObjectError::Invalid(format!("{what}: over {GET_MAX} bytes"))));
        }
        buffer.extend_from_slice(&piece);
    }
    if len != 0 && buffer.len() as u64 != len {
        return Err(Failure::broken(format!("{what}: {} of {len} bytes arrived", buffer.len())));
    }
    Ok(buffer.freeze())
}

/// A number in 0..1 that differs between processes, so that their retries don't meet again. Without randomness the
/// full wait is as good as any.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}
