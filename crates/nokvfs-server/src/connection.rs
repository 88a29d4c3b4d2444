//! One connection: greeting, then requests as they come and replies as they are ready.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nokvfs_failpoint::failpoint;
use nokvfs_protocol::{
    Answer, Call, FEATURES, Frame, FrameKind, Hello, HelloReply, MAX_HELLO, MAX_REQUEST, ProtocolError, VERSION_MAX,
    decode_request, encode_reply, take_frame,
};
use nokvfs_types::MetaError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::dispatch::{Peer, answer};
use crate::metrics::Metrics;
use crate::options::Limits;
use crate::outbound::Outbound;
use crate::peer::Role;

/// How much is read at once at most.
const READ_CHUNK: usize = 64 << 10;
/// Bytes of requests that a connection may have in flight; a larger single one is taken alone.
const IN_FLIGHT_BYTES: usize = 4 << 20;
/// Requests of a connection that wait for a lock, besides those in flight: about a kilobyte each.
const LOCK_WAITS: usize = 1024;

/// A byte stream from a peer.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
pub(crate) type BoxStream = Box<dyn Stream>;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// No more requests are taken.
    pub(crate) draining: CancellationToken,
    /// Everything is dropped.
    pub(crate) killed: CancellationToken,
}

/// Greets a peer; `Err` in `refused` or a failed greeting end the connection.
pub(crate) async fn greet(
    stream: &mut BoxStream,
    limits: &Limits,
    refused: Option<MetaError>,
) -> Result<BytesMut, MetaError> {
    let mut buffer = BytesMut::with_capacity(READ_CHUNK);
    let hello = read_hello(stream, &mut buffer).await;
    let refused = refused.or_else(|| match &hello {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(MetaError::Invalid(error.to_string())),
        Err(error) => Some(MetaError::Unavailable(error.to_string())),
    });
    let reply = HelloReply {
        version: hello.ok().and_then(Result::ok).map_or(VERSION_MAX, |(version, _)| version),
        features: FEATURES,
        in_flight: limits.in_flight,
        request_max: MAX_REQUEST as u32,
        agent: concat!("nokv-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        refused: refused.clone(),
    };
    let mut out = BytesMut::new();
    reply.encode(&mut out).map_err(|error| MetaError::Internal(error.to_string()))?;
    let send = async {
        stream.write_all(&out).await?;
        stream.flush().await
    };
    send.await.map_err(|error| MetaError::Unavailable(error.to_string()))?;
    match refused {
        None => Ok(buffer),
        Some(error) => {
            stream.shutdown().await.map_err(|error| MetaError::Unavailable(error.to_string()))?;
            Err(error)
        }
    }
}

async fn read_hello(
    stream: &mut BoxStream,
    buffer: &mut BytesMut,
) -> std::io::Result<Result<(u32, Hello), ProtocolError>> {
    loop {
        match take_frame(buffer, MAX_HELLO) {
            Ok(Some(Frame { kind: FrameKind::Hello, message, .. })) => {
                return Ok(Hello::decode(message).and_then(|hello| Ok((hello.agree()?, hello))));
            }
            Ok(Some(_)) => return Ok(Err(ProtocolError::NotAFrame("the first frame must be a greeting"))),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A request that was carried out.
struct Done {
    id: u64,
    bytes: usize,
    op: &'static str,
    /// It waited for a lock.
    waited: bool,
    started: Instant,
    reply: Result<Answer, MetaError>,
}

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

struct Connection {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    outbound: Arc<Outbound>,
    running: FuturesUnordered<Running>,
    running_bytes: usize,
    /// Those that wait for a lock.
    waiting: usize,
    /// Whether replies were put that the writer was not told of.
    unflushed: bool,
}

/// Serves a peer that was greeted, until it hangs up, breaks the protocol, or the server stops.
pub(crate) async fn serve(shared: Arc<Shared>, stream: BoxStream, role: Role, buffer: BytesMut) {
    let (reader, mut writer) = tokio::io::split(stream);
    let outbound = Arc::new(Outbound::default());
    let end = CancellationToken::new();
    let _writer_ends_too = end.clone().drop_guard();
    let patience = shared.limits.write_timeout;
    let writing = {
        let (outbound, end) = (Arc::clone(&outbound), end.clone());
        tokio::spawn(async move { outbound.write_to(&mut writer, patience, &end).await })
    };
    let peer = Arc::new(Peer::new(role, shared.limits.sessions_per_connection));
    let mut connection = Connection {
        shared,
        peer,
        outbound: Arc::clone(&outbound),
        running: FuturesUnordered::new(),
        running_bytes: 0,
        waiting: 0,
        unflushed: false,
    };
    if let Err(error) = connection.run(reader, buffer, &end).await {
        tracing::debug!(%error, "connection ends");
    }
    outbound.finish();
    if let Err(error) = writing.await {
        tracing::error!(%error, "the writer of a connection failed");
    }
}

impl Connection {
    async fn run(
        &mut self,
        mut reader: ReadHalf<BoxStream>,
        mut buffer: BytesMut,
        end: &CancellationToken,
    ) -> Result<(), String> {
        let draining = self.shared.draining.clone();
        let mut reading = true;
        loop {
            if reading && draining.is_cancelled() {
                reading = false;
            }
            let mut room = self.has_room();
            while reading && room {
                match take_frame(&mut buffer, MAX_REQUEST).map_err(|error| error.to_string())? {
                    Some(frame) => self.start(frame).await?,
                    None => break,
                }
                room = self.has_room();
            }
            if std::mem::take(&mut self.unflushed) {
                self.outbound.flush();
            }
            if !reading && self.running.is_empty() {
                return Ok(());
            }
            if reading && room && buffer.capacity() - buffer.len() < READ_CHUNK / 4 {
                buffer.reserve(READ_CHUNK);
            }
            let idle = self.running.is_empty();
            // What a peer does not take is not even asked of those that are done.
            let full = self.outbound.is_full();
            tokio::select! {
                Some(done) = self.running.next(), if !idle && !full => self.collect(done),
                read = reader.read_buf(&mut buffer), if reading && room => match read {
                    Ok(0) => reading = false,
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                },
                () = self.outbound.drained(), if full || (reading && !room) => {}
                () = draining.cancelled(), if reading => {}
                () = end.cancelled() => return Err("the peer takes no replies".to_owned()),
                () = tokio::time::sleep(self.shared.limits.idle_timeout), if idle && reading && room => {
                    return Err("the peer was silent".to_owned());
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() - self.waiting < self.shared.limits.in_flight as usize
            && self.running_bytes < IN_FLIGHT_BYTES
            && !self.outbound.is_full()
    }

    /// Starts a request; one that can be answered without waiting is answered here.
    async fn start(&mut self, frame: Frame) -> Result<(), String> {
        if frame.kind != FrameKind::Request {
            return Err("a frame that is no request".to_owned());
        }
        let (id, bytes, started) = (frame.id, frame.message.len(), Instant::now());
        let request = match decode_request(frame.message) {
            Ok(request) => request,
            Err(error) => {
                self.reply(Done { id, bytes: 0, op: "malformed", waited: false, started, reply: Err(error) });
                return Ok(());
            }
        };
        let op = request.call.name();
        let timeout = request.timeout.min(self.shared.limits.request_timeout);
        failpoint!("server.asked");
        let waited = matches!(request.call, Call::WaitLock(..));
        if waited && self.waiting == LOCK_WAITS {
            let reply = Err(MetaError::NoLocks(format!("{LOCK_WAITS} requests of the connection wait for a lock")));
            self.reply(Done { id, bytes: 0, op, waited: false, started, reply });
            return Ok(());
        }
        let draining = self.shared.draining.clone();
        let work = answer(Arc::clone(&self.shared.backend), Arc::clone(&self.peer), request.call);
        let mut running: Running = Box::pin(async move {
            let work = async {
                tokio::select! {
                    biased;
                    reply = work => reply,
                    // Someone else's unlocking is nothing to wait for when the server stops.
                    () = draining.cancelled(), if waited => Err(MetaError::Unavailable("the server is stopping".into())),
                }
            };
            let reply = tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(late(op, timeout)));
            Done { id, bytes, op, waited, started, reply }
        });
        match futures::poll!(running.as_mut()) {
            std::task::Poll::Ready(done) => self.reply(done),
            std::task::Poll::Pending => {
                self.running_bytes += bytes;
                self.waiting += usize::from(waited);
                self.running.push(running);
            }
        }
        Ok(())
    }

    /// Takes a finished request, and all that are finished too: one batch of replies.
    fn collect(&mut self, first: Done) {
        let mut next = Some(first);
        while let Some(done) = next {
            self.running_bytes -= done.bytes;
            self.waiting -= usize::from(done.waited);
            self.reply(done);
            if self.outbound.is_full() {
                return;
            }
            next = futures::FutureExt::now_or_never(self.running.next()).flatten();
        }
    }

    fn reply(&mut self, done: Done) {
        failpoint!("server.answering");
        self.shared.metrics.request(done.op, done.started.elapsed(), done.reply.as_ref().err());
        self.outbound.put(|out| encode_reply(out, done.id, &done.reply));
        self.unflushed = true;
    }
}

fn late(op: &str, timeout: Duration) -> MetaError {
    MetaError::Deadline(format!("{op} was not done within {} ms", timeout.as_millis()))
}
