//! `NoKVMount`: a volume on a MetadataServer.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// A volume: on which server, how large, and what happens to its data when this resource is deleted.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "nokv.io",
    version = "v1alpha1",
    kind = "NoKVMount",
    plural = "nokvmounts",
    doc = "A volume of NoKV. It gets a PersistentVolume <namespace>.<name> that a PersistentVolumeClaim binds by volumeName.",
    namespaced,
    status = "NoKVMountStatus",
    derive = "PartialEq",
    shortname = "nkm",
    category = "nokv",
    cel,
    validation = Rule::new("size(self.metadata.name) <= 57 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name of a NoKVMount is at most 57 of a-z, 0-9 and -: labels and Secrets carry it"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].status", name = "Ready", type_ = "string"),
    printcolumn(json_path = ".status.server", name = "Server", type_ = "string"),
    printcolumn(json_path = ".status.used", name = "Used", type_ = "string"),
    printcolumn(json_path = ".status.capacity", name = "Capacity", type_ = "string"),
    printcolumn(json_path = ".status.usedInodes", name = "Inodes", type_ = "integer"),
    printcolumn(json_path = ".status.sessions", name = "Mounts", type_ = "integer"),
    printcolumn(json_path = ".status.persistentVolume", name = "PV", type_ = "string", priority = 1),
    printcolumn(json_path = ".spec.deletionPolicy", name = "Policy", type_ = "string", priority = 1),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].message", name = "Message", type_ = "string", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct NoKVMountSpec {
    /// The server that holds the volume.
    #[x_kube(validation = Rule::new("self == oldSelf").message("metadataServer can't be changed: the volume lives there"))]
    pub metadata_server: ServerRef,
    /// Limits. May be changed at any time; below what is used they stop growth only.
    #[serde(default)]
    pub quota: Quota,
    /// What happens to the volume and its data when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The root directory of a new volume.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("root can't be changed here: use chmod and chown on the mounted volume"))]
    pub root: RootDirectory,
}

/// Names a MetadataServer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct ServerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Its namespace; the NoKVMount's own if absent. Another one must list this one in spec.allowedNamespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Limits of a volume.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct Quota {
    /// Most bytes, for example 100Gi; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$"))]
    pub bytes: Option<String>,
    /// Most files and directories; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_i64))]
    pub inodes: Option<i64>,
}

/// What happens to a volume's data when its resource goes.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// The volume stays; a NoKVMount of the same name finds it again.
    #[default]
    Retain,
    /// The volume and all its data are deleted, once nothing uses it.
    Delete,
}

/// The root directory of a new volume.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
pub struct RootDirectory {
    /// Mode in octal.
    #[serde(default = "open_mode")]
    #[schemars(regex(pattern = "^[0-7]{3,4}$"))]
    pub mode: String,
    /// Owner.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub uid: i64,
    /// Group.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub gid: i64,
}

/// What the operator observed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NoKVMountStatus {
    /// The generation that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `namespace/name` of the MetadataServer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The volume's UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The handle that the CSI driver knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_handle: Option<String>,
    /// The PersistentVolume to bind by volumeName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume: Option<String>,
    /// Used bytes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// The quota in bytes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// Used bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<i64>,
    /// Files and directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_inodes: Option<i64>,
    /// Live sessions on the volume: one per node that mounts it, and those of other clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<i64>,
    /// Nodes with pods that use the volume, at most 64 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Ready, VolumeReady.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl Default for RootDirectory {
    fn default() -> Self {
        RootDirectory { mode: open_mode(), uid: 0, gid: 0 }
    }
}

/// Pods run under any user: access to the volume is what its token and the claim grant.
fn open_mode() -> String {
    "0777".into()
}
