//! Ranges of files: allocated, punched, found.

mod mounted;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use mounted::{Mounted, Volume, errno, mode, python};
use rustix::fs::FallocateFlags as Flags;

const PUNCH: Flags = Flags::PUNCH_HOLE.union(Flags::KEEP_SIZE);

fn fallocate(file: &File, flags: Flags, offset: u64, len: u64) -> std::io::Result<()> {
    Ok(rustix::fs::fallocate(file.as_fd(), flags, offset, len)?)
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A file of `len` bytes 'x' that is published.
fn filled(m: &Mounted<'_>, name: &str, len: usize) -> File {
    fs::write(m.path(name), vec![b'x'; len]).unwrap();
    open(&m.path(name))
}

fn usage(m: &Mounted<'_>) -> u64 {
    let stat = rustix::fs::statvfs(m.dir()).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[test]
fn allocation_grows_a_file_by_a_hole_and_asks_the_quota() {
    let volume = Volume::with_quota(10 << 20);
    let m = volume.mount();
    let file = open(&m.path("f"));
    fallocate(&file, Flags::empty(), 1 << 20, 5 << 20).unwrap();
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().blocks()), (6 << 20, 0));
    fallocate(&file, Flags::KEEP_SIZE, 6 << 20, 1 << 20).unwrap();
    fallocate(&file, Flags::empty(), 0, 100).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6 << 20);
    for flags in [Flags::empty(), Flags::KEEP_SIZE] {
        assert_eq!(errno(fallocate(&file, flags, 0, 11 << 20)), libc::EDQUOT);
    }
    assert_eq!(errno(fallocate(&file, Flags::empty(), (1 << 58) - 1, 2)), libc::EFBIG);
    assert_eq!(file.metadata().unwrap().len(), 6 << 20);
    let mut buffer = [1; 4096];
    file.read_exact_at(&mut buffer, 2 << 20).unwrap();
    assert_eq!(buffer, [0; 4096]);
    // What is there counts for the range that is asked for.
    let full = filled(&m, "full", 8 << 20);
    fallocate(&full, Flags::empty(), 0, 8 << 20).unwrap();
    assert_eq!(errno(fallocate(&full, Flags::empty(), 0, 11 << 20)), libc::EDQUOT);
}

#[test]
fn holes_are_zeros_are_not_charged_and_show_on_other_mounts_at_once() {
    let volume = Volume::new();
    let (m, other) = (volume.mount(), volume.mount());
    let file = filled(&m, "f", 3 << 20);
    assert_eq!(usage(&m), 3 << 20);
    // Dirty pages of the range, and writes before and after.
    file.write_all_at(&[b'y'; 10_000], 1 << 20).unwrap();
    fallocate(&file, PUNCH, (1 << 20) + 5000, 1 << 20).unwrap();
    file.write_all_at(b"after", (1 << 20) + 6000).unwrap();
    let there = fs::read(other.path("f")).unwrap();
    assert!(there[(1 << 20) + 5000..][..1 << 20].iter().all(|byte| *byte == 0));
    fallocate(&file, Flags::ZERO_RANGE, (3 << 20) - 100, 1100).unwrap();
    fallocate(&file, Flags::ZERO_RANGE | Flags::KEEP_SIZE, 1 << 30, 1 << 20).unwrap();
    let mut wanted = vec![b'x'; 3 << 20];
    wanted[1 << 20..][..10_000].fill(b'y');
    wanted[(1 << 20) + 5000..][..1 << 20].fill(0);
    wanted[(1 << 20) + 6000..][..5].copy_from_slice(b"after");
    wanted.truncate((3 << 20) - 100);
    wanted.resize((3 << 20) + 1000, 0);
    assert!(fs::read(m.path("f")).unwrap() == wanted);
    file.sync_all().unwrap();
    assert!(fs::read(other.path("f")).unwrap() == wanted);
    let mapped = (2 << 20) + 5000 - 5000 + 5 - 100;
    assert_eq!(file.metadata().unwrap().blocks(), u64::div_ceil(mapped, 512));
    assert_eq!(usage(&m), mapped.next_multiple_of(4096));
    let found = python(
        "import os, sys\n\
         f = os.open(sys.argv[1], os.O_RDONLY)\n\
         print(os.lseek(f, 0, os.SEEK_HOLE) - (1 << 20), os.lseek(f, (1 << 20) + 5000, os.SEEK_DATA) - (1 << 20))",
        &[&m.path("f")],
    );
    assert_eq!(found, "5000 6000\n");
    fallocate(&file, PUNCH, 0, 1 << 40).unwrap();
    assert_eq!((file.metadata().unwrap().len(), usage(&m)), ((3 << 20) + 1000, 0));
}

