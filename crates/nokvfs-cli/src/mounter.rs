//! `nokv-fs mounter`: serves the mounts that a privileged node plugin hands over.
//!
//! It parses user data and talks to the network, so it runs without privileges: it never opens `/dev/fuse` and never
//! calls mount(2) or umount(2).

mod served;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nokvfs_protocol::mounter::{Connection, Failure, MAX_MOUNTS, MountConfig, MounterListener, Reply, Request};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::signals::Ends;
use crate::volume::parse_bytes;
use served::Served;

/// A node plugin that does not send its request within this time is dropped.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the accepting thread looks whether it shall end.
const ACCEPT: Duration = Duration::from_millis(250);
/// Memory that the process needs besides its mounts.
const BASE_MEMORY: u64 = 128 << 20;
/// Memory of one mount: 96 MiB of staged writes, 128 MiB of read-ahead, buffers of requests in flight.
pub const MOUNT_MEMORY: u64 = 320 << 20;

/// `mounter`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unix socket to listen on
    #[arg(long, env = "NOKV_SOCKET", value_name = "PATH")]
    socket: PathBuf,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "NOKV_HTTP", default_value = "127.0.0.1:7442", value_name = "ADDR")]
    http: String,
    /// Memory of the whole process; bounds the number of mounts
    #[arg(long, env = "NOKV_MEMORY_LIMIT", value_parser = parse_bytes, default_value = "4GiB", value_name = "SIZE")]
    memory_limit: u64,
}

/// All mounts of this process by volume handle. The lock is never held across a request to a server: a mount that is
/// being made or ended is marked in the table instead.
#[derive(Debug)]
struct Mounter {
    mounts: Mutex<BTreeMap<String, State>>,
    room: usize,
}

#[derive(Debug)]
enum State {
    /// A request for the handle is running.
    Busy,
    /// Served.
    Served(Arc<Served>),
}

/// Serves until a signal comes, then writes everything out. The kernel's mounts stay: their owner detaches them.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let listener =
        MounterListener::bind(&args.socket).with_context(|| format!("--socket {}", args.socket.display()))?;
    let room = args.memory_limit.saturating_sub(BASE_MEMORY) / MOUNT_MEMORY;
    let room = usize::try_from(room)?.min(MAX_MOUNTS);
    anyhow::ensure!(
        room > 0,
        "--memory-limit {}: one mount needs {} bytes",
        args.memory_limit,
        BASE_MEMORY + MOUNT_MEMORY
    );
    let mounter = Arc::new(Mounter { mounts: Mutex::new(BTreeMap::new()), room });
    let http = tokio::net::TcpListener::bind(&args.http).await.with_context(|| format!("--http {}", args.http))?;
    let health = tokio::spawn(served::health(http, mounter.clone()));
    let reaping = tokio::spawn(served::reap(mounter.clone()));
    let stop = CancellationToken::new();
    let accepting = {
        let (mounter, handle, stop) = (mounter.clone(), Handle::current(), stop.clone());
        tokio::task::spawn_blocking(move || accept(&listener, &mounter, &handle, &stop))
    };
    println!("ready {}", args.socket.display());
    std::io::stdout().flush()?;
    tracing::info!(socket = %args.socket.display(), room, "the mounter serves");
    let signal = ends.wait().await;
    tracing::info!(signal, "writing everything out");
    stop.cancel();
    accepting.await?;
    health.abort();
    reaping.abort();
    mounter.flush_all().await
}

