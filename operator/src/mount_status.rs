//! The status of a NoKVMount, as a pure function of what was observed.

use jiff::Timestamp;
use nokvfs_api::{
    Condition, ConditionStatus, NoKVMount, NoKVMountStatus, VolumeHandle, format_bytes, reasons, set_condition, types,
};
use nokvfs_types::VolumeInfo;

/// Most nodes that a status lists.
pub const MAX_NODES: usize = 64;

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its handle.
    pub handle: VolumeHandle,
    /// What its server says.
    pub info: VolumeInfo,
    /// Its PersistentVolume.
    pub persistent_volume: Option<String>,
    /// Nodes with pods that use it.
    pub nodes: Vec<String>,
}

/// Why a mount is not ready: a reason and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One of [`reasons`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The status that `mount` should show now. In trouble what was known before stays, so that no volume is forgotten.
pub fn mount_status(
    mount: &NoKVMount,
    server: &str,
    outcome: Result<&Seen, &Trouble>,
    now: Timestamp,
) -> NoKVMountStatus {
    let mut status = mount.status.clone().unwrap_or_default();
    status.observed_generation = mount.metadata.generation;
    status.server = Some(server.to_owned());
    let (state, reason, message) = match outcome {
        Ok(seen) => {
            let quota = seen.info.spec.quota_bytes;
            status.volume = Some(seen.handle.volume.clone());
            status.volume_handle = Some(seen.handle.to_string());
            status.persistent_volume = seen.persistent_volume.clone();
            status.used = Some(format_bytes(seen.info.usage.bytes));
            status.capacity = (quota != 0).then(|| format_bytes(quota));
            status.used_bytes = i64::try_from(seen.info.usage.bytes).ok();
            status.used_inodes = i64::try_from(seen.info.usage.inodes).ok();
            status.sessions = Some(seen.info.sessions.into());
            status.nodes = seen.nodes.iter().take(MAX_NODES).cloned().collect();
            (ConditionStatus::True, reasons::AS_DESIRED, "the volume can be mounted".to_owned())
        }
        Err(trouble) => (ConditionStatus::False, trouble.reason, trouble.message.clone()),
    };
    // A server that does not answer says nothing about the volume.
    let volume = match outcome {
        Err(trouble) if trouble.reason == reasons::SERVER_NOT_READY => ConditionStatus::Unknown,
        _ => state,
    };
    for (kind, state) in [(types::VOLUME_READY, volume), (types::READY, state)] {
        let condition = Condition {
            kind: kind.into(),
            status: state,
            reason: reason.into(),
            message: message.clone(),
            last_transition_time: now.to_string(),
            observed_generation: mount.metadata.generation,
        };
        set_condition(&mut status.conditions, condition);
    }
    status
}

/// Whether the mount's volume was known to work before.
pub fn was_ready(conditions: &[Condition]) -> Option<(bool, &str)> {
    let ready = conditions.iter().find(|condition| condition.kind == types::READY)?;
    Some((ready.status == ConditionStatus::True, &ready.reason))
}