#[test]
fn a_file_that_is_only_written_keeps_its_length_when_its_end_is_punched() {
    let volume = Volume::new();
    let m = volume.mount();
    let file = open(&m.path("f"));
    file.write_all_at(b"0123456789", 0).unwrap();
    fallocate(&file, PUNCH, 4, 100).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10);
    drop(file);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"0123\0\0\0\0\0\0");
}

#[test]
fn a_mapping_sees_the_hole_and_its_dirty_pages_go_or_stay_by_order() {
    let volume = Volume::new();
    let m = volume.mount();
    drop(filled(&m, "f", 16_384));
    python(
        "import ctypes, mmap, os, sys\n\
         f = os.open(sys.argv[1], os.O_RDWR)\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         m = mmap.mmap(f, 16384)\n\
         m[5000:6000] = b'd' * 1000\n\
         assert libc.fallocate(f, 3, ctypes.c_long(4096), ctypes.c_long(4096)) == 0\n\
         assert m[4096:8192] == bytes(4096)\n\
         m[4100:4104] = b'late'; m.flush()\n\
         assert os.pread(f, 16384, 0) == b'x' * 4096 + bytes(4) + b'late' + bytes(4088) + b'x' * 8192",
        &[&m.path("f")],
    );
    assert_eq!(&fs::read(m.path("f")).unwrap()[4096..4108], b"\0\0\0\0late\0\0\0\0");
}

#[test]
fn more_holes_than_a_chunk_has_room_for() {
    const PIECES: u64 = 700;
    let volume = Volume::new();
    let (m, other) = (volume.mount(), volume.mount());
    let file = filled(&m, "f", PIECES as usize * 1000);
    let mut wanted = vec![b'x'; PIECES as usize * 1000];
    for piece in 0..PIECES {
        let at = piece * 1000 + 300;
        fallocate(&file, PUNCH, at, 400).unwrap();
        wanted[at as usize..][..400].fill(0);
    }
    assert!(fs::read(m.path("f")).unwrap() == wanted);
    assert!(fs::read(other.path("f")).unwrap() == wanted);
}

/// Regression: they were taken for a hole, which a copy that looks for holes would have left out.
#[test]
fn pages_that_a_mapping_changed_are_data() {
    let volume = Volume::new();
    let m = volume.mount();
    let found = python(
        "import mmap, os, sys\n\
         f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.ftruncate(f, 1 << 20); os.fsync(f)\n\
         m = mmap.mmap(f, 1 << 20); m[500000:500010] = b'0123456789'\n\
         g = os.open(sys.argv[1], os.O_RDONLY)\n\
         at = os.lseek(g, 0, os.SEEK_DATA); end = os.lseek(g, at, os.SEEK_HOLE)\n\
         print(at <= 500000 < 500010 <= end < 1 << 20, os.pread(g, 10, 500000))",
        &[&m.path("f")],
    );
    assert_eq!(found, "True b'0123456789'\n");
}

#[test]
fn what_moves_bytes_is_refused_and_so_are_directories_and_readers() {
    let volume = Volume::new();
    let m = volume.mount();
    let file = filled(&m, "f", 8192);
    for flags in [Flags::COLLAPSE_RANGE, Flags::INSERT_RANGE, Flags::UNSHARE_RANGE, Flags::PUNCH_HOLE] {
        assert_eq!(errno(fallocate(&file, flags, 0, 4096)), libc::EOPNOTSUPP, "{flags:?}");
    }
    assert_eq!(errno(fallocate(&file, Flags::empty(), 0, 0)), libc::EINVAL);
    assert_eq!(errno(fallocate(&File::open(m.path("f")).unwrap(), PUNCH, 0, 1)), libc::EBADF);
    assert_eq!(fs::read(m.path("f")).unwrap(), [b'x'; 8192]);
}

#[test]
fn set_id_bits_go_and_times_change_with_a_range() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    drop(filled(&m, "f", 8192));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    let punch = |uid: u32, mode: u32| {
        let before = fs::metadata(&path).unwrap();
        let program = format!(
            "import ctypes, os, sys\n\
             os.seteuid({uid})\n\
             f = os.open(sys.argv[1], os.O_RDWR)\n\
             assert ctypes.CDLL(None).fallocate(f, {mode}, ctypes.c_long(0), ctypes.c_long(4096)) == 0",
        );
        python(&program, &[&path]);
        let after = fs::metadata(&path).unwrap();
        let time = |meta: &fs::Metadata| ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        assert!(time(&after).0 > time(&before).0 && time(&after).1 > time(&before).1);
    };
    punch(0, 3);
    assert_eq!(mode(&path), 0o6777);
    punch(1000, 0);
    assert_eq!(mode(&path), 0o777);
}
