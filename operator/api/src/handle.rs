//! Volume handles: `<namespace>.<metadataserver>.<volume uuid>`.

use std::fmt;
use std::str::FromStr;

/// Names a volume in the whole cluster. Namespaces and MetadataServers are DNS labels, so no part holds a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeHandle {
    /// Namespace of the MetadataServer.
    pub namespace: String,
    /// The MetadataServer.
    pub server: String,
    /// The volume's UUID, lower case with dashes.
    pub volume: String,
}

/// A text that is no volume handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleError {
    text: String,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a volume handle; one reads <namespace>.<metadataserver>.<volume uuid>", self.text)
    }
}

impl std::error::Error for HandleError {}

impl fmt::Display for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.namespace, self.server, self.volume)
    }
}

impl FromStr for VolumeHandle {
    type Err = HandleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('.').collect();
        match parts[..] {
            [namespace, server, volume] if is_label(namespace) && is_label(server) && is_uuid(volume) => {
                Ok(VolumeHandle { namespace: namespace.into(), server: server.into(), volume: volume.into() })
            }
            _ => Err(HandleError { text: text.chars().take(200).collect() }),
        }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}
