//! The operator of MetadataServers and NoKVMounts.
//!
//! Owns: what the cluster must hold for each of them, certificates, status, the release before an uninstall.
//! Must not: serve metadata, mount, know records or frames; the only way to a volume is `VolumeService`.
//! Invariants: [`desired`](desired::desired), [`status`](status::status) and [`mount_status`](mount_status::mount_status)
//! are pure; a MetadataServer's claim and authority outlive it; a volume is deleted by its deletion policy alone, and
//! never made anew under a name that a PersistentVolume still points to.
//! Entry points: [`run::run`], [`run::controllers`], [`release::release`].

pub mod certificates;
pub mod context;
pub mod declared;
pub mod desired;
mod http;
pub mod metrics;
mod mount;
pub mod mount_status;
pub mod options;
mod readiness;
pub mod release;
pub mod run;
mod secrets;
mod server;
pub mod status;
pub mod volumes;

#[cfg(test)]
mod tests;
