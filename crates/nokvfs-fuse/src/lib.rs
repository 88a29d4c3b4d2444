//! The FUSE front end: a kernel mount over a [`MetadataService`](nokvfs_meta::service::MetadataService) and
//! [`Bodies`](nokvfs_body::Bodies).
//!
//! Owns: the kernel's requests and replies, open handles, attribute conversion, what the kernel may cache and for how
//! long, mounting and unmounting.
//! Must not: resolve paths, know how metadata is laid out or where objects are, talk to a network.
//! Invariants: node id = inode number, generation 0; every request is answered by its deadline; a process that was
//! killed gets its answer within 3 s, one that waits for a lock has none else; a handle's file stays until its last write is published or known to be lost; no
//! lock is held while waiting.
//!
//! What users see:
//! - Close-to-open: close(2) and fsync(2) return when all bytes are in the object store and named by the metadata; an
//!   open that begins afterwards sees them, on every mount. Names and attributes are at most [`MountOptions::entry_ttl`]
//!   and [`MountOptions::attr_ttl`] old.
//! - POSIX and flock locks hold on all mounts of the volume. What was written under a lock is read under the next one.
//! - Permissions are the kernel's to check (`default_permissions`). POSIX ACLs and file capabilities are refused with
//!   `EOPNOTSUPP`. Set-id bits go with a write, a truncation by anyone but root, and a change of owner.
//! - fallocate(2) makes holes and reserves nothing; FS ioctls are refused; copy_file_range(2) copies through the kernel.
//! - A killed process is recognised by its thread id in `/proc`: the process that mounts and the one that serves must be
//!   in the pid namespace of the users, or one above it. Otherwise only the deadline bounds a killed process.

mod attrs;
mod content;
mod core;
mod device;
mod dispatch;
mod errors;
mod filesystem;
mod handles;
mod listing;
mod lock_request;
mod lockers;
mod locks;
mod mount;
mod names;
mod options;
mod process;
mod reply;
mod settle;
mod xattrs;

pub use device::{detach, is_dead_mount, open_and_mount};
pub use errors::FuseError;
pub use mount::{Mount, mount, serve_fd};
pub use options::MountOptions;

#[cfg(test)]
mod tests;
