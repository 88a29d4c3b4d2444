use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nokvfs_api::VolumeHandle;
use rustix::mount::MountFlags;
use tonic::Code;

use crate::capability::Access;
use crate::in_flight::InFlight;
use crate::mount_config::mount_config;
use crate::mounts::kubelet_dir::KubeletDir;
use crate::mounts::mountinfo;
use crate::parameters::{Parameters, Size};
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::proto::csi::{CapacityRange, VolumeCapability};
use crate::volume_id::{parse_handle, server_name};

const VOLUME: &str = "0b66c5d4-5f0c-4d0a-9c8f-1f6c3b1a2d3e";

fn strings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn handles_that_could_lead_elsewhere_are_refused() {
    let good = format!("ns.m.{VOLUME}");
    assert_eq!(parse_handle(&good, Code::NotFound).unwrap().to_string(), good);
    let evil = [
        format!("../etc.m.{VOLUME}"),
        format!("ns.m,suid.{VOLUME}"),
        format!("ns.m.{}", VOLUME.to_uppercase()),
        format!("ns.m x.{VOLUME}"),
        format!("ns.m.{VOLUME}.x"),
        format!("ns.m.{VOLUME}\n"),
        "ns.m.not-a-uuid".to_owned(),
        "x".repeat(10_000),
    ];
    for text in evil {
        assert_eq!(parse_handle(&text, Code::NotFound).unwrap_err().code(), Code::NotFound, "{text}");
    }
    assert_eq!(parse_handle("", Code::NotFound).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn names_on_the_server_are_valid_and_distinct() {
    assert_eq!(server_name("pvc-123"), "pvc-123");
    let odd = server_name("Sanity_Name");
    assert!(odd.len() <= 253 && odd != server_name("sanity_name"), "{odd}");
    // Nobody can name a volume so that it is taken for another one's digest.
    assert_ne!(server_name(&odd), odd);
}

#[test]
fn unknown_parameters_are_named() {
    let known = strings(&[
        ("metadataServer", "m"),
        ("metadataServerNamespace", "ns"),
        ("quotaInodes", "1000"),
        ("csi.storage.k8s.io/pvc/name", "claim"),
    ]);
    let parsed = Parameters::parse(&known).unwrap();
    assert_eq!(
        (parsed.server.as_deref(), parsed.namespace.as_deref(), parsed.quota_inodes),
        (Some("m"), Some("ns"), 1000)
    );
    let error = Parameters::parse(&strings(&[("metadataserver", "m"), ("quotaInode", "1")])).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("metadataserver, quotaInode"), "{}", error.message());
    for bad in ["0", "-1", "many", ""] {
        assert!(Parameters::parse(&strings(&[("quotaInodes", bad)])).is_err(), "{bad}");
    }
}

#[test]
fn sizes_become_quotas_and_are_compared() {
    let size = |required_bytes, limit_bytes| Size::parse(Some(&CapacityRange { required_bytes, limit_bytes }));
    assert_eq!(Size::parse(None).unwrap().quota(), 0);
    assert_eq!(size(10, 0).unwrap().quota(), 10);
    assert_eq!(size(0, 20).unwrap().quota(), 20);
    assert_eq!(size(10, 20).unwrap().quota(), 10);
    assert_eq!(size(20, 10).unwrap_err().code(), Code::InvalidArgument);
    assert!(size(-1, 0).is_err());
    let range = size(10, 20).unwrap();
    assert_eq!([9, 10, 20, 21, 0].map(|quota| range.admits(quota)), [false, true, true, false, false]);
    assert!(size(10, 0).unwrap().admits(0) && Size::default().admits(5));
}

fn capability(mode: Mode, flags: &[&str]) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: String::new(),
            mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            volume_mount_group: String::new(),
        })),
    }
}

#[test]
fn access_modes_and_mount_options_are_checked() {
    for mode in 1..=7 {
        let mode = Mode::try_from(mode).unwrap();
        let access = Access::check(Some(&capability(mode, &[]))).unwrap();
        assert_eq!(access.read_only, matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly));
        assert_eq!(access.single_writer, mode == Mode::SingleNodeSingleWriter);
    }
    let access = Access::check(Some(&capability(Mode::MultiNodeMultiWriter, &["ro,noexec", "noatime"]))).unwrap();
    assert!(access.read_only);
    assert_eq!(access.flags, MountFlags::NOEXEC | MountFlags::NOATIME);
    for option in ["suid", "dev", "fd=3", "allow_other", "lowerdir=/etc", "bind"] {
        let error = Access::check(Some(&capability(Mode::SingleNodeWriter, &[option]))).unwrap_err();
        assert!(error.code() == Code::InvalidArgument && error.message().contains(option), "{option}");
    }
    let mut block = capability(Mode::SingleNodeWriter, &[]);
    block.access_type = Some(AccessType::Block(BlockVolume {}));
    assert_eq!(Access::check(Some(&block)).unwrap_err().code(), Code::InvalidArgument);
    assert!(Access::check(None).is_err() && Access::check(Some(&capability(Mode::Unknown, &[]))).is_err());
}

