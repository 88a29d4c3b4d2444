//! Custom resources of `nokv.io/v1alpha1` and what operator and CSI driver derive from them.
//!
//! Owns: the types `MetadataServer` and `NoKVMount` with their schema and rules, the names of all objects made for them,
//! volume handles, and the builders of stage Secrets, volume attributes and PersistentVolumes.
//! Must not: talk to an API server, know the metadata protocol.
//! Invariants: a name or key that two programs must agree on is written here once. The YAML in `charts/nokv-crds` is
//! what [`yaml::definitions`] gives; a test compares them.

mod condition;
mod handle;
mod metadata_server;
mod mount;
pub mod names;
mod quantity;
mod stage;
mod volume;
pub mod yaml;

pub use condition::{Condition, ConditionStatus, reasons, set as set_condition, types};
pub use handle::{HandleError, VolumeHandle};
pub use metadata_server::{
    CredentialsSecret, MetadataServer, MetadataServerSpec, MetadataServerStatus, ObjectStore, Resources, Storage,
};
pub use mount::{DeletionPolicy, NoKVMount, NoKVMountSpec, NoKVMountStatus, Quota, RootDirectory, ServerRef};
pub use quantity::{QuantityError, format_bytes, parse_bytes};
pub use stage::{StageCredentials, StageError, stage_secret};
pub use volume::{VolumeAttributes, persistent_volume};

#[cfg(test)]
mod tests;
