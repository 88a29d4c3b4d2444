//! The driver on real mounts: csi-sanity, and what it does not ask. Needs root, `/dev/fuse`, all binaries of the
//! workspace and csi-sanity (`make sanity` builds them).

mod stack;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nokvfs_csi::mounts::kubelet_dir::KubeletDir;
use nokvfs_csi::mounts::probe::Prober;
use nokvfs_csi::mounts::{Mounts, State};
use nokvfs_csi::proto::csi::controller_client::ControllerClient;
use nokvfs_csi::proto::csi::node_client::NodeClient;
use nokvfs_csi::proto::csi::volume_capability::access_mode::Mode;
use nokvfs_csi::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use nokvfs_csi::proto::csi::*;
use stack::Stack;
use tonic::Code;
use tonic::transport::Channel;

/// A lost session expires well within this.
const EXPIRY: Duration = Duration::from_secs(90);

#[test]
fn csi_sanity_passes() {
    let stack = Stack::start();
    let program = tools().join("csi-sanity");
    assert!(program.exists(), "{} is missing: make tools", program.display());
    let socket = |name: &str| format!("unix://{}", stack.path(name).display());
    let status = Command::new(program)
        .arg(format!("--csi.endpoint={}", socket("node.sock")))
        .arg(format!("--csi.controllerendpoint={}", socket("controller.sock")))
        .arg(format!("--csi.mountdir={}", stack.path("kubelet/pods").display()))
        .arg(format!("--csi.stagingdir={}", stack.path("kubelet/staging").display()))
        .args(["--ginkgo.no-color", "--ginkgo.timeout=10m"])
        .status()
        .unwrap();
    assert!(status.success(), "csi-sanity: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_hangs_is_told_from_one_that_is_dead() {
    let temp = tempfile::tempdir().unwrap();
    let stage = temp.path().canonicalize().unwrap().join("stage");
    std::fs::create_dir(&stage).unwrap();
    let prober = Prober::new(env!("CARGO_BIN_EXE_nokv-csi").into());
    let mounts = Mounts::new(KubeletDir::new(temp.path()).unwrap(), prober);
    let handle = "ns.m.0b66c5d4-5f0c-4d0a-9c8f-1f6c3b1a2d3e";
    assert_eq!(mounts.state(&stage, handle).await.unwrap(), State::Absent);
    // Nobody answers on the descriptor: the probe's child is stuck, this process is not.
    let fuse = mounts.attach(&stage, handle, true).unwrap();
    assert_eq!(mounts.state(&stage, handle).await.unwrap(), State::Hung);
    assert!(mounts.of(handle).unwrap()[0].super_read_only);
    let of_another = mounts.state(&stage, "ns.m.another").await.unwrap();
    assert!(matches!(of_another, State::Foreign(_)), "{of_another:?}");
    drop(fuse);
    assert_eq!(mounts.state(&stage, handle).await.unwrap(), State::Dead);
    mounts.detach(&stage, true).unwrap();
    assert_eq!(mounts.state(&stage, handle).await.unwrap(), State::Absent);
}

fn tools() -> PathBuf {
    match std::env::var_os("NOKV_CACHE") {
        Some(cache) => Path::new(&cache).join("bin"),
        None => Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/nokv/bin"),
    }
}

/// A volume and this test's calls of the driver.
struct Volume {
    node: NodeClient<Channel>,
    controller: ControllerClient<Channel>,
    id: String,
    context: HashMap<String, String>,
    stage: String,
}

impl Volume {
    async fn create(stack: &Stack, name: &str) -> Volume {
        let mut controller = ControllerClient::new(stack.channel("controller.sock").await);
        let node = NodeClient::new(stack.channel("node.sock").await);
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            volume_capabilities: vec![capability()],
            capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
            ..Default::default()
        };
        let volume = controller.create_volume(request).await.unwrap().into_inner().volume.unwrap();
        let stage = stack.path("kubelet/stage");
        std::fs::create_dir_all(&stage).unwrap();
        let stage = stage.display().to_string();
        Volume { node, controller, id: volume.volume_id, context: volume.volume_context, stage }
    }

    async fn stage(&mut self) {
        let request = NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.stage.clone(),
            volume_capability: Some(capability()),
            volume_context: self.context.clone(),
            ..Default::default()
        };
        self.node.node_stage_volume(request).await.unwrap();
    }

    async fn unstage(&mut self) {
        let request = NodeUnstageVolumeRequest { volume_id: self.id.clone(), staging_target_path: self.stage.clone() };
        self.node.node_unstage_volume(request).await.unwrap();
    }

    async fn publish(&mut self, target: &Path, readonly: bool) -> Result<(), tonic::Status> {
        let request = NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.stage.clone(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability()),
            readonly,
            volume_context: self.context.clone(),
            ..Default::default()
        };
        self.node.node_publish_volume(request).await.map(drop)
    }

    async fn unpublish(&mut self, target: &Path) {
        let request =
            NodeUnpublishVolumeRequest { volume_id: self.id.clone(), target_path: target.display().to_string() };
        self.node.node_unpublish_volume(request).await.unwrap();
    }

    async fn health(&mut self) -> Vec<String> {
        let request = NodeGetVolumeHealthRequest { volume_id: self.id.clone(), ..Default::default() };
        let health = self.node.node_get_volume_health(request).await.unwrap().into_inner().volume_health.unwrap();
        health.health_statuses.into_iter().map(|entry| entry.reason).collect()
    }

    /// Ends the volume. With a `patience` the deletion may be refused so long: a killed mounter's session holds the
    /// volume until it expires, and the provisioner tries again just so.
    async fn end(mut self, targets: &[&Path], patience: Duration) {
        for target in targets {
            self.unpublish(target).await;
            assert!(!target.exists());
        }
        self.unstage().await;
        let deadline = Instant::now() + patience;
        loop {
            let request = DeleteVolumeRequest { volume_id: self.id.clone(), ..Default::default() };
            match self.controller.delete_volume(request).await {
                Ok(_) => return,
                Err(error) => {
                    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
                    assert!(Instant::now() < deadline, "{error}");
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_targets_refuse_writes_and_others_share_the_volume() {
    let stack = Stack::start();
    let mut volume = Volume::create(&stack, "shared").await;
    let (writer, reader) = (stack.path("kubelet/writer"), stack.path("kubelet/reader"));
    let error = volume.publish(&writer, false).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(!writer.exists(), "a refused publish leaves no directory that a pod could write to");
    volume.stage().await;
    volume.publish(&writer, false).await.unwrap();
    volume.publish(&reader, true).await.unwrap();
    assert_eq!(volume.publish(&reader, false).await.unwrap_err().code(), Code::AlreadyExists);
    std::fs::write(writer.join("file"), "bytes").unwrap();
    assert_eq!(std::fs::read(reader.join("file")).unwrap(), b"bytes");
    let refused = std::fs::write(reader.join("other"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    volume.unpublish(&writer).await;
    volume.unpublish(&reader).await;
    volume.unstage().await;
    // Everything was durable before the mount went: a new one shows it.
    volume.stage().await;
    volume.publish(&writer, false).await.unwrap();
    assert_eq!(std::fs::read(writer.join("file")).unwrap(), b"bytes");
    volume.end(&[&writer], Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_mounter_and_a_killed_plugin_are_survived() {
    let mut stack = Stack::start();
    let mut volume = Volume::create(&stack, "survivor").await;
    let (old, new) = (stack.path("kubelet/old"), stack.path("kubelet/new"));
    volume.stage().await;
    volume.publish(&old, false).await.unwrap();
    std::fs::write(old.join("file"), "bytes").unwrap();
    assert_eq!(volume.health().await, [] as [&str; 0]);

    // The plugin keeps nothing: a new one finds the mounts.
    stack.kill("node");
    assert_eq!(std::fs::read(old.join("file")).unwrap(), b"bytes");
    stack.start_node();
    volume.node = NodeClient::new(stack.channel("node.sock").await);
    volume.stage().await;
    volume.publish(&old, false).await.unwrap();
    assert_eq!(std::fs::read(old.join("file")).unwrap(), b"bytes");

    // The mounter's death ends its mounts; stage and targets are made again.
    stack.kill("mounter");
    let dead = std::fs::read(old.join("file")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    stack.start_mounter();
    assert_eq!(volume.health().await, ["DaemonLost"]);
    volume.publish(&new, false).await.unwrap();
    assert_eq!(std::fs::read(new.join("file")).unwrap(), b"bytes");
    volume.publish(&old, false).await.unwrap();
    assert_eq!(std::fs::read(old.join("file")).unwrap(), b"bytes");
    volume.end(&[&old, &new], EXPIRY).await;
}
