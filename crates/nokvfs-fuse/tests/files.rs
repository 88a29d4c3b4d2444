//! Content of files.

mod mounted;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use mounted::{Volume, errno, mode, python};

#[test]
fn write_close_read() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    fs::write(&path, &data).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), data.len() as u64);
    assert!(fs::read(&path).unwrap() == data);
    fs::write(&path, b"short").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
    // Empty reads and reads beyond the end.
    let file = File::open(&path).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 2);
    assert_eq!(file.read_at(&mut buffer, 5).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
}

#[test]
fn overwrite_in_the_middle_and_read_own_writes_before_close() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    fs::write(&path, vec![b'a'; 300_000]).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"MIDDLE", 150_000).unwrap();
    let mut buffer = [0; 8];
    file.read_exact_at(&mut buffer, 149_999).unwrap();
    assert_eq!(&buffer, b"aMIDDLEa");
    // Size and mtime of what is not yet published show.
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"end").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 300_003);
    let mut all = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 300_003);
    assert_eq!(&all[300_000..], b"end");
}

#[test]
fn sparse_files_have_holes_that_read_as_zeros_and_can_be_found() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("sparse");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(b"tail", 200 << 20).unwrap();
    file.sync_all().unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), (200 << 20) + 4);
    assert!(meta.blocks() * 512 < 10 << 20, "{} blocks", meta.blocks());
    let reader = File::open(&path).unwrap();
    let mut buffer = vec![1; 1 << 20];
    reader.read_exact_at(&mut buffer, 100 << 20).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 0));
    let found = python(
        "import os, sys\n\
         f = os.open(sys.argv[1], os.O_RDONLY)\n\
         print(os.lseek(f, 4096, os.SEEK_DATA), os.lseek(f, 0, os.SEEK_HOLE), os.lseek(f, (200 << 20) + 1, os.SEEK_HOLE))\n\
         try: os.lseek(f, 1 << 40, os.SEEK_DATA)\n\
         except OSError as e: print(e.errno)",
        &[&path],
    );
    let found: Vec<u64> = found.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(found[0] <= 200 << 20 && found[0] > 4096, "data at {}", found[0]);
    assert!(found[1] >= 4 && found[1] <= 4096, "hole at {}", found[1]);
    assert_eq!(found[2..], [(200 << 20) + 4, libc::ENXIO as u64]);
}

#[test]
fn truncate_cuts_and_grows_with_zeros() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    fs::write(&path, b"0123456789").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123");
    file.set_len(8).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123\0\0\0\0");
    // While another handle has unpublished writes.
    file.write_all_at(b"abcdef", 6).unwrap();
    python("import os, sys; os.truncate(sys.argv[1], 9)", &[&path]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 9);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"0123\0\0abc");
    // O_TRUNC on open, also of a file that is open.
    let reader = File::open(&path).unwrap();
    File::create(&path).unwrap();
    assert_eq!(reader.metadata().unwrap().len(), 0);
    assert_eq!((&reader).read(&mut [0; 4]).unwrap(), 0);
}

#[test]
fn appends_of_two_descriptors_do_not_overwrite_each_other() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("log");
    let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (mut a, mut b) = (open(), open());
    for i in 0..200 {
        writeln!(a, "a{i:04}").unwrap();
        writeln!(b, "b{i:04}").unwrap();
    }
    drop((a, b));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 400);
    for (i, line) in text.lines().enumerate() {
        assert_eq!(line, format!("{}{:04}", if i % 2 == 0 { 'a' } else { 'b' }, i / 2));
    }
}

#[test]
fn appends_go_where_another_mount_ended() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let open = |m: &mounted::Mounted| OpenOptions::new().append(true).create(true).open(m.path("log")).unwrap();
    for i in 0..10 {
        // The second mount's kernel still believes the size of its own last append.
        writeln!(open(&one), "one {i}").unwrap();
        writeln!(open(&two), "two {i}").unwrap();
    }
    let expected: String = (0..10).map(|i| format!("one {i}\ntwo {i}\n")).collect();
    assert_eq!(fs::read_to_string(one.path("log")).unwrap(), expected);
    assert_eq!(fs::read_to_string(two.path("log")).unwrap(), expected);
}

