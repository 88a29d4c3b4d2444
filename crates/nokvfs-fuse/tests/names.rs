//! Names: directories, links, renames, listings.

mod mounted;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use mounted::{Volume, errno, names, python};

#[test]
fn directories_come_and_go() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::create_dir(m.path("d")).unwrap();
    assert_eq!(errno(fs::create_dir(m.path("d"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(m.path("absent/d"))), libc::ENOENT);
    fs::create_dir_all(m.path("d/e/f")).unwrap();
    assert_eq!(fs::metadata(m.path("d")).unwrap().nlink(), 3);
    assert_eq!(errno(fs::remove_dir(m.path("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(m.path("d"))), libc::EISDIR);
    File::create(m.path("file")).unwrap();
    assert_eq!(errno(fs::remove_dir(m.path("file"))), libc::ENOTDIR);
    fs::remove_dir(m.path("d/e/f")).unwrap();
    fs::remove_dir_all(m.path("d")).unwrap();
    assert_eq!(names(m.dir()), ["file"]);
    assert_eq!(fs::metadata(m.dir()).unwrap().ino(), 1);
}

#[test]
fn dot_and_dot_dot_name_the_right_inodes() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::create_dir_all(m.path("a/b")).unwrap();
    let inode = |path: &str| fs::metadata(m.path(path)).unwrap().ino();
    assert_eq!(inode("a/b/.."), inode("a"));
    assert_eq!(inode("a/.."), 1);
    let listed = python(
        "import ctypes, os, sys\n\
         class D(ctypes.Structure): _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('len', ctypes.c_uint16), ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]\n\
         l = ctypes.CDLL(None); l.opendir.restype = ctypes.c_void_p; l.readdir.restype = ctypes.POINTER(D)\n\
         d = l.opendir(sys.argv[1].encode()); out = {}\n\
         while e := l.readdir(ctypes.c_void_p(d)): out[e.contents.name.decode()] = e.contents.ino\n\
         print(out['.'], out['..'], len(out))",
        &[&m.path("a/b")],
    );
    assert_eq!(listed, format!("{} {} 2\n", inode("a/b"), inode("a")));
}

#[test]
fn names_are_bytes() {
    let volume = Volume::new();
    let m = volume.mount();
    let all: Vec<Vec<u8>> = vec![
        vec![0xff, 0xfe, b'x'],
        b"new\nline".to_vec(),
        "\u{e9}".into(),
        b" ".to_vec(),
        vec![b'n'; 255],
        vec![0xff; 255],
    ];
    for name in &all {
        fs::write(m.path(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut listed: Vec<Vec<u8>> =
        fs::read_dir(m.dir()).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    listed.sort();
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    for name in &all {
        assert_eq!(&fs::read(m.path(OsStr::from_bytes(name))).unwrap(), name);
        fs::remove_file(m.path(OsStr::from_bytes(name))).unwrap();
    }
}

#[test]
fn hard_links_share_one_inode() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("a"), b"content").unwrap();
    fs::create_dir(m.path("d")).unwrap();
    fs::hard_link(m.path("a"), m.path("d/b")).unwrap();
    let (a, b) = (fs::metadata(m.path("a")).unwrap(), fs::metadata(m.path("d/b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    fs::write(m.path("d/b"), b"through b").unwrap();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"through b");
    assert_eq!(errno(fs::hard_link(m.path("a"), m.path("d/b"))), libc::EEXIST);
    assert_eq!(errno(fs::hard_link(m.path("d"), m.path("e"))), libc::EPERM);
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("d/b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(m.path("d/b")).unwrap(), b"through b");
}

#[test]
fn symbolic_links_are_kept_as_given() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("target"), b"there").unwrap();
    symlink("target", m.path("link")).unwrap();
    symlink("nowhere", m.path("dangling")).unwrap();
    let long = "x/".repeat(2047);
    symlink(&long, m.path("long")).unwrap();
    assert_eq!(fs::read(m.path("link")).unwrap(), b"there");
    assert_eq!(fs::read_link(m.path("long")).unwrap(), Path::new(&long));
    assert_eq!(errno(fs::read(m.path("dangling"))), libc::ENOENT);
    let meta = fs::symlink_metadata(m.path("link")).unwrap();
    assert!(meta.file_type().is_symlink());
    assert_eq!((meta.len(), meta.mode() & 0o7777), (6, 0o777));
    symlink("loop", m.path("loop")).unwrap();
    assert_eq!(errno(fs::read(m.path("loop"))), libc::ELOOP);
    assert_eq!(errno(symlink("again", m.path("link"))), libc::EEXIST);
}

#[test]
fn special_files_are_made() {
    let volume = Volume::new();
    let m = volume.mount();
    python(
        "import os, socket, stat, sys\n\
         d = sys.argv[1]\n\
         os.mkfifo(d + '/fifo', 0o600)\n\
         s = socket.socket(socket.AF_UNIX); s.bind(d + '/socket')\n\
         os.mknod(d + '/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))\n\
         os.mknod(d + '/disk', stat.S_IFBLK | 0o600, os.makedev(259, 70000))\n\
         os.mknod(d + '/file', stat.S_IFREG | 0o644)",
        &[m.dir()],
    );
    let meta = |name: &str| fs::symlink_metadata(m.path(name)).unwrap();
    assert!(meta("fifo").file_type().is_fifo() && meta("fifo").rdev() == 0);
    assert!(meta("socket").file_type().is_socket());
    assert!(meta("null").file_type().is_char_device());
    assert_eq!(meta("null").rdev(), libc::makedev(1, 3));
    assert_eq!(meta("disk").rdev(), libc::makedev(259, 70_000));
    assert!(meta("file").is_file());
    // A fifo works between processes.
    let fifo = m.path("fifo");
    let writer = std::thread::spawn(move || fs::write(fifo, b"through the fifo"));
    assert_eq!(fs::read(m.path("fifo")).unwrap(), b"through the fifo");
    writer.join().unwrap().unwrap();
}

#[test]
fn renames_replace_what_they_may() {
    let volume = Volume::new();
    let m = volume.mount();
    let rename = |from: &str, to: &str| fs::rename(m.path(from), m.path(to));
    fs::write(m.path("a"), b"a").unwrap();
    fs::write(m.path("b"), b"b").unwrap();
    rename("a", "b").unwrap();
    assert_eq!((names(m.dir()), fs::read(m.path("b")).unwrap()), (vec!["b".to_owned()], b"a".to_vec()));
    // The same file under two names stays.
    fs::hard_link(m.path("b"), m.path("c")).unwrap();
    rename("b", "c").unwrap();
    assert_eq!(names(m.dir()), ["b", "c"]);
    // Directories.
    fs::create_dir_all(m.path("d/sub")).unwrap();
    fs::create_dir(m.path("empty")).unwrap();
    rename("d", "empty").unwrap();
    assert_eq!(names(&m.path("empty")), ["sub"]);
    fs::create_dir(m.path("full")).unwrap();
    File::create(m.path("full/x")).unwrap();
    assert_eq!(errno(rename("empty", "full")), libc::ENOTEMPTY);
    assert_eq!(errno(rename("empty", "empty/sub/self")), libc::EINVAL);
    assert_eq!(errno(rename("full", "b")), libc::ENOTDIR);
    assert_eq!(errno(rename("b", "full")), libc::EISDIR);
    assert_eq!(errno(rename("absent", "b")), libc::ENOENT);
    // Into another directory: parents and link counts follow.
    rename("empty/sub", "full/sub").unwrap();
    assert_eq!(fs::metadata(m.path("full")).unwrap().nlink(), 3);
    assert_eq!(fs::metadata(m.path("empty")).unwrap().nlink(), 2);
    let parent = fs::metadata(m.path("full/sub/..")).unwrap().ino();
    assert_eq!(parent, fs::metadata(m.path("full")).unwrap().ino());
}

#[test]
fn renames_with_flags() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("a"), b"a").unwrap();
    fs::write(m.path("b"), b"b").unwrap();
    fs::create_dir_all(m.path("d/e")).unwrap();
    let said = python(
        "import ctypes, os, sys\n\
         l = ctypes.CDLL(None, use_errno=True); p = lambda n: (sys.argv[1] + '/' + n).encode()\n\
         def r(a, b, f): return 0 if l.renameat2(-100, p(a), -100, p(b), f) == 0 else ctypes.get_errno()\n\
         print(r('a', 'b', 1), r('a', 'c', 1), r('c', 'b', 2), r('d', 'b', 2), r('b', 'absent', 2), r('c', 'x', 4))",
        &[m.dir()],
    );
    assert_eq!(said, format!("{} 0 0 0 {} {}\n", libc::EEXIST, libc::ENOENT, libc::EINVAL));
    assert_eq!(names(m.dir()), ["b", "c", "d"]);
    assert_eq!(fs::read(m.path("c")).unwrap(), b"b");
    assert_eq!(fs::read(m.path("d")).unwrap(), b"a");
    assert_eq!(names(&m.path("b")), ["e"]);
}

#[test]
fn an_open_file_follows_its_rename_and_outlives_being_replaced() {
    let volume = Volume::new();
    let m = volume.mount();
    fs::write(m.path("old"), b"old content").unwrap();
    let file = File::open(m.path("old")).unwrap();
    fs::write(m.path("new"), b"new").unwrap();
    fs::rename(m.path("new"), m.path("old")).unwrap();
    assert_eq!(std::io::read_to_string(&file).unwrap(), "old content");
    assert_eq!(fs::read(m.path("old")).unwrap(), b"new");
}

#[test]
fn a_large_directory_lists_each_entry_once_whatever_happens_to_others() {
    const COUNT: usize = 5_000;
    let volume = Volume::new();
    let m = volume.mount();
    for i in 0..COUNT {
        File::create(m.path(format!("entry-{i:05}"))).unwrap();
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut churn = 0;
    for entry in fs::read_dir(m.dir()).unwrap() {
        *seen.entry(entry.unwrap().file_name().into_string().unwrap()).or_default() += 1;
        if seen.len().is_multiple_of(50) {
            // Others come, go and move while the listing goes on.
            churn += 1;
            fs::write(m.path(format!("new-{churn}")), b"").unwrap();
            fs::rename(m.path(format!("new-{churn}")), m.path(format!("moved-{churn}"))).unwrap();
            if churn % 2 == 0 {
                fs::remove_file(m.path(format!("moved-{churn}"))).unwrap();
            }
        }
    }
    assert_eq!(seen.keys().filter(|name| name.starts_with("entry-")).count(), COUNT);
    assert!(seen.values().all(|times| *times == 1), "{:?}", seen.iter().find(|(_, times)| **times > 1));
    // Removing everything while it is listed.
    fs::remove_dir_all(m.dir()).unwrap_err();
    assert_eq!(names(m.dir()), Vec::<String>::new());
}

#[test]
fn listings_can_be_resumed_at_any_position() {
    let volume = Volume::new();
    let m = volume.mount();
    for i in 0..300 {
        File::create(m.path(format!("{}-{i}", "long-name".repeat(20)))).unwrap();
    }
    let said = python(
        "import ctypes, sys\n\
         l = ctypes.CDLL(None, use_errno=True)\n\
         l.opendir.restype = ctypes.c_void_p; l.readdir.restype = ctypes.c_void_p; l.telldir.restype = ctypes.c_long\n\
         d = ctypes.c_void_p(l.opendir(sys.argv[1].encode()))\n\
         name = lambda e: ctypes.string_at(e + 19)\n\
         places, order = [], []\n\
         while True:\n\
         \tplaces.append(l.telldir(d)); e = l.readdir(d)\n\
         \tif not e: break\n\
         \torder.append(name(e))\n\
         assert len(order) == 302 == len(set(order)), len(order)\n\
         for i in (301, 7, 150, 2, 1, 0, 299):\n\
         \tl.seekdir(d, ctypes.c_long(places[i])); assert name(l.readdir(d)) == order[i], i\n\
         print('ok')",
        &[m.dir()],
    );
    assert_eq!(said, "ok\n");
}
