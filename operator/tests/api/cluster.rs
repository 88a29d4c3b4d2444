//! A real kube-apiserver on a real etcd, both of this test alone.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub struct Cluster {
    pub client: Client,
    processes: Vec<Child>,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

fn binary(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("NOKV_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/nokv")))?;
    Some(cache.join("bin").join(name)).filter(|path| path.exists())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(binary: &Path, dir: &Path, args: &[String]) -> Child {
    let log = std::fs::File::create(dir.join(format!("{}.log", binary.file_name().unwrap().display()))).unwrap();
    Command::new(binary).args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Cluster {
    /// `None` if the binaries are not there: `make tools` builds them.
    pub async fn start() -> Option<Cluster> {
        let (etcd, apiserver) = (binary("etcd")?, binary("kube-apiserver")?);
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (client_port, peer_port, port) = (free_port(), free_port(), free_port());
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(dir.path().join("tokens.csv"), "secret,admin,admin,system:masters\n").unwrap();
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let mut processes = vec![spawn(
            &etcd,
            dir.path(),
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync".into(),
            ],
        )];
        processes.push(spawn(
            &apiserver,
            dir.path(),
            &[
                format!("--etcd-servers={etcd_url}"),
                format!("--cert-dir={}", at("pki")),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--service-account-key-file={}", at("sa.pub")),
                format!("--service-account-signing-key-file={}", at("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                "--service-cluster-ip-range=10.97.0.0/16".into(),
                format!("--token-auth-file={}", at("tokens.csv")),
                "--authorization-mode=RBAC".into(),
                "--endpoint-reconciler-type=none".into(),
            ],
        ));
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}}}]\nusers: [{{name: u, user: {{token: secret}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let cluster = Cluster { client, processes, _dir: dir };
        for _ in 0..240 {
            let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client.clone());
            if namespaces.get_opt("default").await.is_ok_and(|found| found.is_some()) {
                return Some(cluster);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let log = std::fs::read_to_string(cluster._dir.path().join("kube-apiserver.log")).unwrap();
        panic!("the apiserver did not come up:\n{}", log.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
    }
}
