//! Creates fsynced files of 4 KiB in one directory, with 1 and with N client processes, and prints the ratio:
//! `one_directory DIR [N] [SECONDS]`. Boundary: mounted path; durability: fsync of every file; cache: cold names.
//!
//! A program of its own rather than a script: on two cores, 64 interpreters would be half of what is measured.

use std::env::{args, current_exe};
use std::fs::{File, create_dir};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() -> io::Result<()> {
    let args: Vec<String> = args().skip(1).collect();
    let number = |at: usize, usual: u64| args.get(at).map_or(Ok(usual), |text| text.parse()).map_err(io::Error::other);
    let Some(dir) = args.first() else {
        return Err(io::Error::other("usage: one_directory DIR [CLIENTS] [SECONDS]"));
    };
    if dir == "--client" {
        return client(Path::new(&args[1]), number(2, 0)?, number(3, 1)?);
    }
    let (clients, seconds) = (number(1, 64)?, number(2, 10)?);
    let one = rate(Path::new(dir), 1, seconds)?;
    let many = rate(Path::new(dir), clients, seconds)?;
    println!("1 client {one:.0} files/s, {clients} clients {many:.0} files/s, ratio {:.1}", many / one);
    Ok(())
}

/// Waits for a line, then makes files and prints how many.
fn client(dir: &Path, client: u64, seconds: u64) -> io::Result<()> {
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut made = 0u64;
    while Instant::now() < end {
        let mut file = File::create_new(dir.join(format!("{client}-{made}")))?;
        file.write_all(&[b'x'; 4096])?;
        file.sync_all()?;
        made += 1;
    }
    println!("{made}");
    Ok(())
}

fn rate(base: &Path, clients: u64, seconds: u64) -> io::Result<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let dir: PathBuf = base.join(format!("one-directory-{}", now.as_nanos()));
    create_dir(&dir)?;
    let mut running = Vec::new();
    for number in 0..clients {
        let mut child = Command::new(current_exe()?)
            .arg("--client")
            .arg(&dir)
            .args([number.to_string(), seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err(io::Error::other("a pipe is missing")) };
        let mut output = BufReader::new(output);
        output.read_line(&mut String::new())?;
        running.push((child, input, output));
    }
    for (_, input, _) in &mut running {
        writeln!(input)?;
    }
    let mut made = 0u64;
    for (mut child, _input, mut output) in running {
        let mut line = String::new();
        output.read_line(&mut line)?;
        made += line.trim().parse::<u64>().map_err(io::Error::other)?;
        if !child.wait()?.success() {
            return Err(io::Error::other("a client failed; its error is above"));
        }
    }
    Ok(made as f64 / seconds as f64)
}