#[test]
fn one_operation_per_volume_and_target() {
    let in_flight = InFlight::default();
    let first = in_flight.target("v", "/a").unwrap();
    let second = in_flight.target("v", "/b").unwrap();
    assert_eq!(in_flight.target("v", "/a").unwrap_err().code(), Code::Aborted);
    assert_eq!(in_flight.volume("v").unwrap_err().code(), Code::Aborted);
    drop(first);
    assert!(in_flight.volume("v").is_err() && in_flight.volume("other").is_ok());
    drop(second);
    let whole = in_flight.volume("v").unwrap();
    assert_eq!(in_flight.target("v", "/a").unwrap_err().code(), Code::Aborted);
    drop(whole);
    assert!(in_flight.target("v", "/a").is_ok());
}

#[test]
fn mount_tables_are_read() {
    let table = b"29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
        40 29 0:52 / /var/lib/a\\040b ro,nosuid,nodev - fuse.nokv nokv:ns.m.v rw,user_id=0,group_id=0\n\
        41 29 0:53 / /var/lib/a\\040b rw,nosuid shared:2 master:3 - fuse.nokv nokv:ns.m.w ro,user_id=0\n\
        nonsense\n";
    let mounts = mountinfo::parse(table);
    assert_eq!(mounts.len(), 3);
    assert_eq!(mounts[1].point, PathBuf::from("/var/lib/a b"));
    assert_eq!((mounts[1].device.as_str(), mounts[1].read_only, mounts[1].super_read_only), ("0:52", true, false));
    let top = mountinfo::at(&mounts, Path::new("/var/lib/a b")).unwrap();
    assert_eq!((top.source.as_str(), top.read_only, top.super_read_only), ("nokv:ns.m.w", false, true));
    assert!(mountinfo::read().unwrap().iter().any(|mount| mount.point == Path::new("/proc")));
}

#[test]
fn paths_stay_below_the_kubelets_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = KubeletDir::new(temp.path()).unwrap();
    let real = temp.path().canonicalize().unwrap();
    let below = |tail: &str| format!("{}/{tail}", temp.path().display());
    assert_eq!(dir.resolve(&below("pods/x/mount")).unwrap(), real.join("pods/x/mount"));
    for bad in ["", "relative", "/etc/passwd", &below("../x"), &below("a/../../x"), &below("")] {
        assert_eq!(dir.resolve(bad), None, "{bad}");
    }
    std::os::unix::fs::symlink("/etc", temp.path().join("link")).unwrap();
    assert!(dir.open(&real.join("link")).is_err());
    assert!(dir.make_target(&real.join("link/target")).is_err());
}

#[test]
fn a_target_that_is_not_mounted_can_not_be_written_to() {
    let temp = tempfile::tempdir().unwrap();
    let dir = KubeletDir::new(temp.path()).unwrap();
    let target = temp.path().canonicalize().unwrap().join("target");
    dir.make_target(&target).unwrap();
    dir.make_target(&target).unwrap();
    // Root passes over mode 0; only where the file system has the immutable flag is root kept out too.
    let flags = rustix::fs::ioctl_getflags(std::fs::File::open(&target).unwrap());
    if flags.is_ok_and(|flags| flags.contains(rustix::fs::IFlags::IMMUTABLE)) {
        assert!(std::fs::write(target.join("file"), "x").is_err());
    }
    dir.remove_target(&target).unwrap();
    dir.remove_target(&target).unwrap();
    assert!(!target.exists());
}

#[test]
fn the_mounters_configuration_names_what_is_missing() {
    let handle: VolumeHandle = format!("ns.m.{VOLUME}").parse().unwrap();
    let context = strings(&[
        ("server", "m.ns.svc:7440"),
        ("volume", VOLUME),
        ("s3Endpoint", "http://s3:9000"),
        ("s3Bucket", "b"),
        ("s3Prefix", ""),
        ("s3Region", "us-east-1"),
        ("s3PathStyle", "true"),
        ("csi.storage.k8s.io/pod.name", "trainer"),
    ]);
    let secrets = strings(&[
        ("token", &"ab".repeat(32)),
        ("ca.crt", "ca"),
        ("tls.crt", "cert"),
        ("tls.key", "key"),
        ("accessKey", "a"),
        ("secretKey", "s"),
    ]);
    let config = mount_config(&handle, &context, &secrets, "node-1", true).unwrap();
    assert_eq!(
        (config.server.as_str(), config.client.as_str(), config.read_only),
        ("m.ns.svc:7440", "node-1/trainer", true)
    );
    assert_eq!(config.tls.unwrap().key.reveal(), "key");
    for key in ["token", "tls.crt", "tls.key", "accessKey", "secretKey"] {
        let mut fewer = secrets.clone();
        fewer.remove(key);
        let error = mount_config(&handle, &context, &fewer, "n", false).unwrap_err();
        assert!(error.code() == Code::FailedPrecondition && error.message().contains(key), "{key}");
    }
    let mut other = context.clone();
    other.insert("volume".into(), "00000000-0000-4000-8000-000000000000".into());
    assert_eq!(mount_config(&handle, &other, &secrets, "n", false).unwrap_err().code(), Code::InvalidArgument);
}
