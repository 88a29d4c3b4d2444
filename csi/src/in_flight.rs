//! One operation at a time on each volume, and on each target of it. A second one is refused, not queued: its caller
//! repeats it anyway.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Status;

/// The operations that run.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    volumes: Arc<Mutex<HashMap<String, Holders>>>,
}

#[derive(Debug)]
enum Holders {
    Whole,
    Targets(Vec<String>),
}

/// An operation that runs, until dropped.
#[derive(Debug)]
pub struct Running {
    owner: InFlight,
    volume: String,
    target: Option<String>,
}

impl InFlight {
    /// Starts an operation on a volume as a whole.
    pub fn volume(&self, volume: &str) -> Result<Running, Status> {
        let mut volumes = self.volumes.lock();
        if volumes.contains_key(volume) {
            return Err(busy(volume));
        }
        volumes.insert(volume.to_owned(), Holders::Whole);
        Ok(Running { owner: self.clone(), volume: volume.to_owned(), target: None })
    }

    /// Starts an operation on one target of a volume, beside those on its other targets.
    pub fn target(&self, volume: &str, target: &str) -> Result<Running, Status> {
        let mut volumes = self.volumes.lock();
        match volumes.entry(volume.to_owned()).or_insert_with(|| Holders::Targets(Vec::new())) {
            Holders::Targets(targets) if !targets.iter().any(|held| held == target) => targets.push(target.to_owned()),
            _ => return Err(busy(volume)),
        }
        Ok(Running { owner: self.clone(), volume: volume.to_owned(), target: Some(target.to_owned()) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut volumes = self.owner.volumes.lock();
        if let (Some(Holders::Targets(targets)), Some(target)) = (volumes.get_mut(&self.volume), &self.target) {
            targets.retain(|held| held != target);
            if !targets.is_empty() {
                return;
            }
        }
        volumes.remove(&self.volume);
    }
}

fn busy(volume: &str) -> Status {
    Status::aborted(format!("another operation on volume {volume} is running; it is repeated until that one has ended"))
}
