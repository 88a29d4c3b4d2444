//! How a server is started.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use nokvfs_object::S3Options;

/// The least memory that a server can work with.
pub const MEMORY_MIN: u64 = 128 << 20;

/// Where requests are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address; port 0: any free one.
    Tcp(SocketAddr),
    /// A Unix socket. One that is there already is replaced if nobody listens on it.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Listen::Unix(path.into())),
                false => Err(OptionsError::new("listen", format!("{text:?}: write unix:/path, from the root on"))),
            };
        }
        let text = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
        let addresses = text.to_socket_addrs();
        let address = addresses.ok().and_then(|mut addresses| addresses.next());
        address.map(Listen::Tcp).ok_or_else(|| {
            OptionsError::new(
                "listen",
                format!("{text:?} is no address of this machine; write address:port or unix:/path"),
            )
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Files of mutual TLS, PEM. Read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authority that signs clients'.
    pub client_ca: PathBuf,
}

/// Limits and intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Each takes at most 4 MiB of requests and 16 MiB of replies, and rests at 64 KiB.
    pub connections: usize,
    /// Requests in flight per connection.
    pub in_flight: u32,
    /// Sessions that one connection may hold.
    pub sessions_per_connection: usize,
    /// A request is answered within this, whatever the client asked for.
    pub request_timeout: Duration,
    /// A connection from which nothing came for so long is closed. Clients send a sign of life every 10 s.
    pub idle_timeout: Duration,
    /// A peer that takes no byte of a reply for so long is dropped.
    pub write_timeout: Duration,
    /// TLS handshake and greeting are done within this.
    pub handshake_timeout: Duration,
    /// How often the object store is probed for `/readyz`.
    pub probe_interval: Duration,
    /// How often the files of TLS are looked at.
    pub tls_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            in_flight: 256,
            sessions_per_connection: 64,
            request_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_secs(10),
            tls_interval: Duration::from_secs(10),
        }
    }
}

/// Everything that a server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where the metadata is kept. Made if it is not there.
    pub data: PathBuf,
    /// Where requests are taken; at least one.
    pub listen: Vec<Listen>,
    /// Where `/healthz`, `/readyz` and `/metrics` answer.
    pub http: Option<SocketAddr>,
    /// Mutual TLS on TCP. Without it TCP is for loopback only. A Unix socket has none: its file's mode guards it.
    pub tls: Option<TlsFiles>,
    /// The object store.
    pub s3: S3Options,
    /// Memory that the process may use, in bytes.
    pub memory_limit: u64,
    /// Limits.
    pub limits: Limits,
}

/// An option with a value that can't work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {reason}")]
pub struct OptionsError {
    /// Which.
    pub option: &'static str,
    /// Why not, and what is allowed.
    pub reason: String,
}

impl OptionsError {
    pub(crate) fn new(option: &'static str, reason: impl Into<String>) -> Self {
        OptionsError { option, reason: reason.into() }
    }
}

impl ServerOptions {
    /// Refuses what can't work.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.data.as_os_str().is_empty() {
            return Err(OptionsError::new("data", "name a directory"));
        }
        if self.memory_limit < MEMORY_MIN {
            let reason = format!("{} bytes; at least {MEMORY_MIN} (128 MiB) are needed", self.memory_limit);
            return Err(OptionsError::new("memory-limit", reason));
        }
        check_listen(&self.listen, self.tls.is_some())?;
        check_limits(&self.limits)
    }
}

/// Where a server listens, and whether that is safe.
pub(crate) fn check_listen(listen: &[Listen], tls: bool) -> Result<(), OptionsError> {
    if listen.is_empty() {
        return Err(OptionsError::new("listen", "name at least one address or unix:/path"));
    }
    for one in listen {
        if let Listen::Tcp(address) = one
            && !address.ip().is_loopback()
            && !tls
        {
            let reason = format!(
                "{address} can be reached from other machines: set tls-cert, tls-key and tls-client-ca, or listen on 127.0.0.1"
            );
            return Err(OptionsError::new("listen", reason));
        }
    }
    Ok(())
}

pub(crate) fn check_limits(limits: &Limits) -> Result<(), OptionsError> {
    let refuse = |reason: &str| Err(OptionsError::new("limits", reason));
    if !(1..=65_536).contains(&limits.connections) {
        return refuse("connections is 1 to 65,536");
    }
    if !(1..=4096).contains(&limits.in_flight) {
        return refuse("in_flight is 1 to 4,096");
    }
    if !(1..=4096).contains(&limits.sessions_per_connection) {
        return refuse("sessions_per_connection is 1 to 4,096");
    }
    let times = [
        limits.request_timeout,
        limits.idle_timeout,
        limits.write_timeout,
        limits.handshake_timeout,
        limits.probe_interval,
        limits.tls_interval,
    ];
    if times.iter().any(|time| time.is_zero() || *time > Duration::from_secs(3600)) {
        return refuse("times are above 0 and at most an hour");
    }
    Ok(())
}