/// Takes connections, each on a blocking thread of the runtime, so that a slow one holds up no other.
fn accept(listener: &MounterListener, mounter: &Arc<Mounter>, handle: &Handle, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match listener.accept(Instant::now() + ACCEPT) {
            Ok(None) => {}
            Ok(Some(connection)) => {
                let mounter = mounter.clone();
                let runtime = handle.clone();
                handle.spawn_blocking(move || answer(connection, &mounter, &runtime));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of the node plugin failed");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn answer(mut connection: Connection, mounter: &Arc<Mounter>, runtime: &Handle) {
    let (request, fd) = match connection.recv_with_fd(Instant::now() + REQUEST_TIMEOUT) {
        Ok(received) => received,
        Err(error) => return tracing::warn!(%error, "a request of the node plugin can't be read"),
    };
    let reply = runtime.block_on(mounter.carry_out(request, fd));
    if let Reply::Failed { kind, reason } = &reply {
        tracing::warn!(?kind, reason, "refused");
    }
    if let Err(error) = connection.reply(&reply, Instant::now() + REQUEST_TIMEOUT) {
        tracing::warn!(%error, "the node plugin did not take its answer");
    }
}

impl Mounter {
    async fn carry_out(&self, request: Request, fd: Option<OwnedFd>) -> Reply {
        match (request, fd) {
            (Request::Mount { volume_handle, config }, Some(fd)) => self.mount(volume_handle, *config, fd).await,
            (Request::Mount { .. }, None) => failed(Failure::Invalid, "no /dev/fuse descriptor came with the request"),
            (Request::Unmount { volume_handle }, _) => self.unmount(&volume_handle).await,
            (Request::List, _) => self.list().await,
            (Request::Ping, _) => {
                let used = self.mounts.lock().await.len();
                let room = u32::try_from(self.room.saturating_sub(used)).unwrap_or(u32::MAX);
                Reply::Pong { version: env!("CARGO_PKG_VERSION").into(), room }
            }
        }
    }

    async fn mount(&self, handle: String, config: MountConfig, fd: OwnedFd) -> Reply {
        let replaced = {
            let mut mounts = self.mounts.lock().await;
            match mounts.get(&handle) {
                Some(State::Busy) => return failed(Failure::Busy, "a request for this volume is running; try again"),
                Some(State::Served(served)) if served.connected() => {
                    return failed(Failure::Busy, "the volume is served already");
                }
                None if mounts.len() >= self.room => {
                    let text = format!("{} mounts are all that the memory limit allows; raise it", self.room);
                    return failed(Failure::Exhausted, &text);
                }
                _ => mounts.insert(handle.clone(), State::Busy),
            }
        };
        if let Some(State::Served(old)) = replaced {
            // Its kernel mount is gone; what it holds must be durable before another session reads the volume.
            if let Err(error) = old.end().await {
                self.mounts.lock().await.insert(handle, State::Served(old));
                let text = format!("the last writes of the mount before are not stored yet, try again: {error:#}");
                return failed(Failure::Unavailable, &text);
            }
        }
        let made = Served::start(config, fd).await;
        let mut mounts = self.mounts.lock().await;
        match made {
            Ok(served) => {
                mounts.insert(handle, State::Served(Arc::new(served)));
                Reply::Mounted
            }
            Err((kind, error)) => {
                mounts.remove(&handle);
                failed(kind, &format!("{error:#}"))
            }
        }
    }

    async fn unmount(&self, handle: &str) -> Reply {
        let served = match self.mounts.lock().await.get(handle) {
            None => return Reply::Flushed,
            Some(State::Busy) => return failed(Failure::Busy, "a request for this volume is running; try again"),
            Some(State::Served(served)) => served.clone(),
        };
        match served.flush().await {
            Ok(()) => Reply::Flushed,
            Err(error) => failed(Failure::Unavailable, &format!("not everything could be stored: {error:#}")),
        }
    }

    async fn list(&self) -> Reply {
        let mounts = self.mounts.lock().await;
        let states = mounts.iter().filter_map(|(handle, state)| match state {
            State::Served(served) => Some(served.state(handle)),
            State::Busy => None,
        });
        Reply::Mounts { mounts: states.collect() }
    }

    /// Forgets mounts whose kernel side has ended, after their last writes are stored.
    async fn reap(&self) {
        let ended: Vec<(String, Arc<Served>)> = {
            let mounts = self.mounts.lock().await;
            let served = mounts.iter().filter_map(|(handle, state)| match state {
                State::Served(served) if !served.connected() => Some((handle.clone(), served.clone())),
                _ => None,
            });
            served.collect()
        };
        for (handle, served) in ended {
            match served.end().await {
                Ok(()) => {
                    let mut mounts = self.mounts.lock().await;
                    let same = matches!(mounts.get(&handle), Some(State::Served(now)) if Arc::ptr_eq(now, &served));
                    if same {
                        mounts.remove(&handle);
                        tracing::info!(handle, "unmounted");
                    }
                }
                Err(error) => {
                    tracing::error!(handle, error = %format!("{error:#}"), "its last writes are not stored yet; trying again")
                }
            }
        }
    }

    async fn flush_all(&self) -> anyhow::Result<()> {
        let all: Vec<Arc<Served>> = {
            let mounts = self.mounts.lock().await;
            let served = mounts.values().filter_map(|state| match state {
                State::Served(served) => Some(served.clone()),
                State::Busy => None,
            });
            served.collect()
        };
        let results = futures::future::join_all(all.iter().map(|served| served.end())).await;
        results.into_iter().collect::<anyhow::Result<Vec<()>>>().map(drop)
    }
}

fn failed(kind: Failure, reason: &str) -> Reply {
    Reply::Failed { kind, reason: reason.into() }
}
