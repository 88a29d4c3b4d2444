//! `nokv-fs ls`, `stat`, `cat`, `mkdir`, `rm` and `mv`: paths of a volume, without a mount.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nokvfs_body::BodyOptions;
use nokvfs_client::Fs;
use nokvfs_types::{Attr, Caller, FileKind, RenameMode, Timestamp};
use serde::Serialize;

use crate::connection::VolumeArgs;
use crate::output::{self, Format};
use crate::volume::parse_mode;

/// `stat` and `cat`
#[derive(Debug, clap::Args)]
pub struct PathArgs {
    /// Path in the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// `ls`
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Path in the volume
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Show names that start with a dot
    #[arg(short, long)]
    all: bool,
    /// List directories below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// `mkdir`
#[derive(Debug, clap::Args)]
pub struct MkdirArgs {
    /// Path in the volume
    path: PathBuf,
    /// Make directories on the way, too; one that is there is fine
    #[arg(short, long)]
    parents: bool,
    /// Mode, octal
    #[arg(short, long, value_parser = parse_mode, default_value = "0755")]
    mode: u16,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// `rm`
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Path in the volume
    path: PathBuf,
    /// Remove a directory and everything below it
    #[arg(short, long)]
    recursive: bool,
    /// A path that is not there is fine
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// `mv`
#[derive(Debug, clap::Args)]
pub struct MvArgs {
    /// Path in the volume
    from: PathBuf,
    /// Its new path, or a directory to move it into
    to: PathBuf,
    /// Replace nothing
    #[arg(short, long)]
    no_clobber: bool,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// A file, as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    path: String,
    /// Set where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    inode: u64,
    allocated: u64,
    atime: String,
    mtime: String,
    ctime: String,
    btime: String,
}

impl Row {
    fn new(path: &Path, attr: &Attr) -> Self {
        let bytes = path.as_os_str().as_bytes();
        Row {
            path: String::from_utf8_lossy(bytes).into_owned(),
            path_hex: std::str::from_utf8(bytes).is_err().then(|| hex::encode(bytes)),
            kind: kind_of(attr.kind),
            mode: format!("{:04o}", attr.mode),
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            inode: attr.inode.0,
            allocated: attr.mapped,
            atime: time(attr.atime),
            mtime: time(attr.mtime),
            ctime: time(attr.ctime),
            btime: time(attr.btime),
        }
    }

    fn long(&self) -> String {
        let (kind, name) = (&self.kind[..1], shown(&self.path));
        let Row { mode, uid, gid, size, mtime, .. } = self;
        format!("{kind} {mode} {uid:>6} {gid:>6} {size:>14} {mtime:30} {name}")
    }

