//! Named places at which tests end the process, as a kill or a power cut would.
//!
//! Owns: the macro, and what the environment asks of it. Must not: be in a product: the feature `on` is for tests.
//! Invariants: without the feature a point is no code; each name is in the source once.

/// A place at which the process may end: `failpoint!("commit.written")`.
#[cfg(feature = "on")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::visit($name)
    };
}

/// A place at which the process may end: `failpoint!("commit.written")`.
#[cfg(not(feature = "on"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}

#[cfg(feature = "on")]
pub use on::{visit, visits};

#[cfg(feature = "on")]
mod on {
    use std::collections::BTreeMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// Which visit of which point is the last thing that this process does: `NOKV_FAILPOINT=name:number`, from 1.
    static LAST: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var("NOKV_FAILPOINT").ok()?;
        let (name, number) = text.split_once(':').expect("NOKV_FAILPOINT is name:number");
        Some((name.to_owned(), number.parse().expect("NOKV_FAILPOINT is name:number")))
    });
    static VISITS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

    /// Counts a visit; ends the process if it is the one that was asked for.
    pub fn visit(name: &'static str) {
        let mut visits = VISITS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = visits.entry(name).or_default();
        *count += 1;
        if let Some((last, number)) = &*LAST
            && last == name
            && number == count
        {
            // Nothing is flushed, no destructor runs.
            std::process::abort();
        }
    }

    /// How often each point was visited.
    pub fn visits() -> BTreeMap<&'static str, u64> {
        VISITS.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
