//! A connection that comes back: keeps one open, and repeats requests on the next one when it is lost.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nokvfs_failpoint::failpoint;
use nokvfs_protocol::{Answer, Call, SessionRef};
use nokvfs_types::{MetaError, SessionRequest};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connection::{Connection, NoAnswer};
use crate::locks::HeldLocks;
use crate::tls::TlsConnector;
use crate::{Endpoint, TlsConfig};

/// The first pause before a further try to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A connection that is silent so long is asked for a sign of life, and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long the session may take to be attached to a new connection.
const ATTACH: Duration = Duration::from_secs(10);

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: Endpoint,
    tls: Option<TlsConnector>,
    agent: String,
}

impl Peer {
    pub(crate) fn new(endpoint: Endpoint, tls: Option<&TlsConfig>, agent: &str) -> Result<Self, MetaError> {
        let tls = tls.map(|config| TlsConnector::new(config, &endpoint)).transpose()?;
        Ok(Peer { endpoint, tls, agent: agent.to_owned() })
    }

    async fn connect(&self) -> Result<Arc<Connection>, MetaError> {
        Connection::connect(&self.endpoint, self.tls.as_ref(), &self.agent).await
    }

    /// Tries until the deadline. A refusal that another try can't change ends it at once.
    pub(crate) async fn connect_until(&self, deadline: Instant) -> Result<Arc<Connection>, MetaError> {
        let mut backoff = Backoff::new();
        loop {
            let last = match tokio::time::timeout_at(deadline.into(), self.connect()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) if !error.is_retryable() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => MetaError::Unavailable(format!("{} did not answer in time", self.endpoint)),
            };
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

#[derive(Clone, Debug)]
enum State {
    Connected(Arc<Connection>),
    Connecting(MetaError),
    Lost(MetaError),
}

/// The session that a new connection is bound to, and what it holds.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) request: SessionRequest,
    pub(crate) session: SessionRef,
    pub(crate) locks: Arc<HeldLocks>,
}

/// A connection that comes back.
#[derive(Debug)]
pub(crate) struct Channel {
    state: watch::Receiver<State>,
    lost: watch::Sender<Option<MetaError>>,
    _keeper: DropGuard,
}

impl Channel {
    /// Keeps the connection; a new one is first bound to the session.
    pub(crate) fn keep(peer: Peer, first: Arc<Connection>, attach: Option<Attach>) -> Self {
        let (sender, state) = watch::channel(State::Connected(Arc::clone(&first)));
        let (lost, _) = watch::channel(None);
        let stop = CancellationToken::new();
        let keeper = Keeper { peer, attach, state: sender, lost: lost.clone() };
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeper.run(first)));
        Channel { state, lost, _keeper: stop.drop_guard() }
    }

    /// Sends a request, on further connections if need be, until it is answered. Only for requests that may be repeated.
    pub(crate) async fn call(&self, call: &Call, deadline: Instant) -> Result<Answer, MetaError> {
        let mut sent = false;
        let mut backoff = Backoff::new();
        loop {
            let connection = self.connection(deadline, sent).await?;
            let trouble = match connection.request(call, deadline).await {
                Ok(Err(error)) if error.is_retryable() => error,
                Ok(Err(error @ (MetaError::SessionExpired(_) | MetaError::Superseded(_))))
                    if call.session().is_some() =>
                {
                    self.lose(&error);
                    return Err(error);
                }
                Ok(reply) => return reply,
                Err(NoAnswer::Deadline) => {
                    return Err(MetaError::Deadline(format!("{} got no answer in time", call.name())));
                }
                Err(NoAnswer::Lost) => {
                    sent = true;
                    connection.reason()
                }
                Err(NoAnswer::NotSent(error)) if error.is_retryable() => error,
                Err(NoAnswer::NotSent(error)) => return Err(error),
            };
            // A server that is stopping answers so until its connections end: no use in asking it at once again.
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                return Err(late(sent, trouble));
            }
            if !connection.is_ended() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// The connection, once there is one.
    pub(crate) async fn connection(&self, deadline: Instant, sent: bool) -> Result<Arc<Connection>, MetaError> {
        let mut state = self.state.clone();
        loop {
            if let Some(error) = &*self.lost.borrow() {
                return Err(error.clone());
            }
            let trouble = match &*state.borrow_and_update() {
                State::Lost(error) => return Err(error.clone()),
                State::Connected(connection) if !connection.is_ended() => return Ok(Arc::clone(connection)),
                State::Connected(connection) => connection.reason(),
                State::Connecting(error) => error.clone(),
            };
            match tokio::time::timeout_at(deadline.into(), state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(MetaError::Unavailable("the client was shut down".into())),
                Err(_) => return Err(late(sent, trouble)),
            }
        }
    }

    /// Why there is no connection at the moment, if there is none.
    pub(crate) fn trouble(&self) -> Option<MetaError> {
        match &*self.state.borrow() {
            State::Connected(connection) => connection.is_ended().then(|| connection.reason()),
            State::Connecting(error) | State::Lost(error) => Some(error.clone()),
        }
    }

    /// The session is gone for good: everything is answered with this from now on.
    pub(crate) fn lose(&self, error: &MetaError) {
        lose(&self.lost, error);
    }

    /// Why the session is gone for good, if it is.
    pub(crate) fn is_lost(&self) -> Option<MetaError> {
        self.lost.borrow().clone()
    }

    /// Waits until the session is gone for good.
    pub(crate) async fn lost(&self) -> MetaError {
        let mut lost = self.lost.subscribe();
        loop {
            if let Some(error) = lost.borrow_and_update().clone() {
                return error;
            }
            // The sender lives as long as `self`.
            if lost.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What a caller is told whose time is up.
fn late(sent: bool, trouble: MetaError) -> MetaError {
    if sent { MetaError::Deadline(format!("the request was sent, then: {trouble}")) } else { trouble }
}

fn lose(lost: &watch::Sender<Option<MetaError>>, error: &MetaError) {
    lost.send_if_modified(|state| {
        let first = state.is_none();
        state.get_or_insert_with(|| error.clone());
        first
    });
}

struct Keeper {
    peer: Peer,
    attach: Option<Attach>,
    state: watch::Sender<State>,
    lost: watch::Sender<Option<MetaError>>,
}

impl Keeper {
    async fn run(self, first: Arc<Connection>) {
        let mut connection = first;
        loop {
            self.watch_over(&connection).await;
            tracing::info!(endpoint = %self.peer.endpoint, reason = %connection.reason(), "connection lost");
            self.state.send_replace(State::Connecting(connection.reason()));
            let mut backoff = Backoff::new();
            connection = loop {
                // Also before the first try: a server that accepts and hangs up must not be asked in a tight loop.
                tokio::time::sleep(backoff.next()).await;
                match self.reconnect().await {
                    Ok(connection) => break connection,
                    Err(error @ (MetaError::SessionExpired(_) | MetaError::Superseded(_))) => {
                        tracing::error!(endpoint = %self.peer.endpoint, %error, "session lost");
                        lose(&self.lost, &error);
                        self.state.send_replace(State::Lost(error));
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(endpoint = %self.peer.endpoint, %error, "connecting failed");
                        self.state.send_replace(State::Connecting(error));
                    }
                }
            };
            tracing::info!(endpoint = %self.peer.endpoint, "connected again");
            self.state.send_replace(State::Connected(Arc::clone(&connection)));
        }
    }

    async fn reconnect(&self) -> Result<Arc<Connection>, MetaError> {
        let connection = self.peer.connect().await?;
        failpoint!("client.connected_again");
        if let Some(Attach { request, session, locks }) = &self.attach {
            Self::first(&connection, &Call::AttachSession(request.clone())).await?;
            failpoint!("client.attached");
            let (incarnation, locks) = locks.renew();
            connection.set_incarnation(incarnation);
            Self::first(&connection, &Call::SyncLocks(*session, incarnation, locks)).await?;
        }
        Ok(connection)
    }

    /// A request that a new connection begins with.
    async fn first(connection: &Connection, call: &Call) -> Result<(), MetaError> {
        match connection.request(call, Instant::now() + ATTACH).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                connection.end("the session was refused");
                Err(error)
            }
            Err(_) => {
                connection.end("the session was not attached in time");
                Err(connection.reason())
            }
        }
    }

    /// Until the connection ends; a dead peer is found out.
    async fn watch_over(&self, connection: &Connection) {
        let mut silent = false;
        loop {
            tokio::select! {
                () = connection.ended() => return,
                () = tokio::time::sleep(KEEPALIVE) => {}
            }
            if connection.take_received() {
                silent = false;
                continue;
            }
            if silent {
                connection.end("the server gave no sign of life");
                return;
            }
            silent = true;
            let deadline = Instant::now() + KEEPALIVE;
            // The answer shows as something received, at the next look.
            let _answer = connection.request(&Call::Ping, deadline).await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let State::Connected(connection) = &*self.state.borrow() {
            connection.end("the client was shut down");
        }
    }
}

/// Pauses between tries: doubling, with jitter so that clients of a restarted server don't come all at once.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { next: BACKOFF_MIN }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(BACKOFF_MAX);
        // The clock's nanoseconds are random enough to spread clients.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos() % 1000);
        full / 2 + full * nanos / 2000
    }
}
