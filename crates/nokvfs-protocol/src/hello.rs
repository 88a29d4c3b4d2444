//! The handshake: versions and features.

use bytes::{Bytes, BytesMut};
use nokvfs_types::MetaError;
use prost::Message;

use crate::convert::{error_from_wire, error_to_wire};
use crate::frame::{FrameKind, MAX_HELLO, put_frame};
use crate::{ProtocolError, wire};

/// Begins every handshake message: `NOKVMETA`.
const MAGIC: u64 = u64::from_be_bytes(*b"NOKVMETA");
/// The oldest version that this side speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest version that this side speaks.
pub const VERSION_MAX: u32 = 1;
/// Features that this side has, one bit each. None yet.
pub const FEATURES: u64 = 0;
/// Longest text of a handshake, in bytes.
const MAX_AGENT: usize = 256;

/// A client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version.
    pub version_min: u32,
    /// Newest version.
    pub version_max: u32,
    /// Features.
    pub features: u64,
    /// Who connects, for people. At most 256 bytes.
    pub agent: String,
}

impl Hello {
    /// What this side offers.
    pub fn ours(agent: &str) -> Self {
        Hello { version_min: VERSION_MIN, version_max: VERSION_MAX, features: FEATURES, agent: shorten(agent) }
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    /// [`ProtocolError::Version`] if there is none.
    pub fn agree(&self) -> Result<u32, ProtocolError> {
        let version = self.version_max.min(VERSION_MAX);
        if version < self.version_min.max(VERSION_MIN) {
            return Err(ProtocolError::Version {
                theirs_min: self.version_min,
                theirs_max: self.version_max,
                ours_min: VERSION_MIN,
                ours_max: VERSION_MAX,
            });
        }
        Ok(version)
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        let message = wire::Hello {
            magic: MAGIC,
            version_min: self.version_min,
            version_max: self.version_max,
            features: self.features,
            agent: self.agent.clone(),
        };
        put_frame(out, 0, FrameKind::Hello, &message, MAX_HELLO)
    }

    /// Reads a frame's message.
    pub fn decode(message: Bytes) -> Result<Self, ProtocolError> {
        let hello = wire::Hello::decode(message).map_err(malformed)?;
        check_magic(hello.magic)?;
        check_agent(&hello.agent)?;
        if hello.version_min > hello.version_max {
            return Err(ProtocolError::Malformed("the oldest version is newer than the newest".into()));
        }
        let wire::Hello { version_min, version_max, features, agent, .. } = hello;
        Ok(Hello { version_min, version_max, features, agent })
    }
}

/// The server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version that both speak from now on.
    pub version: u32,
    /// Features that both have.
    pub features: u64,
    /// Requests that may be outstanding on the connection.
    pub in_flight: u32,
    /// Bytes of the largest request frame.
    pub request_max: u32,
    /// Who answers, for people. At most 256 bytes.
    pub agent: String,
    /// Why the connection is refused; the server closes it then.
    pub refused: Option<MetaError>,
}

impl HelloReply {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        let message = wire::HelloReply {
            magic: MAGIC,
            version: self.version,
            features: self.features,
            in_flight: self.in_flight,
            request_max: self.request_max,
            agent: shorten(&self.agent),
            refused: self.refused.as_ref().map(error_to_wire),
        };
        put_frame(out, 0, FrameKind::HelloReply, &message, MAX_HELLO)
    }

    /// Reads a frame's message.
    pub fn decode(message: Bytes) -> Result<Self, ProtocolError> {
        let reply = wire::HelloReply::decode(message).map_err(malformed)?;
        check_magic(reply.magic)?;
        check_agent(&reply.agent)?;
        let refused = reply.refused.map(error_from_wire).transpose().map_err(refuse)?;
        if refused.is_none() {
            if !(VERSION_MIN..=VERSION_MAX).contains(&reply.version) {
                return Err(ProtocolError::Version {
                    theirs_min: reply.version,
                    theirs_max: reply.version,
                    ours_min: VERSION_MIN,
                    ours_max: VERSION_MAX,
                });
            }
            if reply.in_flight == 0 || reply.request_max == 0 {
                return Err(ProtocolError::Malformed("a server that takes no requests".into()));
            }
        }
        let wire::HelloReply { version, features, in_flight, request_max, agent, .. } = reply;
        Ok(HelloReply { version, features, in_flight, request_max, agent, refused })
    }
}

fn malformed(error: prost::DecodeError) -> ProtocolError {
    ProtocolError::Malformed(error.to_string())
}

fn refuse(error: MetaError) -> ProtocolError {
    ProtocolError::Malformed(error.to_string())
}

fn check_magic(magic: u64) -> Result<(), ProtocolError> {
    if magic != MAGIC {
        return Err(ProtocolError::NotAFrame("wrong magic"));
    }
    Ok(())
}

fn check_agent(agent: &str) -> Result<(), ProtocolError> {
    if agent.len() > MAX_AGENT {
        return Err(ProtocolError::Malformed(format!("an agent of {} bytes, at most {MAX_AGENT}", agent.len())));
    }
    Ok(())
}

/// Cuts at a character's boundary.
fn shorten(agent: &str) -> String {
    let mut end = agent.len().min(MAX_AGENT);
    while !agent.is_char_boundary(end) {
        end -= 1;
    }
    agent[..end].to_owned()
}
