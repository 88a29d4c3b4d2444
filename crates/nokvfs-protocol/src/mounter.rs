//! Between the node plugin, which is privileged and mounts, and the mounter, which serves the mounts it is handed.
//!
//! One request per connection of a `SOCK_STREAM` Unix socket: a line of JSON, with `Mount` the open `/dev/fuse` as
//! `SCM_RIGHTS`; then one line of JSON back. Calls block and every one has a deadline: async callers use a blocking
//! thread.
//!
//! A mount's life: the plugin opens `/dev/fuse`, calls mount(2), and sends the descriptor with [`Request::Mount`]. The
//! mounter answers [`Reply::Mounted`] once it holds a session and reads the descriptor. At the end the plugin sends
//! [`Request::Unmount`], the mounter makes everything durable, answers [`Reply::Flushed`] and goes on serving until the
//! plugin's umount(2) ends the connection; only then it forgets the volume.

mod wire;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use wire::{Connection, MAX_LINE, MounterClient, MounterListener, WireError};

/// What the node plugin asks of the mounter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Serve the volume on the descriptor that comes with the request. Answers `Mounted`. While the handle is served
    /// already the new descriptor is closed unused and the answer is `Failed` with [`Failure::Busy`]; a served one
    /// whose connection has ended does not count.
    Mount {
        /// The CSI volume handle, the mount's name between plugin and mounter.
        volume_handle: String,
        /// How to reach the volume.
        config: Box<MountConfig>,
    },
    /// Make everything durable, in S3 and the metadata. Answers `Flushed`, also for a handle that is not served.
    Unmount {
        /// The handle.
        volume_handle: String,
    },
    /// Which handles are served? Answers `Mounts`.
    List,
    /// Is the mounter alive? Answers `Pong`.
    Ping,
}

/// What the mounter answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// The mount is served.
    Mounted,
    /// Nothing of the volume is left in the mounter's memory only.
    Flushed,
    /// All served handles, in order.
    Mounts {
        /// At most [`MAX_MOUNTS`].
        mounts: Vec<MountState>,
    },
    /// The mounter lives.
    Pong {
        /// Its version, for people.
        version: String,
        /// How many more volumes its memory allows.
        room: u32,
    },
    /// The request was not carried out.
    Failed {
        /// Which kind of failure.
        kind: Failure,
        /// What failed and what to do about it. Holds no secret.
        reason: String,
    },
}

/// Most mounts that one mounter serves; keeps a `Mounts` reply below [`MAX_LINE`].
pub const MAX_MOUNTS: usize = 256;

/// Kinds of failure, each with its own answer to the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// The configuration can't be right; the same again fails again.
    Invalid,
    /// The server or the S3 store refused the credentials.
    Unauthorized,
    /// No such volume.
    NotFound,
    /// The handle is in use, or a request for it is running.
    Busy,
    /// The server or the S3 store can't be reached; try again.
    Unavailable,
    /// No memory for one more volume.
    Exhausted,
    /// Anything else.
    Internal,
}

/// One served mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountState {
    /// The CSI volume handle.
    pub volume_handle: String,
    /// Whether the FUSE connection still stands.
    pub connected: bool,
    /// What keeps the volume from working at the moment (server or S3 store not reachable, session lost), if anything.
    pub trouble: Option<String>,
}

/// How the mounter reaches a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountConfig {
    /// The metadata server, `host:port`.
    pub server: String,
    /// The volume's identity (UUID).
    pub volume: String,
    /// The volume's token, 64 hex digits.
    pub token: Secret,
    /// TLS towards the metadata server; without it the connection is plain, which a server accepts on loopback only.
    pub tls: Option<TlsConfig>,
    /// Where the bytes are.
    pub s3: S3Config,
    /// Refuse every change.
    pub read_only: bool,
    /// Who mounts, for people: node and pod. At most 256 bytes.
    pub client: String,
    /// Most memory for this volume's buffers and read-ahead, in bytes; without it an equal share of the mounter's limit.
    pub buffer_bytes: Option<u64>,
}

/// Mutual TLS, PEM texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates of the authority that signed the server's.
    pub ca: String,
    /// The client's certificate chain.
    pub cert: String,
    /// Its private key.
    pub key: Secret,
    /// The name that the server's certificate must hold; without it the host of `server`.
    pub server_name: Option<String>,
}

/// An S3 store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Config {
    /// URL of the store.
    pub endpoint: String,
    /// Bucket.
    pub bucket: String,
    /// Put before every key; may be empty.
    pub prefix: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Bucket in the path (true) or in the host name.
    pub path_style: bool,
    /// Access key.
    pub access_key: Secret,
    /// Secret key.
    pub secret_key: Secret,
}

/// A text that never shows in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text. Never log it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