    fn whole(&self) -> String {
        format!(
            "path       {}\nkind       {}\nmode       {}\nowner      {}:{}\nlinks      {}\nsize       {}\nallocated  {}\n\
             inode      {}\naccessed   {}\nmodified   {}\nchanged    {}\ncreated    {}",
            shown(&self.path),
            self.kind,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.size,
            self.allocated,
            self.inode,
            self.atime,
            self.mtime,
            self.ctime,
            self.btime
        )
    }
}

fn kind_of(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "link",
        FileKind::Fifo => "pipe",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

fn time(time: Timestamp) -> String {
    // jiff covers the years -9999 to 9999, an i64 of nanoseconds 1677 to 2262.
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}

/// A name must not steer the terminal.
fn shown(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// Opens a session, works in it and ends it.
pub async fn within<T>(
    volume: &VolumeArgs,
    read_only: bool,
    work: impl AsyncFnOnce(Fs) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    within_at(volume, None, read_only, work).await
}

/// The same, in a snapshot if one is named.
pub async fn within_at<T>(
    volume: &VolumeArgs,
    snapshot: Option<String>,
    read_only: bool,
    work: impl AsyncFnOnce(Fs) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let connected = volume.connect_at(snapshot, read_only, BodyOptions::default()).await?;
    let caller = Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: [].into(),
    };
    let done = work(Fs::new(connected.service.clone(), connected.bodies.clone(), caller)).await;
    let closed = connected.close(volume.server.patience()).await;
    let value = done?;
    closed.context("ending the session")?;
    Ok(value)
}

/// Lists.
pub async fn ls(args: LsArgs, format: Format) -> anyhow::Result<()> {
    within(&args.volume, true, async |fs| {
        let mut printer = Printer::new(format, args.long);
        match list(&fs, &args, &mut printer).await.and_then(|()| printer.end()) {
            Err(error) if broken_pipe(&error) => Ok(()),
            other => other,
        }
    })
    .await
}

async fn list(fs: &Fs, args: &LsArgs, printer: &mut Printer) -> anyhow::Result<()> {
    let attr = fs.stat(&args.path).await?;
    if attr.kind != FileKind::Directory {
        return printer.row(&args.path, &attr);
    }
    // One page of entries a level of depth, never a whole directory: listings come in the directory's own order.
    let mut levels = vec![(PathBuf::new(), fs.list(&args.path).await?)];
    while let Some((below, listing)) = levels.last_mut() {
        let Some(entry) = listing.next().await? else {
            levels.pop();
            continue;
        };
        let name = OsStr::from_bytes(entry.name.as_bytes());
        if !args.all && entry.name.as_bytes().starts_with(b".") {
            continue;
        }
        let path = below.join(name);
        let attr = match entry.attr {
            Some(attr) => attr,
            None => fs.lstat(args.path.join(&path)).await?,
        };
        printer.row(&path, &attr)?;
        if args.recursive && attr.kind == FileKind::Directory {
            match fs.list(args.path.join(&path)).await {
                Ok(listing) => levels.push((path, listing)),
                Err(error) if error.is_not_found() => {} // removed meanwhile
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Prints rows as they come; as JSON, one array.
struct Printer {
    format: Format,
    long: bool,
    out: io::BufWriter<io::Stdout>,
    rows: u64,
}

impl Printer {
    fn new(format: Format, long: bool) -> Self {
        Printer { format, long, out: io::BufWriter::new(io::stdout()), rows: 0 }
    }

    fn row(&mut self, path: &Path, attr: &Attr) -> anyhow::Result<()> {
        let row = Row::new(path, attr);
        match self.format {
            Format::Json => {
                self.out.write_all(if self.rows == 0 { b"[\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, &row)?;
            }
            Format::Text if self.long => writeln!(self.out, "{}", row.long())?,
            Format::Text => writeln!(self.out, "{}", shown(&row.path))?,
        }
        self.rows += 1;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.format == Format::Json {
            self.out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()?;
        Ok(())
    }
}

/// The reader went away (`nokv-fs ls | head`): nobody is left to tell.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Shows attributes; of a symbolic link itself.
pub async fn stat(args: PathArgs, format: Format) -> anyhow::Result<()> {
    within(&args.volume, true, async |fs| {
        let row = Row::new(&args.path, &fs.lstat(&args.path).await?);
        output::print(format, &row, Row::whole)
    })
    .await
}

/// Writes a file's bytes to standard output.
pub async fn cat(args: PathArgs) -> anyhow::Result<()> {
    within(&args.volume, true, async |fs| {
        let mut reader = fs.open(&args.path).await?;
        loop {
            let bytes = reader.next().await?;
            // The main thread is none of the runtime's: blocking here holds up nobody else.
            let mut out = io::stdout().lock();
            let written = if bytes.is_empty() { out.flush() } else { out.write_all(&bytes) };
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error).context("standard output"),
                Ok(()) if bytes.is_empty() => return Ok(()),
                Ok(()) => {}
            }
        }
    })
    .await
}

/// Makes a directory.
pub async fn mkdir(args: MkdirArgs) -> anyhow::Result<()> {
    within(&args.volume, false, async |fs| {
        match args.parents {
            true => fs.mkdir_all(&args.path, args.mode).await?,
            false => fs.mkdir(&args.path, args.mode).await?,
        };
        Ok(())
    })
    .await
}

/// Removes a path.
pub async fn rm(args: RmArgs) -> anyhow::Result<()> {
    within(&args.volume, false, async |fs| {
        let attr = match fs.lstat(&args.path).await {
            Err(error) if error.is_not_found() && args.force => return Ok(()),
            attr => attr?,
        };
        match (attr.kind, args.recursive) {
            (FileKind::Directory, false) => {
                bail!("{} is a directory; add --recursive to remove it and everything below", args.path.display())
            }
            (FileKind::Directory, true) => fs.remove_all(&args.path).await.map(drop)?,
            _ => fs.remove(&args.path).await?,
        }
        Ok(())
    })
    .await
}

/// Moves a path.
pub async fn mv(args: MvArgs) -> anyhow::Result<()> {
    within(&args.volume, false, async |fs| {
        let to = destination(&fs, &args.from, &args.to).await?;
        let mode = if args.no_clobber { RenameMode::NoReplace } else { RenameMode::Replace };
        Ok(fs.rename(&args.from, to, mode).await?)
    })
    .await
}

/// `to`, or the source's name in it where it is a directory.
pub async fn destination(fs: &Fs, from: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    match fs.stat(to).await {
        Ok(attr) if attr.kind == FileKind::Directory => {
            let name = from.file_name().with_context(|| format!("{} has no name of its own", from.display()))?;
            Ok(to.join(name))
        }
        Ok(_) => Ok(to.to_owned()),
        Err(error) if error.is_not_found() => Ok(to.to_owned()),
        Err(error) => Err(error.into()),
    }
}
