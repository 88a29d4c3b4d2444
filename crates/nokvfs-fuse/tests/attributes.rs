//! Attributes, permissions, extended attributes, statfs.

mod mounted;

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mounted::{Volume, errno, mode, python};

#[test]
fn modes_and_owners_are_kept() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    fs::write(&path, b"x").unwrap();
    for bits in [0o000, 0o644, 0o1777, 0o7777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        assert_eq!(mode(&path), bits);
    }
    chown(&path, Some(12), Some(34)).unwrap();
    chown(&path, None, Some(56)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (12, 56));
    let said = python(
        "import os, sys; os.umask(0o027); os.close(os.open(sys.argv[1], os.O_CREAT, 0o666)); os.mkdir(sys.argv[1] + '.d', 0o777)",
        &[&m.path("u")],
    );
    assert_eq!((said.as_str(), mode(&m.path("u")), mode(&m.path("u.d"))), ("", 0o640, 0o750));
}

#[test]
fn times_have_nanoseconds_and_reach_before_the_epoch() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    let file = File::create(&path).unwrap();
    for mtime in [
        UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
        UNIX_EPOCH - Duration::new(1, 700_000_000),
        UNIX_EPOCH - Duration::from_secs(100),
        UNIX_EPOCH + Duration::new(5_000_000_000, 1),
    ] {
        let atime = mtime + Duration::from_nanos(11);
        file.set_times(FileTimes::new().set_modified(mtime).set_accessed(atime)).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.modified().unwrap(), meta.accessed().unwrap()), (mtime, atime));
    }
    let before = SystemTime::now() - Duration::from_secs(1);
    python("import os, sys; os.utime(sys.argv[1])", &[&path]);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() >= before);
}

#[test]
fn the_most_extreme_times_do_no_harm() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("f"), b"").unwrap();
    let said = python(
        "import ctypes, os, sys\n\
         class T(ctypes.Structure): _fields_ = [('s', ctypes.c_int64), ('n', ctypes.c_long)]\n\
         for s, n in ((2 ** 63 - 1, 999999999), (-2 ** 63, 999999999), (-2 ** 63 + 1, 5), (-2, 300000000)):\n\
         \tassert ctypes.CDLL(None).utimensat(-100, sys.argv[1].encode(), (T * 2)(T(s, n), T(s, n)), 0) == 0\n\
         \tprint(os.stat(sys.argv[1]).st_mtime_ns)",
        &[&m.path("f")],
    );
    let expected = [i64::MAX, i64::MIN, i64::MIN, -1_700_000_000].map(|nanos| format!("{nanos}\n"));
    assert_eq!(said, expected.concat());
}

#[test]
fn times_set_after_a_write_survive_the_close() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("extracted");
    let mtime = UNIX_EPOCH + Duration::new(1_000_000_000, 42);
    let mut file = File::create(&path).unwrap();
    file.write_all(b"as tar and cp -p do").unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), mtime);
    m.unmount();
    let again = volume.mount();
    assert_eq!(fs::metadata(again.path("extracted")).unwrap().modified().unwrap(), mtime);
}

#[test]
fn a_write_changes_mtime_and_a_read_changes_nothing() {
    let volume = Volume::new();
    let m = volume.mount();
    let path = m.path("f");
    fs::write(&path, b"x").unwrap();
    let old = UNIX_EPOCH + Duration::from_secs(1_000);
    File::open(&path).unwrap().set_times(FileTimes::new().set_modified(old).set_accessed(old)).unwrap();
    fs::read(&path).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.modified().unwrap(), meta.accessed().unwrap()), (old, old));
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"y").unwrap();
    assert!(file.metadata().unwrap().modified().unwrap() > old, "before the close");
    drop(file);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > old);
}

/// Regression: the time in the future stayed until the close.
#[test]
fn a_write_brings_a_time_in_the_future_back() {
    let volume = Volume::new();
    let m = volume.mount();
    let future = UNIX_EPOCH + Duration::from_secs(1 << 33);
    let mut file = File::create(m.path("f")).unwrap();
    file.set_modified(future).unwrap();
    file.write_all(b"x").unwrap();
    assert!(file.metadata().unwrap().modified().unwrap() < future);
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().modified().unwrap() < future);
}

