//! One connection: requests go out as they come, replies come back in any order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use nokvfs_failpoint::failpoint;
use nokvfs_protocol::{
    Answer, Call, FrameKind, Hello, HelloReply, MAX_FRAME, MAX_HELLO, decode_reply, encode_request, take_frame,
};
use nokvfs_types::MetaError;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::Endpoint;
use crate::tls::TlsConnector;

/// How long each step of connecting may take.
const CONNECT_STEP: Duration = Duration::from_secs(5);
/// How much is read at once at most; keeps the buffer from growing by doubling.
const READ_CHUNK: usize = 64 << 10;
/// Requests that wait for a lock, besides those in flight; the server takes as many.
const LOCK_WAITS: usize = 1024;
/// A write buffer that grew beyond this is given back once it is empty.
const KEEP_BUFFER: usize = 1 << 20;

/// A byte stream to a server.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
type BoxStream = Box<dyn Stream>;

/// Why a request got no answer on this connection.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The connection ended. The request may have been carried out.
    Lost,
    /// The request was not sent.
    NotSent(MetaError),
    /// The deadline passed. The request may yet be carried out.
    Deadline,
}

type Reply = Result<Answer, MetaError>;

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    outbound: Mutex<BytesMut>,
    written: Notify,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next_id: AtomicU64,
    received: AtomicBool,
    in_flight: Arc<Semaphore>,
    lock_waits: Arc<Semaphore>,
    /// Which of its session's connections it is.
    incarnation: AtomicU64,
    ended: CancellationToken,
    why: Mutex<Option<String>>,
}

impl Connection {
    /// Connects and shakes hands.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        tls: Option<&TlsConnector>,
        agent: &str,
    ) -> Result<Arc<Self>, MetaError> {
        let stream = open_stream(endpoint).await?;
        let mut stream: BoxStream = match tls {
            None => stream,
            Some(tls) => {
                let handshake = tls.connector.connect(tls.name.clone(), stream);
                let secured = step("the TLS handshake", handshake).await?;
                secured.map_err(|error| tls_error(endpoint, &error)).map(Box::new)?
            }
        };
        let (reply, rest) = step("the greeting", shake_hands(&mut stream, agent)).await??;
        if let Some(error) = reply.refused {
            return Err(error);
        }
        let connection = Arc::new(Connection {
            outbound: Mutex::new(BytesMut::with_capacity(READ_CHUNK)),
            written: Notify::new(),
            waiting: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(1),
            received: AtomicBool::new(true),
            in_flight: Arc::new(Semaphore::new(reply.in_flight.min(4096) as usize)),
            lock_waits: Arc::new(Semaphore::new(LOCK_WAITS)),
            incarnation: AtomicU64::new(1),
            ended: CancellationToken::new(),
            why: Mutex::new(None),
        });
        let (reader, writer) = tokio::io::split(stream);
        tokio::spawn(Arc::clone(&connection).read(reader, rest));
        tokio::spawn(Arc::clone(&connection).write(writer));
        Ok(connection)
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn request(&self, call: &Call, deadline: Instant) -> Result<Reply, NoAnswer> {
        let _permit = match call {
            Call::WaitLock(..) => self.lock_permit()?,
            _ => self.permit(deadline).await?,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        let _forget = Forget { connection: self, id };
        // Looked at after the insertion: whoever ends the connection drops all that wait after marking it ended.
        if self.ended.is_cancelled() {
            return Err(NoAnswer::NotSent(self.unavailable()));
        }
        let timeout = deadline.saturating_duration_since(Instant::now());
        encode_request(&mut self.outbound.lock(), id, timeout, call).map_err(NoAnswer::NotSent)?;
        failpoint!("client.sending");
        self.written.notify_one();
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(reply)) => {
                failpoint!("client.answered");
                Ok(reply)
            }
            Ok(Err(_)) => Err(NoAnswer::Lost),
            Err(_) => Err(NoAnswer::Deadline),
        }
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, NoAnswer> {
        let acquire = Arc::clone(&self.in_flight).acquire_owned();
        match tokio::time::timeout_at(deadline.into(), acquire).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(NoAnswer::NotSent(self.unavailable())),
            Err(_) => Err(NoAnswer::NotSent(MetaError::Deadline("too many requests are in flight".into()))),
        }
    }

    fn lock_permit(&self) -> Result<OwnedSemaphorePermit, NoAnswer> {
        let beyond =
            || MetaError::NoLocks(format!("more than {LOCK_WAITS} requests wait for a lock; give some up first"));
        Arc::clone(&self.lock_waits).try_acquire_owned().map_err(|_| NoAnswer::NotSent(beyond()))
    }

    /// Which of its session's connections it is, from 1 on.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Says so, before anything is sent that tells it.
    pub(crate) fn set_incarnation(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Relaxed);
    }

    fn unavailable(&self) -> MetaError {
        MetaError::Unavailable(self.why.lock().clone().unwrap_or_else(|| "the connection ended".into()))
    }

    /// Whether the connection has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for the connection's end.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Why the connection ended.
    pub(crate) fn reason(&self) -> MetaError {
        self.unavailable()
    }

    /// Whether anything was received since the last question.
    pub(crate) fn take_received(&self) -> bool {
        self.received.swap(false, Ordering::Relaxed)
    }

    /// Ends the connection; all that wait are told.
    pub(crate) fn end(&self, why: &str) {
        self.why.lock().get_or_insert_with(|| why.to_owned());
        self.ended.cancel();
        self.in_flight.close();
        self.waiting.lock().clear();
    }

    async fn read(self: Arc<Self>, mut reader: ReadHalf<BoxStream>, mut buffer: BytesMut) {
        let reading = async {
            loop {
                self.dispatch(&mut buffer)?;
                if buffer.capacity() - buffer.len() < READ_CHUNK / 4 {
                    buffer.reserve(READ_CHUNK);
                }
                match reader.read_buf(&mut buffer).await {
                    Ok(0) => return Err("the server closed the connection".to_owned()),
                    Ok(_) => self.received.store(true, Ordering::Relaxed),
                    Err(error) => return Err(format!("reading from the server: {error}")),
                }
            }
        };
        let end: Result<(), String> = tokio::select! {
            end = reading => end,
            () = self.ended.cancelled() => return,
        };
        if let Err(why) = end {
            self.end(&why);
        }
    }

    fn dispatch(&self, buffer: &mut BytesMut) -> Result<(), String> {
        while let Some(frame) = take_frame(buffer, MAX_FRAME).map_err(|error| error.to_string())? {
            if frame.kind != FrameKind::Reply {
                return Err("the server sent a frame that is no reply".to_owned());
            }
            let reply = decode_reply(frame.message).map_err(|error| error.to_string())?;
            // Nobody waits any more once the deadline has passed.
            if let Some(sender) = self.waiting.lock().remove(&frame.id) {
                drop(sender.send(reply));
            }
        }
        Ok(())
    }

    async fn write(self: Arc<Self>, mut writer: WriteHalf<BoxStream>) {
        let mut batch = BytesMut::new();
        loop {
            std::mem::swap(&mut *self.outbound.lock(), &mut batch);
            if batch.is_empty() {
                tokio::select! {
                    () = self.written.notified() => continue,
                    () = self.ended.cancelled() => break,
                }
            }
            let sending = async {
                writer.write_all(&batch).await?;
                writer.flush().await
            };
            let sent = tokio::select! {
                sent = sending => sent,
                () = self.ended.cancelled() => break,
            };
            if let Err(error) = sent {
                self.end(&format!("writing to the server: {error}"));
                break;
            }
            batch.clear();
            if batch.capacity() > KEEP_BUFFER {
                batch = BytesMut::new();
            }
        }
        // A peer that is gone already needs no goodbye.
        let _gone = tokio::time::timeout(Duration::from_secs(1), writer.shutdown()).await;
    }
}

