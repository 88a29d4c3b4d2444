//! Volumes, tokens and sessions.

use bytes::Bytes;
use nokvfs_types::{
    Heartbeat, HeartbeatReply, InodeId, MetaError, MountId, SessionGrant, SessionId, SessionRequest, Token, VolumeId,
    VolumeInfo, VolumeSpec, VolumeState, VolumeUsage,
};

use super::{Checked, inode, invalid, mode, required};
use crate::call::SessionRef;
use crate::wire;

/// Longest name of a volume, in bytes (a DNS name's limit).
const MAX_VOLUME_NAME: usize = 253;
/// Longest name of a client, in bytes.
const MAX_CLIENT: usize = 256;
/// Most inodes in one heartbeat or its reply.
const MAX_ORPHANS: usize = 1024;
/// Most slots of a session.
const MAX_SLOTS: u32 = 256;

pub(super) fn session_to_wire(session: SessionRef) -> Option<wire::SessionRef> {
    Some(wire::SessionRef { session: session.session.0, generation: session.generation })
}

pub(super) fn session_from_wire(session: Option<wire::SessionRef>) -> Checked<SessionRef> {
    let session = required(session, "the session")?;
    Ok(SessionRef { session: SessionId(session.session), generation: session.generation })
}

pub(super) fn id_to_wire(id: VolumeId) -> Bytes {
    Bytes::copy_from_slice(id.0.as_bytes())
}

pub(super) fn id_from_wire(id: &Bytes) -> Checked<VolumeId> {
    match <[u8; 16]>::try_from(id.as_ref()) {
        Ok(bytes) => Ok(VolumeId(uuid::Uuid::from_bytes(bytes))),
        Err(_) => invalid(format!("a volume's identity of {} bytes, it has 16", id.len())),
    }
}

pub(super) fn token_to_wire(token: Token) -> Bytes {
    Bytes::copy_from_slice(&token.0)
}

pub(super) fn token_from_wire(token: &Bytes) -> Checked<Token> {
    match <[u8; 32]>::try_from(token.as_ref()) {
        Ok(bytes) => Ok(Token(bytes)),
        Err(_) => Err(MetaError::Unauthorized(format!("a token of {} bytes, it has 32", token.len()))),
    }
}

pub(super) fn request_to_wire(request: &SessionRequest) -> wire::SessionRequest {
    wire::SessionRequest {
        volume: id_to_wire(request.volume),
        token: token_to_wire(request.token),
        client: request.client.clone(),
        read_only: request.read_only,
        resume: request.resume.and_then(|(session, generation)| session_to_wire(SessionRef { session, generation })),
    }
}

pub(super) fn request_from_wire(request: wire::SessionRequest) -> Checked<SessionRequest> {
    if request.client.len() > MAX_CLIENT {
        return invalid(format!("a client name of {} bytes, at most {MAX_CLIENT}", request.client.len()));
    }
    Ok(SessionRequest {
        volume: id_from_wire(&request.volume)?,
        token: token_from_wire(&request.token)?,
        client: request.client,
        read_only: request.read_only,
        resume: request.resume.map(|session| (SessionId(session.session), session.generation)),
    })
}

pub(super) fn grant_to_wire(grant: &SessionGrant) -> wire::SessionGrant {
    wire::SessionGrant {
        session: session_to_wire(SessionRef { session: grant.session, generation: grant.generation }),
        volume: Some(info_to_wire(&grant.volume)),
        expires_ms: grant.expires_ms,
        slots: u32::from(grant.slots),
    }
}

pub(super) fn grant_from_wire(grant: wire::SessionGrant) -> Checked<SessionGrant> {
    if !(1..=MAX_SLOTS).contains(&grant.slots) {
        return invalid(format!("a session with {} slots", grant.slots));
    }
    let session = session_from_wire(grant.session)?;
    Ok(SessionGrant {
        session: session.session,
        generation: session.generation,
        volume: info_from_wire(required(grant.volume, "the session's volume")?)?,
        expires_ms: grant.expires_ms,
        slots: grant.slots as u16,
    })
}

