//! The real binary, real kernel mounts, processes that are killed and stopped. Needs root and `/dev/fuse`.

mod dev;
mod fixture;
mod load;
mod locks;
mod mounter;
mod refusals;
mod server;
mod trouble;
