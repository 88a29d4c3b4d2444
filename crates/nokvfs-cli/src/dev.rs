//! `nokv-fs dev`: metadata, trial store and mount in one process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use nokvfs_body::Bodies;
use nokvfs_devstore::{DevStore, DevStoreOptions};
use nokvfs_meta::service::{MetadataService, VolumeService};
use nokvfs_meta::{Engine, EngineOptions, LocalService};
use nokvfs_object::{ObjectStore, S3Options, S3Store};
use nokvfs_types::{SessionRequest, VolumeSpec};
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connection::{client_name, read_small};
use crate::mount::{FLUSH, MountArgs, detach_if_dead, unmount};
use crate::signals::Ends;

/// The one volume of a `dev` filesystem.
const VOLUME: &str = "dev";
/// The trial store's bucket.
const BUCKET: &str = "nokv";

/// `dev`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to mount at; made if it is missing
    dir: PathBuf,
    /// Folder of metadata and objects; the default is in the user's data folder
    #[arg(long, env = "NOKV_DATA", value_name = "DATA")]
    data: Option<PathBuf>,
    /// An S3 store to use instead of the one in this process
    #[arg(long, env = "NOKV_S3_ENDPOINT", value_name = "URL", requires_all = ["s3_bucket", "s3_access_key_file", "s3_secret_key_file"])]
    s3_endpoint: Option<String>,
    /// Its bucket
    #[arg(long, env = "NOKV_S3_BUCKET", value_name = "NAME")]
    s3_bucket: Option<String>,
    /// Its region
    #[arg(long, env = "NOKV_S3_REGION", default_value = "us-east-1", value_name = "NAME")]
    s3_region: String,
    /// File that holds its access key
    #[arg(long, env = "NOKV_S3_ACCESS_KEY_FILE", value_name = "FILE")]
    s3_access_key_file: Option<PathBuf>,
    /// File that holds its secret key
    #[arg(long, env = "NOKV_S3_SECRET_KEY_FILE", value_name = "FILE")]
    s3_secret_key_file: Option<PathBuf>,
    #[command(flatten)]
    mount: MountArgs,
}

/// Serves the mount until a signal comes or somebody unmounts it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let data = match &args.data {
        Some(data) => data.clone(),
        None => default_data()?,
    };
    std::fs::create_dir_all(&data).with_context(|| format!("--data {}", data.display()))?;
    let lock = Lock::take(&data)?;
    detach_if_dead(&args.dir)?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("mount directory {}", args.dir.display()))?;

    let stop = CancellationToken::new();
    let (store, trial) = object_store(&args, &data, &stop).await?;
    let options = EngineOptions { clients_elsewhere: false, ..EngineOptions::new(data.join("meta")) };
    let engine = Engine::open(options, store.clone()).await?;
    let spec = VolumeSpec {
        name: VOLUME.into(),
        quota_bytes: 0,
        quota_inodes: 0,
        root_mode: 0o755,
        root_uid: rustix::process::getuid().as_raw(),
        root_gid: rustix::process::getgid().as_raw(),
    };
    let (info, token) = engine.create_volume(spec).await?;
    let request = SessionRequest {
        volume: info.id,
        token,
        client: client_name(),
        read_only: args.mount.read_only,
        snapshot: None,
        resume: None,
    };
    let service: Arc<dyn MetadataService> = LocalService::open(engine.clone(), request).await?;
    let bodies = Bodies::new(service.clone(), store, args.mount.bodies())?;
    let runtime = tokio::runtime::Handle::current();
    let mount = nokvfs_fuse::mount(&args.dir, service.clone(), bodies.clone(), args.mount.mount(), runtime)?;
    println!("ready {}", args.dir.display());
    std::io::stdout().flush()?;

    tokio::select! {
        signal = ends.wait() => {
            tracing::info!(signal, "unmounting");
            unmount(&mount).await?;
        }
        ended = mount.wait() => {
            ended?;
            tracing::info!("somebody unmounted it");
        }
    }
    bodies.shutdown(Instant::now() + FLUSH).await?;
    service.close().await?;
    engine.close().await?;
    stop.cancel();
    if let Some(trial) = trial {
        trial.await??;
    }
    drop(lock);
    Ok(())
}

type Trial = tokio::task::JoinHandle<Result<(), nokvfs_devstore::DevStoreError>>;

/// The S3 store of the flags, or the trial store on a loopback port that only this process knows the keys of.
async fn object_store(
    args: &Args,
    data: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<dyn ObjectStore>, Option<Trial>)> {
    if let (Some(endpoint), Some(bucket), Some(access), Some(secret)) =
        (&args.s3_endpoint, &args.s3_bucket, &args.s3_access_key_file, &args.s3_secret_key_file)
    {
        let options = S3Options {
            endpoint: endpoint.clone(),
            bucket: bucket.clone(),
            region: args.s3_region.clone(),
            access_key: read_small(access)?.trim().to_owned(),
            secret_key: read_small(secret)?.trim().to_owned(),
            ..S3Options::default()
        };
        let store = S3Store::new(options)?;
        store.check().await?;
        return Ok((Arc::new(store), None));
    }
    let (access_key, secret_key) = (random_key()?, random_key()?);
    let options = DevStoreOptions {
        dir: data.join("objects"),
        bucket: BUCKET.into(),
        access_key: access_key.clone(),
        secret_key: secret_key.clone(),
    };
    let trial = tokio::task::spawn_blocking(|| DevStore::open(options)).await??;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("a loopback port for the trial store")?;
    let options = S3Options {
        endpoint: format!("http://{}", listener.local_addr()?),
        bucket: BUCKET.into(),
        access_key,
        secret_key,
        ..S3Options::default()
    };
    let serving = tokio::spawn(trial.serve(listener, stop.clone()));
    Ok((Arc::new(S3Store::new(options)?), Some(serving)))
}

fn random_key() -> anyhow::Result<String> {
    let mut bytes = [0u8; 20];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers from the kernel: {error}"))?;
    Ok(hex::encode(bytes))
}

fn default_data() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    base.map(|base| base.join("nokv")).context("neither XDG_DATA_HOME nor HOME is set; name a folder with --data")
}

/// Holds a data folder for this process; the file in it tells others who has it.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(data: &Path) -> anyhow::Result<Self> {
        let path = data.join("dev.lock");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            bail!("{} is in use by pid {}; end that one first or choose another --data", data.display(), pid.trim());
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock { _file: file })
    }
}