fn inodes(numbers: Vec<u64>) -> Checked<Vec<InodeId>> {
    if numbers.len() > MAX_ORPHANS {
        return invalid(format!("{} inodes in a heartbeat, at most {MAX_ORPHANS}", numbers.len()));
    }
    numbers.into_iter().map(inode).collect()
}

pub(super) fn heartbeat_to_wire(session: SessionRef, beat: &Heartbeat) -> wire::HeartbeatCall {
    wire::HeartbeatCall {
        session: session_to_wire(session),
        open: beat.open.iter().map(|inode| inode.0).collect(),
        closed: beat.closed.iter().map(|inode| inode.0).collect(),
    }
}

pub(super) fn heartbeat_from_wire(call: wire::HeartbeatCall) -> Checked<(SessionRef, Heartbeat)> {
    let beat = Heartbeat { open: inodes(call.open)?, closed: inodes(call.closed)? };
    Ok((session_from_wire(call.session)?, beat))
}

pub(super) fn beat_reply_to_wire(reply: &HeartbeatReply) -> wire::HeartbeatReply {
    wire::HeartbeatReply { orphans: reply.orphans.iter().map(|inode| inode.0).collect() }
}

pub(super) fn beat_reply_from_wire(reply: wire::HeartbeatReply) -> Checked<HeartbeatReply> {
    Ok(HeartbeatReply { orphans: inodes(reply.orphans)? })
}

/// 1 to 253 bytes of `[a-z0-9.-]`, first and last alphanumeric.
fn check_name(name: &str) -> Checked<()> {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let edges = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let inside = bytes.iter().all(|byte| alphanumeric(byte) || matches!(byte, b'.' | b'-'));
    if edges && inside && bytes.len() <= MAX_VOLUME_NAME {
        return Ok(());
    }
    invalid(
        "a volume's name has 1 to 253 characters of a-z, 0-9, '.' and '-', the first and the last a letter or digit",
    )
}

pub(super) fn spec_to_wire(spec: &VolumeSpec) -> wire::VolumeSpec {
    wire::VolumeSpec {
        name: spec.name.clone(),
        quota_bytes: spec.quota_bytes,
        quota_inodes: spec.quota_inodes,
        root_mode: u32::from(spec.root_mode),
        root_uid: spec.root_uid,
        root_gid: spec.root_gid,
    }
}

pub(super) fn spec_from_wire(spec: wire::VolumeSpec) -> Checked<VolumeSpec> {
    check_name(&spec.name)?;
    Ok(VolumeSpec {
        name: spec.name,
        quota_bytes: spec.quota_bytes,
        quota_inodes: spec.quota_inodes,
        root_mode: mode(spec.root_mode)?,
        root_uid: spec.root_uid,
        root_gid: spec.root_gid,
    })
}

pub(super) fn info_to_wire(info: &VolumeInfo) -> wire::VolumeInfo {
    let state = match info.state {
        VolumeState::Active => wire::VolumeState::Active,
        VolumeState::Deleting => wire::VolumeState::Deleting,
    };
    wire::VolumeInfo {
        id: id_to_wire(info.id),
        mount: info.mount.0,
        spec: Some(spec_to_wire(&info.spec)),
        state: state.into(),
        used_bytes: info.usage.bytes,
        used_inodes: info.usage.inodes,
        sessions: info.sessions,
    }
}

pub(super) fn info_from_wire(info: wire::VolumeInfo) -> Checked<VolumeInfo> {
    let state = match wire::VolumeState::try_from(info.state) {
        Ok(wire::VolumeState::Active) => VolumeState::Active,
        Ok(wire::VolumeState::Deleting) => VolumeState::Deleting,
        Ok(wire::VolumeState::Unspecified) | Err(_) => return invalid(format!("state of a volume {}", info.state)),
    };
    Ok(VolumeInfo {
        id: id_from_wire(&info.id)?,
        mount: MountId(info.mount),
        spec: spec_from_wire(required(info.spec, "the volume's spec")?)?,
        state,
        usage: VolumeUsage { bytes: info.used_bytes, inodes: info.used_inodes },
        sessions: info.sessions,
    })
}
