//! Log lines, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, Options};

/// Starts logging. A filter that can't be read falls back to `info`, and says so.
pub fn start(options: &Options) {
    let (filter, fault) = match EnvFilter::try_new(&options.log) {
        Ok(filter) => (filter, None),
        Err(fault) => (EnvFilter::new("info"), Some(fault)),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    if let Some(fault) = fault {
        tracing::warn!(filter = options.log, %fault, "the log filter can't be read; logging at info");
    }
}
