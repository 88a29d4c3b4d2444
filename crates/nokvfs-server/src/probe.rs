//! Whether the object store answers, asked now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_object::ObjectStore;
use parking_lot::Mutex;

/// How long one question may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Why the object store can't be counted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The first answer is not there yet.
    #[error("the S3 object store was not asked yet")]
    NotAsked,
    /// The last answer is too old to say anything.
    #[error("the S3 object store was not asked for long; the server is stuck or overloaded")]
    Stale,
    /// It refused, failed or did not answer.
    #[error("the S3 object store can't be reached: {0}")]
    Unreachable(String),
}

/// The last answer of the object store.
#[derive(Debug)]
pub(crate) struct StoreProbe {
    store: Arc<dyn ObjectStore>,
    interval: Duration,
    last: Mutex<(Instant, Result<(), Trouble>)>,
}

impl StoreProbe {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, interval: Duration) -> Self {
        StoreProbe { store, interval, last: Mutex::new((Instant::now(), Err(Trouble::NotAsked))) }
    }

    /// Asks for ever.
    pub(crate) async fn keep_asking(&self) {
        loop {
            let answer = self.ask().await;
            let was = std::mem::replace(&mut *self.last.lock(), (Instant::now(), answer.clone())).1;
            if news(&was, &answer) {
                match &answer {
                    Ok(()) => tracing::info!("the S3 object store answers"),
                    Err(trouble) => tracing::warn!("{trouble}"),
                }
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn ask(&self) -> Result<(), Trouble> {
        match tokio::time::timeout(PATIENCE, self.store.list("", None, 1)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Trouble::Unreachable(error.to_string())),
            Err(_) => Err(Trouble::Unreachable(format!("it did not answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// The last answer; an old one counts as none.
    pub(crate) fn answer(&self) -> Result<(), Trouble> {
        let (at, answer) = &*self.last.lock();
        if at.elapsed() > self.interval * 3 + PATIENCE {
            return Err(Trouble::Stale);
        }
        answer.clone()
    }
}

/// Whether an answer is worth a line in the log. A failure that goes on is not, however it is worded: stores put a new
/// request's name into each error, and a store that is away for a day would fill the log.
pub(crate) fn news(was: &Result<(), Trouble>, is: &Result<(), Trouble>) -> bool {
    !matches!((was, is), (Ok(()), Ok(())) | (Err(Trouble::Unreachable(_)), Err(Trouble::Unreachable(_))))
}
