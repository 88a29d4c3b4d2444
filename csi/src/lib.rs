//! The CSI driver `csi.nokv.io`.
//!
//! Owns: the CSI services, registration with the kubelet, and what is privileged about a mount: `/dev/fuse`, mount(2),
//! binds, and the proof that a pod gets what it was promised.
//! Must not: read or write a volume's data, know the metadata protocol's messages, serve FUSE requests.
//! Invariants: a publish that answers OK showed our root inode through the target; what fails half-way is undone; the
//! mount table and the mounter are the only memory; a volume is unmounted only after everything is durable.

pub mod capability;
pub mod controller;
pub mod errors;
pub mod health;
pub mod identity;
pub mod in_flight;
pub mod mount_config;
pub mod mounts;
pub mod node;
pub mod options;
pub mod parameters;
pub mod proto;
pub mod provision;
pub mod registration;
pub mod run;
pub mod sockets;
pub mod stage_secrets;
pub mod volume_id;

#[cfg(test)]
mod proto_test;
#[cfg(test)]
mod registration_test;
#[cfg(test)]
mod tests;
