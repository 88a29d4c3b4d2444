//! Staging: one FUSE mount per volume and node.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nokvfs_api::VolumeHandle;
use nokvfs_protocol::mounter::MountConfig;
use tonic::Status;

use super::mounter::Mounter;
use crate::capability::Access;
use crate::mount_config::mount_config;
use crate::mounts::mountinfo::Mount;
use crate::mounts::{Mounts, State};

/// Ending a session is one request to the metadata server.
const RELEASE: Duration = Duration::from_secs(15);

/// Between two looks at what the mounter serves.
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// What a volume is staged from.
#[derive(Debug)]
pub struct StageRequest {
    /// The volume.
    pub handle: VolumeHandle,
    /// How it is used.
    pub access: Access,
    /// Volume attributes.
    pub context: HashMap<String, String>,
    /// The stage Secret.
    pub secrets: HashMap<String, String>,
}

/// Makes and ends stages.
#[derive(Clone, Debug)]
pub struct Stager {
    /// The mounts of this node.
    pub mounts: Mounts,
    /// Who serves them.
    pub mounter: Mounter,
    /// This node's name.
    pub node: String,
}

impl Stager {
    /// Stages the volume at `path`, or finds it staged there. A stage without a daemon is detached and made again.
    pub async fn stage(&self, path: &Path, request: &StageRequest) -> Result<Mount, Status> {
        let handle = request.handle.to_string();
        match self.state(path, &handle).await? {
            State::Alive(mount, _) if mount.super_read_only == request.access.read_only => return Ok(mount),
            State::Alive(..) => {
                let message = format!("{handle} is staged on this node with another access mode (read-only or not)");
                return Err(Status::already_exists(message));
            }
            State::Foreign(what) => return Err(foreign(path, &what)),
            State::Hung if self.mounter.served(&handle).await?.is_some_and(|state| state.connected) => {
                return Err(hung(path, &handle));
            }
            State::Dead | State::Hung => {
                tracing::warn!(volume = handle, path = %path.display(), "the stage lost its daemon; staging again");
                self.detach_all(path, &handle)?;
            }
            State::Absent => {}
        }
        self.refuse_second_stage(path, &handle).await?;
        let config =
            mount_config(&request.handle, &request.context, &request.secrets, &self.node, request.access.read_only)?;
        self.attach(path, &handle, config).await
    }

    /// Ends the stage: everything durable first, then unmounted.
    pub async fn unstage(&self, path: &Path, handle: &str) -> Result<(), Status> {
        match self.state(path, handle).await? {
            // An earlier call may have unmounted it and not seen the end.
            State::Absent if self.of(handle)?.is_empty() => self.await_release(handle).await,
            State::Absent => Ok(()),
            State::Foreign(what) => Err(foreign(path, &what)),
            State::Dead => self.detach_all(path, handle),
            State::Alive(..) | State::Hung => {
                self.mounter.unmount(handle).await?;
                self.mounts
                    .detach(path, false)
                    .map_err(|error| Status::internal(format!("unstaging {handle} at {}: {error}", path.display())))?;
                self.detach_all(path, handle)?;
                self.await_release(handle).await
            }
        }
    }

    /// Waits until the mounter let go of the volume: its session would keep a deletion that follows from succeeding.
    async fn await_release(&self, handle: &str) -> Result<(), Status> {
        let deadline = Instant::now() + RELEASE;
        while self.mounter.served(handle).await?.is_some() {
            if Instant::now() >= deadline {
                let message = format!("the mounter still holds {handle} {RELEASE:?} after its unmount: see its log");
                return Err(Status::deadline_exceeded(message));
            }
            tokio::time::sleep(RELEASE_POLL).await;
        }
        Ok(())
    }

    /// How the mount at a path fares.
    pub async fn state(&self, path: &Path, handle: &str) -> Result<State, Status> {
        self.mounts.state(path, handle).await.map_err(|error| Status::internal(error.to_string()))
    }

    /// All mounts of a volume on this node.
    pub fn of(&self, handle: &str) -> Result<Vec<Mount>, Status> {
        self.mounts.of(handle).map_err(|error| Status::internal(error.to_string()))
    }

    /// Detaches every mount of the volume at a path: a crash may have stacked them.
    pub fn detach_all(&self, path: &Path, handle: &str) -> Result<(), Status> {
        let failed = |error: std::io::Error| Status::internal(format!("detaching {}: {error}", path.display()));
        let stacked = self.mounts.of(handle).map_err(failed)?;
        for _ in stacked.iter().filter(|mount| mount.point == path) {
            self.mounts.detach(path, true).map_err(failed)?;
        }
        Ok(())
    }

    async fn attach(&self, path: &Path, handle: &str, config: MountConfig) -> Result<Mount, Status> {
        let read_only = config.read_only;
        let fuse = self
            .mounts
            .attach(path, handle, read_only)
            .map_err(|error| Status::internal(format!("staging {handle} at {}: {error}", path.display())))?;
        // The descriptor is closed here once it was sent: the connection then lives and ends with the mounter.
        let served = match self.mounter.mount(handle, config, fuse).await {
            Ok(()) => self.state(path, handle).await,
            Err(status) => Err(status),
        };
        let failure = match served {
            Ok(State::Alive(mount, _)) => return Ok(mount),
            Ok(State::Hung) => hung(path, handle),
            Ok(state) => Status::internal(format!("staging {handle}: the new mount is {}", name(&state))),
            Err(status) => status,
        };
        if let Err(status) = self.detach_all(path, handle) {
            tracing::error!(volume = handle, error = status.message(), "a failed stage could not be undone");
        }
        Err(failure)
    }

    /// One daemon serves a volume on a node, so it can be staged at one path only.
    async fn refuse_second_stage(&self, path: &Path, handle: &str) -> Result<(), Status> {
        for mount in &self.of(handle)? {
            match self.state(&mount.point, handle).await? {
                State::Alive(..) | State::Hung => {
                    let message = format!("{handle} is staged or published at {} still", mount.point.display());
                    return Err(Status::failed_precondition(message));
                }
                State::Dead => {
                    tracing::info!(volume = handle, point = %mount.point.display(), staging = %path.display(), "a dead mount is left for its own unpublish");
                }
                State::Absent | State::Foreign(_) => {}
            }
        }
        Ok(())
    }
}

/// The status for a path where something else is mounted.
pub fn foreign(path: &Path, what: &str) -> Status {
    Status::failed_precondition(format!("{what} is mounted at {}: unmount it first", path.display()))
}

/// The status for a mount that does not answer.
pub fn hung(path: &Path, handle: &str) -> Status {
    Status::unavailable(format!(
        "{handle} at {} did not answer within 5 s: check its metadata server and the mounter's log",
        path.display()
    ))
}

fn name(state: &State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Foreign(_) => "covered by another",
        State::Alive(..) => "alive",
        State::Dead => "dead",
        State::Hung => "hung",
    }
}
