//! What this process asks of the files below one folder, in order. The C library's calls are taken over by functions of
//! the same name here: the linker prefers them, so the store, std and our code all pass through.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file, whatever it is called.
pub type File = u64;

#[derive(Debug)]
pub enum Event {
    /// A new file, or one that was there when the recording began.
    Create(PathBuf, File),
    Mkdir(PathBuf),
    Truncate(File, u64),
    Write(File, u64, Vec<u8>),
    Sync(File),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    /// The caller was told that it is durable.
    Told(u64),
}

struct Recording {
    root: PathBuf,
    events: Vec<Event>,
}

static ON: AtomicBool = AtomicBool::new(false);
static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);

/// Records what happens below `root` until [`stop`]. What is there already counts as durable.
pub fn start(root: &Path) {
    let mut events = Vec::new();
    take_in(root, &mut events);
    *RECORDING.lock().unwrap() = Some(Recording { root: root.to_owned(), events });
    ON.store(true, Ordering::SeqCst);
}

fn take_in(dir: &Path, events: &mut Vec<Event>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.metadata().unwrap();
        if meta.is_dir() {
            events.push(Event::Mkdir(path.clone()));
            take_in(&path, events);
        } else {
            events.push(Event::Create(path.clone(), meta.ino()));
            events.push(Event::Write(meta.ino(), 0, std::fs::read(&path).unwrap()));
            events.push(Event::Sync(meta.ino()));
        }
    }
    events.push(Event::SyncDir(dir.to_owned()));
}

pub fn stop() -> Vec<Event> {
    ON.store(false, Ordering::SeqCst);
    RECORDING.lock().unwrap().take().expect("a recording").events
}

pub fn told(number: u64) {
    record(|_| Some(Event::Told(number)));
}

fn record(event: impl FnOnce(&Path) -> Option<Event>) {
    if let Some(recording) = RECORDING.lock().unwrap().as_mut()
        && let Some(event) = event(&recording.root)
    {
        recording.events.push(event);
    }
}

/// Runs a call and records it if it succeeded, both before any other.
fn call(run: impl FnOnce() -> i64, event: impl FnOnce(&Path, i64) -> Option<Event>) -> i64 {
    if !ON.load(Ordering::SeqCst) {
        return run();
    }
    let mut recording = RECORDING.lock().unwrap();
    let answer = run();
    if answer >= 0
        && let Some(recording) = recording.as_mut()
        && let Some(event) = event(&recording.root, answer)
    {
        recording.events.push(event);
    }
    answer
}

/// The file of a descriptor, if it is one below the root.
fn file(root: &Path, fd: c_int) -> Option<(PathBuf, std::fs::Metadata)> {
    let link = PathBuf::from(format!("/proc/self/fd/{fd}"));
    let path = std::fs::read_link(&link).ok().filter(|path| path.starts_with(root))?;
    Some((path, std::fs::metadata(link).ok()?))
}

fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    path.starts_with(root).then(|| path.to_owned())
}

/// # Safety
/// `path` is a string that ends with a zero.
unsafe fn path_of<'p>(path: *const c_char) -> &'p Path {
    // SAFETY: as demanded.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// # Safety
/// `from` has `len` bytes.
unsafe fn bytes(from: *const c_void, len: usize) -> Vec<u8> {
    // SAFETY: as demanded.
    unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec()
}

/// # Safety
/// As open(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's.
    let (name, open) =
        unsafe { (path_of(path), || libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode)) };
    if !ON.load(Ordering::SeqCst) || flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
        return open() as c_int;
    }
    let known = name.exists();
    let event = |root: &Path, _| {
        let name = below(root, name)?;
        let file = std::fs::metadata(&name).ok()?.ino();
        match known {
            false => Some(Event::Create(name, file)),
            true => (flags & libc::O_TRUNC != 0).then_some(Event::Truncate(file, 0)),
        }
    };
    call(open, event) as c_int
}

/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, from: *const c_void, len: usize) -> isize {
    let event = |root: &Path, written: i64| {
        let (_, meta) = file(root, fd)?;
        // SAFETY: no memory is passed. Where the write ended shows where it began, also when it appended.
        let end = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        // SAFETY: the kernel just read them.
        Some(Event::Write(meta.ino(), (end - written) as u64, unsafe { bytes(from, written as usize) }))
    };
    // SAFETY: the caller's.
    call(|| unsafe { libc::syscall(libc::SYS_write, fd, from, len) }, event) as isize
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, len: usize, at: i64) -> isize {
    let event = |root: &Path, written: i64| {
        let (_, meta) = file(root, fd)?;
        // SAFETY: the kernel just read them.
        Some(Event::Write(meta.ino(), at as u64, unsafe { bytes(from, written as usize) }))
    };
    // SAFETY: the caller's.
    call(|| unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, len, at) }, event) as isize
}

/// # Safety
/// As pwritev(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(fd: c_int, from: *const libc::iovec, count: c_int, at: i64) -> isize {
    let event = |root: &Path, written: i64| {
        let (_, meta) = file(root, fd)?;
        // SAFETY: the kernel just read them.
        let parts = unsafe { std::slice::from_raw_parts(from, count as usize) };
        // SAFETY: likewise.
        let mut all = parts.iter().flat_map(|part| unsafe { bytes(part.iov_base, part.iov_len) }).collect::<Vec<_>>();
        all.truncate(written as usize);
        Some(Event::Write(meta.ino(), at as u64, all))
    };
    // SAFETY: the caller's.
    call(|| unsafe { libc::syscall(libc::SYS_pwritev, fd, from, count, at, 0) }, event) as isize
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, len: i64) -> c_int {
    let event = |root: &Path, _| Some(Event::Truncate(file(root, fd)?.1.ino(), len as u64));
    // SAFETY: no memory is passed.
    call(|| unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) }, event) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate(fd: c_int, at: i64, len: i64) -> c_int {
    let event = |root: &Path, _| Some(Event::Truncate(file(root, fd)?.1.ino(), file(root, fd)?.1.len()));
    // SAFETY: no memory is passed.
    match call(|| unsafe { libc::syscall(libc::SYS_fallocate, fd, 0, at, len) }, event) {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    }
}

fn sync(fd: c_int) -> c_int {
    let event = |root: &Path, _| {
        let (path, meta) = file(root, fd)?;
        Some(if meta.is_dir() { Event::SyncDir(path) } else { Event::Sync(meta.ino()) })
    };
    // The image has what was synced: the disk below need not.
    call(|| 0, event) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd)
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd)
}

/// # Safety
/// As rename(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's.
    let (old, new) = unsafe { (path_of(from), path_of(to)) };
    let run = || unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) };
    call(run, |root, _| Some(Event::Rename(below(root, old)?, below(root, new)?))) as c_int
}

/// # Safety
/// As unlink(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's.
    let name = unsafe { path_of(path) };
    let run = || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) };
    call(run, |root, _| Some(Event::Unlink(below(root, name)?))) as c_int
}

/// # Safety
/// As mkdir(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller's.
    let name = unsafe { path_of(path) };
    let run = || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
    call(run, |root, _| Some(Event::Mkdir(below(root, name)?))) as c_int
}
