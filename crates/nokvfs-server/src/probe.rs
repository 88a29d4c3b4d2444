//! Whether the object store answers, asked now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_object::ObjectStore;
use parking_lot::Mutex;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last answer of the object store.
#[derive(Debug)]
pub(crate) struct StoreProbe {
    store: Arc<dyn ObjectStore>,
    interval: Duration,
    last: Mutex<(Instant, Result<(), String>)>,
}

impl StoreProbe {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, interval: Duration) -> Self {
        let last = Mutex::new((Instant::now(), Err("the object store was not asked yet".to_owned())));
        StoreProbe { store, interval, last }
    }

    /// Asks for ever.
    pub(crate) async fn keep_asking(&self) {
        loop {
            let asked = tokio::time::timeout(PATIENCE, self.store.list("", None, 1)).await;
            let answer = match asked {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("the object store did not answer within {} s", PATIENCE.as_secs())),
            };
            let was = std::mem::replace(&mut *self.last.lock(), (Instant::now(), answer.clone())).1;
            match (&was, &answer) {
                (Ok(()), Err(error)) => tracing::warn!(%error, "the object store can't be reached"),
                (Err(_), Ok(())) => tracing::info!("the object store answers"),
                _ => {}
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// The last answer; an old one counts as none.
    pub(crate) fn answer(&self) -> Result<(), String> {
        let (at, answer) = &*self.last.lock();
        if at.elapsed() > self.interval * 3 + PATIENCE {
            return Err("the object store was not asked for long; the server is stuck or overloaded".to_owned());
        }
        answer.clone()
    }
}