/// Takes a request off the table when its caller stops waiting.
struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.waiting.lock().remove(&self.id);
    }
}

async fn step<T>(what: &str, work: impl Future<Output = T>) -> Result<T, MetaError> {
    let late = |_| MetaError::Unavailable(format!("{what} took longer than {} s", CONNECT_STEP.as_secs()));
    tokio::time::timeout(CONNECT_STEP, work).await.map_err(late)
}

async fn open_stream(endpoint: &Endpoint) -> Result<BoxStream, MetaError> {
    let refuse = |error: std::io::Error| MetaError::Unavailable(format!("connecting to {endpoint}: {error}"));
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(step("connecting", UnixStream::connect(path)).await?.map_err(refuse)?)),
        Endpoint::Tcp { host, port } => {
            let addresses = step("resolving the name", tokio::net::lookup_host((host.as_str(), *port))).await?;
            let mut last = MetaError::Unavailable(format!("{host} has no address"));
            for address in addresses.map_err(refuse)? {
                match step("connecting", TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => {
                        stream.set_nodelay(true).map_err(refuse)?;
                        return Ok(Box::new(stream));
                    }
                    Ok(Err(error)) => last = refuse(error),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

fn tls_error(endpoint: &Endpoint, error: &std::io::Error) -> MetaError {
    let text = format!("TLS with {endpoint}: {error}; check CA, certificate and server name");
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        MetaError::Unauthorized(text)
    } else {
        MetaError::Unavailable(text)
    }
}

async fn shake_hands(stream: &mut BoxStream, agent: &str) -> Result<(HelloReply, BytesMut), MetaError> {
    let broken = |error: &dyn std::fmt::Display| MetaError::Unavailable(format!("greeting the server: {error}"));
    let mut buffer = BytesMut::new();
    Hello::ours(agent).encode(&mut buffer).map_err(|error| MetaError::Internal(error.to_string()))?;
    stream.write_all(&buffer).await.map_err(|error| broken(&error))?;
    stream.flush().await.map_err(|error| broken(&error))?;
    buffer.clear();
    loop {
        // The reply is all that the server sends before it hears more.
        if let Some(frame) = take_frame(&mut buffer, MAX_HELLO).map_err(|error| broken(&error))? {
            if frame.kind != FrameKind::HelloReply {
                return Err(broken(&"it answered with something else"));
            }
            return Ok((HelloReply::decode(frame.message).map_err(|error| broken(&error))?, buffer));
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Err(broken(&"it closed the connection")),
            Ok(_) => {}
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                // With TLS 1.3 a refused client certificate shows only in the first read.
                return Err(MetaError::Unauthorized(format!("TLS: {error}; check the client's certificate")));
            }
            Err(error) => return Err(broken(&error)),
        }
    }
}
