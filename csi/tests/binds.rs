//! The node plugin's own mounts and binds. A file of its own: a process that others start holds this one's open files
//! until its exec, and a bind with one open can't be unmounted. Needs root and `/dev/fuse`.

use nokvfs_csi::mounts::Mounts;
use nokvfs_csi::mounts::kubelet_dir::KubeletDir;
use nokvfs_csi::mounts::mountinfo;
use nokvfs_csi::mounts::probe::Prober;
use rustix::mount::MountFlags;

#[test]
fn a_bind_is_read_only_where_asked_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    let (from, to) = (root.join("from"), root.join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("file"), "bytes").unwrap();
    let prober = Prober::new(env!("CARGO_BIN_EXE_nokv-csi").into());
    let mounts = Mounts::new(KubeletDir::new(&root).unwrap(), prober);
    for read_only in [true, false] {
        mounts.bind(&from, &to, MountFlags::NOEXEC, read_only).unwrap();
        let table = mountinfo::read().unwrap();
        assert_eq!(mountinfo::at(&table, &to).unwrap().read_only, read_only);
        assert_eq!(std::fs::read(to.join("file")).unwrap(), b"bytes");
        assert_eq!(std::fs::write(to.join("new"), "x").is_err(), read_only);
        mounts.detach(&to, false).unwrap();
        assert!(!to.join("file").exists(), "the target itself is empty");
        mounts.dir.remove_target(&to).unwrap();
        assert!(!to.exists());
    }
    assert_eq!(std::fs::read(from.join("new")).unwrap(), b"x");
}
