//! Calls of the mounter from async code.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nokvfs_protocol::mounter::{MAX_MOUNTS, MountConfig, MountState, MounterClient, Reply, Request};
use tonic::Status;

use crate::errors::{from_mounter, from_wire};

/// Ping and List answer from memory.
const SHORT: Duration = Duration::from_secs(5);

/// Opening a session waits for a metadata server that is starting; below the kubelet's own two minutes.
const MOUNT: Duration = Duration::from_secs(40);

/// Everything that is dirty goes to S3 first. The kubelet gives up after two minutes and asks again.
const FLUSH: Duration = Duration::from_secs(100);

/// The mounter behind its socket.
#[derive(Clone, Debug)]
pub struct Mounter {
    socket: PathBuf,
}

impl Mounter {
    /// Nothing is connected yet: each call connects anew, so a restarted mounter needs no care.
    pub fn new(socket: PathBuf) -> Self {
        Mounter { socket }
    }

    /// Serves a mount.
    pub async fn mount(&self, handle: &str, config: MountConfig, fuse: OwnedFd) -> Result<(), Status> {
        let action = format!("mounting {handle}");
        let request = Request::Mount { volume_handle: handle.to_owned(), config: Box::new(config) };
        match self.call(&action, request, Some(fuse), MOUNT).await? {
            Reply::Mounted => Ok(()),
            other => Err(unexpected(&action, &other)),
        }
    }

    /// Makes everything durable. A handle that is not served is fine.
    pub async fn unmount(&self, handle: &str) -> Result<(), Status> {
        let action = format!("flushing {handle}");
        let request = Request::Unmount { volume_handle: handle.to_owned() };
        match self.call(&action, request, None, FLUSH).await? {
            Reply::Flushed => Ok(()),
            other => Err(unexpected(&action, &other)),
        }
    }

    /// What the mounter serves.
    pub async fn list(&self) -> Result<Vec<MountState>, Status> {
        match self.call("listing mounts", Request::List, None, SHORT).await? {
            Reply::Mounts { mounts } => Ok(mounts),
            other => Err(unexpected("listing mounts", &other)),
        }
    }

    /// The state of one handle, if it is served.
    pub async fn served(&self, handle: &str) -> Result<Option<MountState>, Status> {
        Ok(self.list().await?.into_iter().find(|state| state.volume_handle == handle))
    }

    /// How many volumes the mounter has memory for, those that it serves included.
    pub async fn capacity(&self) -> Result<i64, Status> {
        let room = match self.call("asking the mounter", Request::Ping, None, SHORT).await? {
            Reply::Pong { room, .. } => room as usize,
            other => return Err(unexpected("asking the mounter", &other)),
        };
        Ok((room + self.list().await?.len()).min(MAX_MOUNTS) as i64)
    }

    /// Whether the mounter answers.
    pub async fn ping(&self) -> Result<(), Status> {
        match self.call("asking the mounter", Request::Ping, None, SHORT).await? {
            Reply::Pong { .. } => Ok(()),
            other => Err(unexpected("asking the mounter", &other)),
        }
    }

    async fn call(
        &self,
        action: &str,
        request: Request,
        fd: Option<OwnedFd>,
        patience: Duration,
    ) -> Result<Reply, Status> {
        let socket = self.socket.clone();
        let deadline = Instant::now() + patience;
        let called = tokio::task::spawn_blocking(move || {
            MounterClient::call(&socket, &request, fd.as_ref().map(AsFd::as_fd), deadline)
        });
        let reply = called.await.map_err(|error| Status::internal(format!("{action}: {error}")))?;
        match reply.map_err(|error| from_wire(action, &error))? {
            Reply::Failed { kind, reason } => Err(from_mounter(action, kind, &reason)),
            reply => Ok(reply),
        }
    }
}

fn unexpected(action: &str, reply: &Reply) -> Status {
    Status::internal(format!("{action}: the mounter answered {reply:?}: use plugin and mounter of the same version"))
}
