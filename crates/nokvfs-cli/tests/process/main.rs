//! The real binary, real kernel mounts, processes that are killed and stopped. Needs root and `/dev/fuse`.

mod checks;
mod dev;
mod fixture;
#[path = "../../../nokvfs-meta/tests/fsck/mod.rs"]
mod fsck;
mod kills;
mod load;
mod mounter;
mod refusals;
mod server;
mod trouble;
