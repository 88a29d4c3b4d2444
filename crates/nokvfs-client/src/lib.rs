//! Clients of a metadata server, and the path-oriented SDK.
//!
//! Owns: connections that come back, the remote [`MetadataService`](nokvfs_meta::service::MetadataService) with its
//! session, the remote volume service, a volume by paths.
//! Must not: know records, define messages, or what a kernel caches.
//! Invariants: a mutation is sent again only with the stamp it had; no call outlives its deadline; a session that the
//! server declared dead is never used again.

mod channel;
mod connection;
mod endpoint;
mod fs;
mod locks;
mod service;
mod tls;
mod volumes;

#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, EndpointError};
pub use fs::{FileReader, FileWriter, Fs, FsError, FsFailure, FsResult, Listing};
pub use service::{RemoteOptions, RemoteService};
pub use tls::TlsConfig;
pub use volumes::RemoteVolumes;

use nokvfs_protocol::Answer;
use nokvfs_types::MetaError;

/// The server answered something that does not belong to the call. The answer itself may hold a secret.
fn unexpected(answer: &Answer) -> MetaError {
    MetaError::Internal(format!("the server answered with the wrong kind ({})", answer.name()))
}
