//! The real binary, real kernel mounts, processes that are killed and stopped. Needs root and `/dev/fuse`.

mod checks;
mod dev;
mod faulty;
mod fixture;
#[path = "../../../nokvfs-meta/tests/fsck/mod.rs"]
mod fsck;
mod full;
mod kills;
mod load;
mod locks;
mod mounter;
mod refusals;
mod s3_proxy;
mod server;
mod snapshots;
mod trouble;
