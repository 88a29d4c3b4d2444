//! Volumes, tokens and sessions.

use bytes::Bytes;
use nokvfs_types::{
    CloneSpec, Heartbeat, HeartbeatReply, InodeId, MAX_BASES, MetaError, MountId, Origin, SessionGrant, SessionId,
    SessionRequest, SnapshotInfo, Timestamp, Token, UploadId, Version, VolumeId, VolumeInfo, VolumeSpec, VolumeState,
    VolumeUsage,
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
        snapshot: request.snapshot.clone().unwrap_or_default(),
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
        snapshot: snapshot_from_wire(request.snapshot)?,
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
        "a volume or snapshot has a name of 1 to 253 characters of a-z, 0-9, '.' and '-', the first and the last a letter or digit",
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
        VolumeState::Hidden => wire::VolumeState::Hidden,
    };
    wire::VolumeInfo {
        id: id_to_wire(info.id),
        mount: info.mount.0,
        spec: Some(spec_to_wire(&info.spec)),
        state: state.into(),
        used_bytes: info.usage.bytes,
        used_inodes: info.usage.inodes,
        sessions: info.sessions,
        origins: info
            .origins
            .iter()
            .map(|origin| wire::Origin { first_upload: origin.first.0, volume: id_to_wire(origin.volume) })
            .collect(),
    }
}

pub(super) fn info_from_wire(info: wire::VolumeInfo) -> Checked<VolumeInfo> {
    let state = match wire::VolumeState::try_from(info.state) {
        Ok(wire::VolumeState::Active) => VolumeState::Active,
        Ok(wire::VolumeState::Deleting) => VolumeState::Deleting,
        Ok(wire::VolumeState::Hidden) => VolumeState::Hidden,
        Ok(wire::VolumeState::Unspecified) | Err(_) => return invalid(format!("state of a volume {}", info.state)),
    };
    if info.origins.len() > MAX_BASES + 1 {
        return invalid(format!("a volume with objects of {} volumes, at most {}", info.origins.len(), MAX_BASES + 1));
    }
    let origin = |origin: wire::Origin| {
        Ok(Origin { first: UploadId(origin.first_upload), volume: id_from_wire(&origin.volume)? })
    };
    Ok(VolumeInfo {
        id: id_from_wire(&info.id)?,
        mount: MountId(info.mount),
        spec: spec_from_wire(required(info.spec, "the volume's spec")?)?,
        state,
        usage: VolumeUsage { bytes: info.used_bytes, inodes: info.used_inodes },
        sessions: info.sessions,
        origins: info.origins.into_iter().map(origin).collect::<Checked<Vec<_>>>()?,
    })
}

/// A snapshot's name; empty: none.
fn snapshot_from_wire(name: String) -> Checked<Option<String>> {
    if name.is_empty() {
        return Ok(None);
    }
    check_name(&name)?;
    Ok(Some(name))
}

pub(super) fn snapshot_call(volume: VolumeId, name: &str) -> wire::SnapshotCall {
    wire::SnapshotCall { volume: id_to_wire(volume), name: name.to_owned() }
}

pub(super) fn snapshot_call_from_wire(call: wire::SnapshotCall) -> Checked<(VolumeId, String)> {
    check_name(&call.name)?;
    Ok((id_from_wire(&call.volume)?, call.name))
}

pub(super) fn clone_to_wire(spec: &CloneSpec) -> wire::CloneCall {
    wire::CloneCall {
        source: id_to_wire(spec.source),
        snapshot: spec.snapshot.clone().unwrap_or_default(),
        name: spec.name.clone(),
        quota_bytes: spec.quota_bytes,
        quota_inodes: spec.quota_inodes,
    }
}

pub(super) fn clone_from_wire(call: wire::CloneCall) -> Checked<CloneSpec> {
    check_name(&call.name)?;
    Ok(CloneSpec {
        source: id_from_wire(&call.source)?,
        snapshot: snapshot_from_wire(call.snapshot)?,
        name: call.name,
        quota_bytes: call.quota_bytes,
        quota_inodes: call.quota_inodes,
    })
}

pub(super) fn snapshot_to_wire(info: &SnapshotInfo) -> wire::SnapshotInfo {
    wire::SnapshotInfo {
        volume: id_to_wire(info.volume),
        name: info.name.clone(),
        version: info.version.0,
        created: info.created.0,
        used_bytes: info.usage.bytes,
        used_inodes: info.usage.inodes,
        clones: info.clones,
    }
}

pub(super) fn info_of_snapshot(info: wire::SnapshotInfo) -> Checked<SnapshotInfo> {
    check_name(&info.name)?;
    Ok(SnapshotInfo {
        volume: id_from_wire(&info.volume)?,
        name: info.name,
        version: Version(info.version),
        created: Timestamp(info.created),
        usage: VolumeUsage { bytes: info.used_bytes, inodes: info.used_inodes },
        clones: info.clones,
    })
}