#[test]
fn permissions_bind_others() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("secret"), b"s").unwrap();
    fs::set_permissions(m.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(m.path("public"), b"p").unwrap();
    fs::create_dir(m.path("sticky")).unwrap();
    fs::set_permissions(m.path("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(m.path("sticky/root"), b"").unwrap();
    fs::create_dir(m.path("shared")).unwrap();
    chown(m.path("shared"), None, Some(4242)).unwrap();
    fs::set_permissions(m.path("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    fs::write(m.path("group"), b"g").unwrap();
    chown(m.path("group"), None, Some(4343)).unwrap();
    fs::set_permissions(m.path("group"), fs::Permissions::from_mode(0o640)).unwrap();
    let said = python(
        "import os, sys\n\
         os.setgroups([4343]); os.setgid(65534); os.setuid(65534); os.chdir(sys.argv[1])\n\
         def t(f):\n\
         \ttry: f(); print('ok', end=' ')\n\
         \texcept OSError as e: print(e.errno, end=' ')\n\
         t(lambda: open('secret')); t(lambda: open('public')); t(lambda: open('public', 'a')); t(lambda: os.mkdir('d'))\n\
         t(lambda: os.chmod('public', 0o777)); t(lambda: os.chown('public', 65534, -1)); t(lambda: os.unlink('sticky/root'))\n\
         t(lambda: open('group')); t(lambda: open('group', 'a'))\n\
         t(lambda: open('sticky/mine', 'w')); t(lambda: os.unlink('sticky/mine'))\n\
         t(lambda: open('shared/f', 'w')); t(lambda: os.mkdir('shared/d')); t(lambda: os.access('secret', os.R_OK) and 1/0)",
        &[m.dir()],
    );
    let (acces, perm) = (libc::EACCES, libc::EPERM);
    assert_eq!(said, format!("{acces} ok {acces} {acces} {perm} {perm} {perm} ok {acces} ok ok ok ok ok "));
    let file = fs::metadata(m.path("shared/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (65534, 4242), "the directory's set-group-id bit gives its group");
    assert_eq!(mode(&m.path("shared/d")) & 0o2000, 0o2000);
}

#[test]
fn extended_attributes() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("f"), b"").unwrap();
    let said = python(
        "import os, sys\n\
         p = sys.argv[1]\n\
         def t(f):\n\
         \ttry: return f()\n\
         \texcept OSError as e: return e.errno\n\
         print(t(lambda: os.getxattr(p, 'user.none')), t(lambda: os.listxattr(p)))\n\
         os.setxattr(p, 'user.a', b'1'); os.setxattr(p, 'user.b', b'\\0\\xff' * 8000); os.setxattr(p, 'user.empty', b'')\n\
         os.setxattr(p, 'trusted.t', b'root')\n\
         print(os.getxattr(p, 'user.a'), os.getxattr(p, 'user.b') == b'\\0\\xff' * 8000, os.getxattr(p, 'user.empty'))\n\
         print(sorted(os.listxattr(p)))\n\
         os.seteuid(1000); print(sorted(os.listxattr(p)), t(lambda: os.getxattr(p, 'trusted.t'))); os.seteuid(0)\n\
         print(t(lambda: os.setxattr(p, 'user.a', b'2', os.XATTR_CREATE)), t(lambda: os.setxattr(p, 'user.z', b'2', os.XATTR_REPLACE)))\n\
         os.setxattr(p, 'user.a', b'22', os.XATTR_REPLACE); print(os.getxattr(p, 'user.a'))\n\
         os.removexattr(p, 'user.a'); print(t(lambda: os.getxattr(p, 'user.a')), t(lambda: os.removexattr(p, 'user.a')))\n\
         print(t(lambda: os.setxattr(p, 'user.big', b'x' * 40000)))\n\
         print(t(lambda: os.setxattr(p, 'security.capability', b'\\0\\0\\0\\2' + b'\\1' * 16)), t(lambda: os.getxattr(p, 'security.capability')))\n\
         print(t(lambda: os.setxattr(p, 'system.posix_acl_access', b'\\2\\0\\0\\0' + b''.join(bytes([t, 0, 6, 0]) + b'\\xff' * 4 for t in (1, 4, 32)))))",
        &[&m.path("f")],
    );
    let (nodata, unsupported) = (libc::ENODATA, libc::EOPNOTSUPP);
    let expected = [
        format!("{nodata} []"),
        "b'1' True b''".to_owned(),
        "['trusted.t', 'user.a', 'user.b', 'user.empty']".to_owned(),
        format!("['user.a', 'user.b', 'user.empty'] {nodata}"),
        format!("{} {nodata}", libc::EEXIST),
        "b'22'".to_owned(),
        format!("{nodata} {nodata}"),
        format!("{}", libc::E2BIG),
        format!("{unsupported} {nodata}"),
        format!("{unsupported}"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn statfs_tells_counters() {
    let volume = Volume::new();
    let m = volume.mount();
    let stat = || {
        let said = python(
            "import os, sys; s = os.statvfs(sys.argv[1]); print(s.f_frsize, s.f_blocks, s.f_bfree, s.f_files, s.f_ffree, s.f_namemax)",
            &[m.dir()],
        );
        said.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<u64>>()
    };
    let before = stat();
    assert_eq!((before[0], before[5]), (4096, 255));
    assert!(before[1] > 0 && before[2] <= before[1]);
    fs::write(m.path("f"), vec![0xaa; 1 << 20]).unwrap();
    let after = stat();
    assert_eq!(before[2] - after[2], 256);
    // Without a quota the total is what the server has room for, so only what is used is exact.
    assert_eq!((after[3] - after[4]) - (before[3] - before[4]), 1);
}

#[test]
fn a_read_only_mount_refuses_changes() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("f"), b"x").unwrap();
    let options = nokvfs_fuse::MountOptions { read_only: true, ..nokvfs_fuse::MountOptions::default() };
    let reader = volume.mount_with(options);
    assert_eq!(fs::read(reader.path("f")).unwrap(), b"x");
    assert_eq!(errno(fs::write(reader.path("f"), b"y")), libc::EROFS);
    assert_eq!(errno(fs::create_dir(reader.path("d"))), libc::EROFS);
}
