//! How results are printed.

use clap::ValueEnum;
use serde::Serialize;

/// Forms of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints a result in the asked form.
pub fn print<T: Serialize>(format: Format, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    use std::io::Write;
    let line = match format {
        Format::Text => text(value),
        Format::Json => serde_json::to_string_pretty(value)?,
    };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", line.trim_end_matches('\n')) {
        // The reader went away (`nokv-fs ls | head`): nobody is left to tell.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Bytes for people, in binary units.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
