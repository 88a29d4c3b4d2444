//! What can be wrong with bytes from a peer.

/// Why a connection's bytes can't be understood. The connection must be closed: nothing after it has a known meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame is longer than allowed.
    #[error("a frame of {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A frame is too short to hold its header, or of an unknown kind.
    #[error("not a frame of this protocol: {0}; is the peer a NoKV metadata server or client?")]
    NotAFrame(&'static str),
    /// A message can't be decoded or breaks a rule; says which.
    #[error("bad message: {0}")]
    Malformed(String),
    /// No version that both speak.
    #[error(
        "the peer speaks versions {theirs_min} to {theirs_max}, this side {ours_min} to {ours_max}; upgrade the older one"
    )]
    Version {
        /// Oldest of the peer.
        theirs_min: u32,
        /// Newest of the peer.
        theirs_max: u32,
        /// Oldest of this side.
        ours_min: u32,
        /// Newest of this side.
        ours_max: u32,
    },
}
