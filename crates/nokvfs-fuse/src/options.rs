//! What a mount is made with.

use std::time::Duration;

use crate::FuseError;

/// Largest read and write of one request: what Linux allows (256 pages).
pub(crate) const MAX_IO: u32 = 1 << 20;

/// What a mount is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Shown as the mount's source. No comma, backslash or white space.
    pub fs_name: String,
    /// The filesystem type becomes `fuse.<subtype>`. ASCII letters, digits and `-`.
    pub subtype: String,
    /// How long the kernel may keep attributes; at most 1 s.
    pub attr_ttl: Duration,
    /// How long the kernel may keep names; at most 1 s.
    pub entry_ttl: Duration,
    /// Threads that read the kernel's requests, 1 to 64.
    pub threads: usize,
    /// Refuse changes.
    pub read_only: bool,
    /// Let users other than the one that mounts in.
    pub allow_other: bool,
    /// Let the kernel check permission bits.
    pub default_permissions: bool,
    /// Requests that wait at once for metadata or objects; further ones stay in the kernel. 1 to 65,536. Each may hold
    /// one request's bytes (1 MiB).
    pub max_in_flight: usize,
    /// A request that takes longer is answered with `EIO`. 1 s to 10 min.
    pub request_deadline: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        // More threads only pay when there are cores to spare: on two, one has the best latency.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            fs_name: "nokv".to_owned(),
            subtype: "nokv".to_owned(),
            attr_ttl: Duration::from_secs(1),
            entry_ttl: Duration::from_secs(1),
            threads: if cores <= 2 { 1 } else { cores.min(4) },
            read_only: false,
            allow_other: true,
            default_permissions: true,
            max_in_flight: 256,
            request_deadline: Duration::from_secs(60),
        }
    }
}

impl MountOptions {
    /// Refuses options that can't work.
    pub fn validate(&self) -> Result<(), FuseError> {
        let refuse = |what: &str| Err(FuseError::Options(what.to_owned()));
        let bad = |c: char| c == ',' || c == '\\' || c.is_whitespace() || c.is_control();
        if self.fs_name.is_empty() || self.fs_name.len() > 255 || self.fs_name.contains(bad) {
            return refuse("fs_name is 1 to 255 bytes without comma, backslash and white space");
        }
        if self.subtype.is_empty() || !self.subtype.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return refuse("subtype is ASCII letters, digits and '-'");
        }
        if self.attr_ttl > Duration::from_secs(1) || self.entry_ttl > Duration::from_secs(1) {
            return refuse("attr_ttl and entry_ttl are at most 1 s");
        }
        if !(1..=64).contains(&self.threads) {
            return refuse("threads is 1 to 64");
        }
        if !(1..=65_536).contains(&self.max_in_flight) {
            return refuse("max_in_flight is 1 to 65536");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.request_deadline) {
            return refuse("request_deadline is 1 s to 10 min");
        }
        Ok(())
    }
}
