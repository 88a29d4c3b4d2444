//! Publishing: a bind of the stage for each pod, proved before it is called done.

use std::path::Path;

use rustix::mount::MountFlags;
use tonic::Status;

use super::stage::{StageRequest, Stager, foreign, hung};
use crate::mounts::State;
use crate::mounts::mountinfo::Mount;

/// What is asked for a target.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where the stage is.
    pub stage: &'a Path,
    /// Where the pod expects the volume.
    pub path: &'a Path,
    /// No write through this target.
    pub read_only: bool,
}

impl Stager {
    /// Binds the stage to the target. A dead stage or target is replaced.
    pub async fn publish(&self, target: Target<'_>, request: &StageRequest) -> Result<(), Status> {
        let handle = request.handle.to_string();
        if request.access.single_writer {
            self.refuse_second_target(target, &handle)?;
        }
        let stage = self.living_stage(target.stage, request, &handle).await?;
        match self.state(target.path, &handle).await? {
            State::Alive(mount, _) if mount.device == stage.device => {
                return if mount.super_read_only || mount.read_only == target.read_only {
                    Ok(())
                } else {
                    Err(Status::already_exists(format!(
                        "{handle} is published at {} with another access mode (read-only or not)",
                        target.path.display()
                    )))
                };
            }
            State::Foreign(what) => return Err(foreign(target.path, &what)),
            State::Hung => return Err(hung(target.path, &handle)),
            State::Alive(..) | State::Dead => {
                tracing::warn!(volume = handle, target = %target.path.display(), "replacing a bind of a stage that is gone");
                self.detach_all(target.path, &handle)?;
            }
            State::Absent => {}
        }
        self.bind(target, request.access.flags, &handle, &stage).await
    }

    /// Takes the target away. Not an error if it is gone.
    pub async fn unpublish(&self, path: &Path, handle: &str) -> Result<(), Status> {
        let failed =
            |error: std::io::Error| Status::internal(format!("unpublishing {handle} at {}: {error}", path.display()));
        match self.state(path, handle).await? {
            State::Foreign(what) => return Err(foreign(path, &what)),
            State::Alive(..) => self.mounts.detach(path, false).map_err(failed)?,
            // The daemon may never answer again, and the pod is gone.
            State::Dead | State::Hung => self.detach_all(path, handle)?,
            State::Absent => {}
        }
        self.detach_all(path, handle)?;
        self.mounts.dir.remove_target(path).map_err(failed)
    }

    async fn bind(&self, target: Target<'_>, flags: MountFlags, handle: &str, stage: &Mount) -> Result<(), Status> {
        let bound = self.mounts.bind(target.stage, target.path, flags, target.read_only);
        let failure = match bound {
            Err(error) => Status::internal(format!("publishing {handle} at {}: {error}", target.path.display())),
            // Only now may the pod start: a directory that looks like the volume but is not must never be handed out.
            Ok(()) => match self.state(target.path, handle).await {
                Ok(State::Alive(mount, _)) if mount.device == stage.device => return Ok(()),
                Ok(State::Hung) => hung(target.path, handle),
                Ok(_) => Status::unavailable(format!("{handle} was lost while being published: try again")),
                Err(status) => status,
            },
        };
        let undone = self.detach_all(target.path, handle).and_then(|()| {
            self.mounts.dir.remove_target(target.path).map_err(|error| Status::internal(error.to_string()))
        });
        if let Err(status) = undone {
            tracing::error!(volume = handle, error = status.message(), "a failed publish could not be undone");
        }
        Err(failure)
    }

    /// The stage as it is, or made again if its daemon is gone.
    async fn living_stage(&self, path: &Path, request: &StageRequest, handle: &str) -> Result<Mount, Status> {
        match self.state(path, handle).await? {
            State::Alive(mount, _) => Ok(mount),
            State::Absent => Err(Status::failed_precondition(format!("{handle} is not staged at {}", path.display()))),
            State::Foreign(what) => Err(foreign(path, &what)),
            State::Dead | State::Hung if request.secrets.is_empty() => Err(Status::failed_precondition(format!(
                "the stage of {handle} lost its daemon; delete the pods that use it on this node, or name the stage Secret as nodePublishSecretRef too, so that it is made again"
            ))),
            State::Dead | State::Hung => self.stage(path, request).await,
        }
    }

    fn refuse_second_target(&self, target: Target<'_>, handle: &str) -> Result<(), Status> {
        match self.of(handle)?.iter().find(|mount| mount.point != target.stage && mount.point != target.path) {
            None => Ok(()),
            Some(other) => Err(Status::failed_precondition(format!(
                "{handle} is for a single pod (ReadWriteOncePod) and published at {} already",
                other.point.display()
            ))),
        }
    }
}
