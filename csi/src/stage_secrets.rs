//! Stage Secrets in a directory: what the Kubernetes API does for them elsewhere, on a machine without one.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nokvfs_api::VolumeHandle;
use tonic::Status;

/// One file per volume, readable by the owner only.
#[derive(Clone, Debug)]
pub struct StageSecrets {
    dir: PathBuf,
}

impl StageSecrets {
    /// `dir` must exist.
    pub fn new(dir: PathBuf) -> Self {
        StageSecrets { dir }
    }

    /// Keeps the Secret of a volume.
    pub async fn write(&self, handle: &VolumeHandle, secret: HashMap<String, String>) -> Result<(), Status> {
        let path = self.path(handle);
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&secret)?;
            let unfinished = path.with_extension("new");
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            io::Write::write_all(&mut file, &text)?;
            std::fs::rename(unfinished, path)
        });
        written.await.map_err(internal)?.map_err(internal)
    }

    /// The Secret of a volume; empty if there is none.
    pub async fn read(&self, handle: &VolumeHandle) -> Result<HashMap<String, String>, Status> {
        match tokio::fs::read(self.path(handle)).await {
            Ok(text) => serde_json::from_slice(&text).map_err(internal),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashMap::new()),
            Err(error) => Err(internal(error)),
        }
    }

    /// Forgets the Secret of a volume.
    pub async fn remove(&self, handle: &VolumeHandle) -> Result<(), Status> {
        match tokio::fs::remove_file(self.path(handle)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(internal(error)),
            _ => Ok(()),
        }
    }

    fn path(&self, handle: &VolumeHandle) -> PathBuf {
        self.dir.join(&handle.volume)
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("stage secret: {error}"))
}
