//! Names and handles of volumes. Handles come from objects that users write: nothing is made of one but its checked
//! parts.

use std::str::FromStr;

use nokvfs_api::VolumeHandle;
use nokvfs_types::VolumeId;
use sha2::{Digest, Sha256};
use tonic::Status;

/// Longest name that a CO may give a volume (the specification's limit of strings).
const MAX_NAME: usize = 128;

/// Parses a handle that must be one; `missing` is what to answer for a text that names no volume of ours.
pub fn parse_handle(text: &str, missing: tonic::Code) -> Result<VolumeHandle, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument("volume_id is missing"));
    }
    VolumeHandle::from_str(text).map_err(|error| Status::new(missing, error.to_string()))
}

/// The volume's identity on its server.
pub fn identity(handle: &VolumeHandle) -> Result<VolumeId, Status> {
    handle.volume.parse().map_err(|error| Status::not_found(format!("{handle}: {error}")))
}

/// Checks the name that a CO gives a volume.
pub fn check_name(name: &str) -> Result<(), Status> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!("the volume's name must have 1 to {MAX_NAME} bytes")));
    }
    Ok(())
}

/// The name on the server of a volume that a CO named freely: itself where that is a name there, else a digest of it.
pub fn server_name(name: &str) -> String {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.bytes().all(|byte| edge(byte) || byte == b'-' || byte == b'.')
        && name.bytes().next().is_some_and(edge)
        && name.bytes().last().is_some_and(edge)
        && !name.starts_with(DIGEST_PREFIX);
    if fits { name.to_owned() } else { format!("{DIGEST_PREFIX}{}", hex::encode(Sha256::digest(name.as_bytes()))) }
}

/// Kept for digests, so that no plain name can be taken for one.
const DIGEST_PREFIX: &str = "csi-sha256-";
