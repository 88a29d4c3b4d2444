//! Skeleton.

pub mod mounter;
