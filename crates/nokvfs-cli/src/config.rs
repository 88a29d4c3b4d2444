//! Flags, environment and YAML file become one set of options.
//!
//! A file's keys are the command's long flags. Each becomes an argument before those of the command line, which
//! therefore win; a key whose environment variable is set is passed over.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, FromArgMatches};

use crate::args::Options;

/// Flags that name secrets by their value would show in process lists; files may hold no secret either.
const MAX_CONFIG: u64 = 1 << 20;

/// Why the program does not start.
#[derive(Debug)]
pub enum Refused {
    /// clap's own message: usage, help, version.
    Usage(clap::Error),
    /// A fault in the configuration file.
    File(String),
}

impl Refused {
    /// Prints the reason and answers the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Refused::Usage(error) => {
                let code = error.exit_code();
                if error.print().is_err() {
                    return ExitCode::from(2);
                }
                ExitCode::from(u8::try_from(code).unwrap_or(2))
            }
            Refused::File(text) => {
                eprintln!("nokv-fs: {text}");
                ExitCode::from(2)
            }
        }
    }
}

/// Reads the command line and, where it names one, the file.
pub fn parse(argv: Vec<OsString>) -> Result<Options, Refused> {
    let argv = match config_path(&argv) {
        Some(path) => with_file(argv, Path::new(&path))?,
        None => argv,
    };
    let matches = Options::command().try_get_matches_from(argv).map_err(Refused::Usage)?;
    Options::from_arg_matches(&matches).map_err(Refused::Usage)
}

fn config_path(argv: &[OsString]) -> Option<OsString> {
    let mut args = argv.iter().skip(1);
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else { continue };
        if text == "--" {
            break;
        }
        if text == "--config" {
            return args.next().cloned();
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("NOKV_CONFIG").filter(|path| !path.is_empty())
}

fn with_file(argv: Vec<OsString>, path: &Path) -> Result<Vec<OsString>, Refused> {
    let show = path.display();
    let size = std::fs::metadata(path).map_err(|error| Refused::File(format!("configuration {show}: {error}")))?.len();
    if size > MAX_CONFIG {
        return Err(Refused::File(format!("configuration {show}: {size} bytes, at most {MAX_CONFIG} are read")));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| Refused::File(format!("configuration {show}: {error}")))?;
    let root = Options::command();
    let Some(at) =
        argv.iter().skip(1).position(|arg| arg.to_str().is_some_and(|name| root.find_subcommand(name).is_some()))
    else {
        return Ok(argv); // clap will say what is missing
    };
    let command = argv[at + 1].to_str().and_then(|name| root.find_subcommand(name)).unwrap_or(&root);
    let added =
        arguments(&text, command, &root).map_err(|fault| Refused::File(format!("configuration {show}: {fault}")))?;
    let mut all = argv;
    let rest = all.split_off(at + 2);
    all.extend(added);
    all.extend(rest);
    Ok(all)
}

/// The file's keys as arguments.
pub(crate) fn arguments(text: &str, command: &clap::Command, root: &clap::Command) -> Result<Vec<OsString>, String> {
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let map = match value {
        serde_yaml::Value::Null => return Ok(Vec::new()),
        serde_yaml::Value::Mapping(map) => map,
        _ => return Err("line 1: the file must hold keys and values".into()),
    };
    let mut out = Vec::new();
    for (key, value) in &map {
        let Some(key) = key.as_str() else { return Err(format!("key {key:?} is no text")) };
        let line = line_of(text, key);
        let flag = command.get_arguments().chain(root.get_arguments()).find(|arg| arg.get_long() == Some(key));
        let Some(flag) = flag.filter(|arg| !matches!(arg.get_id().as_str(), "config" | "help" | "version")) else {
            let known: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
            return Err(format!(
                "line {line}: '{key}' is no flag of '{}'; known are {}",
                command.get_name(),
                known.join(", ")
            ));
        };
        if flag.get_env().is_some_and(|name| std::env::var_os(name).is_some()) {
            continue;
        }
        let takes_value = matches!(flag.get_action(), ArgAction::Set | ArgAction::Append);
        for item in items(value) {
            match (scalar(item), takes_value) {
                (Some(text), true) => out.push(format!("--{key}={text}").into()),
                (Some(text), false) if text == "true" => out.push(format!("--{key}").into()),
                (Some(text), false) if text == "false" => {}
                (_, true) => return Err(format!("line {line}: '{key}' needs a text, a number or a list of them")),
                (_, false) => return Err(format!("line {line}: '{key}' is true or false")),
            }
        }
    }
    Ok(out)
}

fn items(value: &serde_yaml::Value) -> Vec<&serde_yaml::Value> {
    match value {
        serde_yaml::Value::Sequence(items) => items.iter().collect(),
        one => vec![one],
    }
}

fn scalar(value: &serde_yaml::Value) -> Option<String> {
    match value {
        serde_yaml::Value::String(text) => Some(text.clone()),
        serde_yaml::Value::Number(number) => Some(number.to_string()),
        serde_yaml::Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn line_of(text: &str, key: &str) -> usize {
    let starts = |line: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':'))
    };
    text.lines().position(starts).map_or(1, |index| index + 1)
}
