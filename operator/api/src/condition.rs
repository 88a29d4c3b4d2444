//! Conditions in the shape of `metav1.Condition`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition types.
pub mod types {
    /// The resource does what its spec says.
    pub const READY: &str = "Ready";
    /// The operator is at work on it.
    pub const RECONCILING: &str = "Reconciling";
    /// Where a MetadataServer keeps its data is settled.
    pub const STORAGE_READY: &str = "StorageReady";
    /// The certificates are there and valid.
    pub const CERTIFICATES_READY: &str = "CertificatesReady";
    /// The volume exists on its server.
    pub const VOLUME_READY: &str = "VolumeReady";
}

/// Condition reasons.
pub mod reasons {
    /// All is as it should be.
    pub const AS_DESIRED: &str = "AsDesired";
    /// The pods are not ready yet.
    pub const PODS_NOT_READY: &str = "PodsNotReady";
    /// The server runs and can't reach its S3 object store. Servers answer this word themselves: it can't change.
    pub const OBJECT_STORE_UNREACHABLE: &str = "ObjectStoreUnreachable";
    /// No StorageClass is named and the cluster has no default one.
    pub const NO_STORAGE_CLASS: &str = "NoStorageClass";
    /// The claim of the metadata is not bound.
    pub const CLAIM_PENDING: &str = "ClaimPending";
    /// The S3 credentials are not there.
    pub const CREDENTIALS_MISSING: &str = "CredentialsMissing";
    /// An object could not be applied.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// The named MetadataServer does not exist.
    pub const SERVER_NOT_FOUND: &str = "MetadataServerNotFound";
    /// The named MetadataServer does not serve.
    pub const SERVER_NOT_READY: &str = "MetadataServerNotReady";
    /// The MetadataServer does not admit the namespace.
    pub const NAMESPACE_NOT_ALLOWED: &str = "NamespaceNotAllowed";
    /// The server refused or failed a request about the volume.
    pub const VOLUME_FAILED: &str = "VolumeFailed";
    /// The volume was deleted on its server.
    pub const VOLUME_MISSING: &str = "VolumeMissing";
    /// A field's value can't be used.
    pub const INVALID: &str = "Invalid";
    /// Deletion waits for something.
    pub const DELETION_WAITS: &str = "DeletionWaits";
}

/// A condition's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// Holds.
    True,
    /// Does not hold.
    False,
    /// Can't be told at the moment.
    Unknown,
}

/// One aspect of a resource's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, one word for programs.
    pub reason: String,
    /// Why and what to do, for people.
    pub message: String,
    /// When the status last changed (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Sets a condition; the time of transition moves only with the status.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|old| old.kind == new.kind) {
        Some(old) if old.status == new.status => {
            let last_transition_time = std::mem::take(&mut old.last_transition_time);
            *old = Condition { last_transition_time, ..new };
        }
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}
