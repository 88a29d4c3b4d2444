//! Options of the engine.

use std::path::PathBuf;
use std::time::Duration;

use nokvfs_types::MetaError;

use crate::service::MetaResult;
use crate::store::StoreOptions;

/// How an engine works.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where the metadata is, and what it may take.
    pub store: StoreOptions,
    /// A session ends after so much silence.
    pub session_expiry: Duration,
    /// After a start sessions have so much more time to be heard of.
    pub restart_grace: Duration,
    /// Objects stay so long after the last body stopped naming them, for readers that go by an older body.
    pub garbage_delay: Duration,
    /// How often the workers look for what nobody woke them for.
    pub interval: Duration,
    /// Clients in other processes have sessions: those of before a start may come back, and nobody gets a new lock until
    /// they told theirs. Without it all clients are in this process and ended with the one before it.
    pub clients_elsewhere: bool,
}

impl EngineOptions {
    /// Defaults for a directory: a gigabyte of memory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        EngineOptions {
            store: StoreOptions::new(dir, 1 << 30),
            session_expiry: Duration::from_secs(60),
            restart_grace: Duration::from_secs(60),
            garbage_delay: Duration::from_secs(10),
            interval: Duration::from_secs(5),
            clients_elsewhere: true,
        }
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// [`MetaError::Invalid`] names the option and what is allowed.
    pub fn validate(&self) -> MetaResult<()> {
        let within = |name: &str, value: Duration, least: Duration, most: Duration| {
            if value >= least && value <= most {
                return Ok(());
            }
            Err(MetaError::Invalid(format!("{name} of {value:?}: {least:?} to {most:?}")))
        };
        // A grant tells the expiry in 32 bits of milliseconds.
        within("session expiry", self.session_expiry, Duration::from_millis(100), Duration::from_secs(30 * 86_400))?;
        within("interval of the workers", self.interval, Duration::from_millis(10), Duration::from_secs(3600))
    }
}