#[test]
fn records_that_two_mounts_append_and_sync_are_all_there_whole() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount());
    let appends = "import os, sys\n\
                   f = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n\
                   for i in range(20):\n\
                   \x20   os.write(f, f'{os.getpid()} {i} {\"x\" * (i * 331 % 3000)} .\\n'.encode())\n\
                   \x20   if i % 2: os.fsync(f)\n\
                   \x20   if i % 5 == 0: os.fdatasync(f)\n";
    let children = [&one, &two, &one, &two]
        .map(|m| std::process::Command::new("python3").arg("-c").arg(appends).arg(m.path("log")).spawn().unwrap());
    let mut expected = Vec::new();
    for mut child in children {
        assert!(child.wait().unwrap().success());
        expected.extend((0..20).map(|i| format!("{} {i} {} .", child.id(), "x".repeat(i * 331 % 3000))));
    }
    expected.sort_unstable();
    for m in [&one, &two, &volume.mount()] {
        let text = fs::read_to_string(m.path("log")).unwrap();
        let mut found: Vec<_> = text.lines().map(str::to_owned).collect();
        // Those of one writer are in its order.
        let of = |line: &String| line.split(' ').take(2).map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
        let order: Vec<_> = found.iter().map(of).collect();
        for (at, record) in order.iter().enumerate() {
            assert!(order[..at].iter().all(|earlier| earlier[0] != record[0] || earlier[1] < record[1]));
        }
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

#[test]
fn mappings_read_and_write() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("mapped");
    fs::write(&path, vec![b'x'; 20_000]).unwrap();
    python(
        "import mmap, os, sys\n\
         f = os.open(sys.argv[1], os.O_RDWR)\n\
         a = mmap.mmap(f, 20000)\n\
         assert a[:4] == b'xxxx' and a[19999:] == b'x'\n\
         a[5000:5005] = b'HELLO'\n\
         a.flush()\n\
         a[9000:9003] = b'bye'\n\
         os.close(f)\n\
         a.close()",
        &[&path],
    );
    let data = fs::read(&path).unwrap();
    assert_eq!((&data[5000..5005], &data[9000..9003], data.len()), (&b"HELLO"[..], &b"bye"[..], 20_000));
    // What was written through the mapping after the close reaches the store, too.
    m.unmount();
    let again = volume.mount();
    let data = fs::read(again.path("mapped")).unwrap();
    assert_eq!((&data[5000..5005], &data[9000..9003]), (&b"HELLO"[..], &b"bye"[..]));
}

#[test]
fn an_unlinked_open_file_stays_readable_and_writable() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("gone");
    fs::write(&path, b"before").unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b" and after").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    drop(file);
    assert_eq!(mounted::names(m.dir()), Vec::<String>::new());
}

#[test]
fn create_flags_are_obeyed() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    let create_new = || OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
    create_new().unwrap();
    assert_eq!(mode(&path), 0o640);
    assert_eq!(errno(create_new()), libc::EEXIST);
    assert_eq!(errno(File::open(m.path("absent"))), libc::ENOENT);
    assert_eq!(errno(File::create(m.dir())), libc::EISDIR);
    assert_eq!(errno(File::open(m.path("f/x"))), libc::ENOTDIR);
    assert_eq!(errno(File::create(m.path("n".repeat(256)))), libc::ENAMETOOLONG);
    File::create(m.path("n".repeat(255))).unwrap();
}

#[test]
fn set_id_bits_go_with_a_write_a_truncation_and_a_change_of_owner() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::set_permissions(m.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = m.path("tool");
    let set = |bits| {
        fs::write(&path, b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        assert_eq!(mode(&path), bits);
    };
    let as_nobody = |what: &str| {
        python(
            &format!(
                "import os, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\nf = os.open(sys.argv[1], os.O_RDWR)\n{what}"
            ),
            &[&path],
        )
    };
    set(0o6777);
    as_nobody("os.write(f, b'y')");
    assert_eq!(mode(&path), 0o777, "after a write");
    set(0o6777);
    as_nobody("os.ftruncate(f, 0)");
    assert_eq!(mode(&path), 0o777, "after ftruncate");
    set(0o4777);
    as_nobody("os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)");
    assert_eq!(mode(&path), 0o777, "after O_TRUNC");
    set(0o2767);
    as_nobody("os.write(f, b'y')");
    assert_eq!(mode(&path), 0o2767, "without group execution it is not set-group-id");
    set(0o6755);
    std::os::unix::fs::chown(&path, Some(1000), Some(1000)).unwrap();
    assert_eq!(mode(&path), 0o755, "after chown");
    set(0o6755);
    std::os::unix::fs::chown(&path, None, None).unwrap();
    assert_eq!(mode(&path), 0o755, "after a chown that names nobody");
    set(0o4755);
    fs::write(&path, b"root keeps them").unwrap();
    assert_eq!(mode(&path), 0o4755, "root may keep them");
}

#[test]
fn what_is_not_there_is_refused_cleanly_and_copies_still_work() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let answers = python(
        "import errno, fcntl, os, sys\n\
         f = os.open(sys.argv[1], os.O_RDWR)\n\
         try: fcntl.ioctl(f, 0x80086601, b'\\0' * 8)\n\
         except OSError as e: print(e.errno)\n\
         g = os.open(sys.argv[1] + '.copy', os.O_RDWR | os.O_CREAT)\n\
         left = 100000\n\
         while left: left -= os.copy_file_range(f, g, left)\n\
         os.fsync(g)\n\
         fcntl.lockf(f, fcntl.LOCK_EX); fcntl.flock(f, fcntl.LOCK_EX)\n\
         print(os.pread(g, 200000, 0) == bytes([7]) * 100000)",
        &[&path],
    );
    let expected = format!("{}\nTrue\n", libc::ENOTTY);
    assert_eq!(answers, expected);
}

#[test]
fn direct_and_synchronous_io() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    python(
        "import mmap, os, sys\n\
         f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)\n\
         b = mmap.mmap(-1, 65536); b.write(b'd' * 65536)\n\
         assert os.write(f, b) == 65536\n\
         assert os.preadv(f, [b], 0) == 65536 and b[:] == b'd' * 65536\n\
         g = os.open(sys.argv[1], os.O_WRONLY | os.O_DSYNC)\n\
         os.pwrite(g, b'sync', 100)",
        &[&path],
    );
    let data = fs::read(&path).unwrap();
    assert_eq!((&data[99..105], data.len()), (&b"dsyncd"[..], 65_536));
}
