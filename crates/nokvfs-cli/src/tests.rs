//! Tests of configuration.

use std::ffi::OsString;

use clap::CommandFactory;

use crate::args::Options;
use crate::config::arguments;
use crate::volume::parse_bytes;

fn of(command: &str, yaml: &str) -> Result<Vec<OsString>, String> {
    let root = Options::command();
    let command = root.find_subcommand(command).expect("a command of that name");
    arguments(yaml, command, &root)
}

#[test]
fn the_command_line_is_consistent() {
    Options::command().debug_assert();
}

#[test]
fn keys_become_arguments() {
    let args = of("trial-store", "data: /var/lib/x\nlisten: 127.0.0.1:9001\nlog: debug\n");
    assert_eq!(args, Ok(vec!["--data=/var/lib/x".into(), "--listen=127.0.0.1:9001".into(), "--log=debug".into()]));
}

#[test]
fn an_unknown_key_names_its_line_and_the_known_ones() {
    let fault = of("trial-store", "data: /x\n\nlistn: y\n").expect_err("a typing error");
    assert!(fault.starts_with("line 3: 'listn' is no flag of 'trial-store'"), "{fault}");
    assert!(fault.contains("listen"), "{fault}");
}

#[test]
fn broken_yaml_names_its_line() {
    let fault = of("trial-store", "data: /x\nlisten: [1, 2\n").expect_err("a missing bracket");
    assert!(fault.contains("line"), "{fault}");
}

#[test]
fn a_map_is_no_value() {
    let fault = of("trial-store", "data: {a: b}\n").expect_err("a map");
    assert!(fault.starts_with("line 1: 'data' needs"), "{fault}");
}

#[test]
fn the_command_line_wins_over_the_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "data: /from-file\nlisten: 127.0.0.1:9001\naccess-key-file: a\nsecret-key-file: b\n")
        .expect("written");
    let argv = ["nokv-fs", "trial-store", "--config", file.to_str().expect("text"), "--data", "/from-line"];
    let options = crate::config::parse(argv.iter().map(OsString::from).collect()).expect("accepted");
    let shown = format!("{:?}", options.command);
    assert!(shown.contains("/from-line") && !shown.contains("/from-file"), "{shown}");
    assert!(shown.contains("127.0.0.1:9001"), "{shown}");
}

#[test]
fn sizes_are_powers_of_two() {
    assert_eq!(parse_bytes("0"), Ok(0));
    assert_eq!(parse_bytes("4GiB"), Ok(4 << 30));
    assert_eq!(parse_bytes("512M"), Ok(512 << 20));
    assert_eq!(parse_bytes("7b"), Ok(7));
    assert!(parse_bytes("12 apples").is_err());
    assert!(parse_bytes("99999999999PiB").is_err());
}
