//! The process that is ended: server, client and bodies in one, on a disk and a store that outlive it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nokvfs_body::{Bodies, BodyOptions, OpenFile};
use nokvfs_client::{RemoteOptions, RemoteService};
use nokvfs_meta::service::{MetadataService, RequestContext, VolumeService};
use nokvfs_meta::{Engine, EngineOptions};
use nokvfs_object::ObjectStore;
use nokvfs_server::{Limits, Listen, ServeOptions, Server};
use nokvfs_types::{
    Ack, Applied, Attr, BLOCK_SIZE, Caller, InodeId, MetaError, Mutation, Name, NewNode, OpId, RenameMode,
    SessionRequest, SetAttr, SliceId, Token, UploadId, VolumeInfo, VolumeSpec, XattrMode,
};

use crate::script::{GAP, PIECE, Step, pattern, steps};

/// Nothing takes nearly so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A session that lives is not late by so much, however loaded the machine is.
const EXPIRY: Duration = Duration::from_secs(3);

/// Sessions end after `expiry` of silence.
pub fn engine_options(dir: &Path, expiry: Duration) -> EngineOptions {
    let mut options = EngineOptions::new(dir.join("meta"));
    options.store.low_water = 0;
    options.store.memory_limit = 64 << 20;
    options.store.wal_limit = 12 << 10;
    options.session_expiry = expiry;
    options.restart_grace = expiry;
    options.garbage_delay = Duration::ZERO;
    options.interval = Duration::from_millis(20);
    options
}

pub fn context() -> RequestContext {
    static OP: AtomicU64 = AtomicU64::new(1);
    let caller = Caller { uid: 0, gid: 0, groups: Arc::from([]) };
    RequestContext { caller, op: OpId(OP.fetch_add(1, Ordering::Relaxed)), deadline: Instant::now() + PATIENCE }
}

pub fn spec(name: &str) -> VolumeSpec {
    VolumeSpec { name: name.into(), quota_bytes: 0, quota_inodes: 0, root_mode: 0o755, root_uid: 0, root_gid: 0 }
}

pub fn request(volume: &(VolumeInfo, Token)) -> SessionRequest {
    SessionRequest {
        volume: volume.0.id,
        token: volume.1,
        client: "test".into(),
        read_only: false,
        snapshot: None,
        resume: None,
    }
}

/// A session and what it writes.
struct Client {
    service: Arc<RemoteService>,
    bodies: Arc<Bodies>,
}

pub struct Child {
    dir: PathBuf,
    objects: Arc<dyn ObjectStore>,
    engine: Arc<Engine>,
    server: Option<Server>,
    volume: Option<(VolumeInfo, Token)>,
    client: Option<Client>,
}

impl Child {
    pub async fn start(dir: &Path, objects: Arc<dyn ObjectStore>) -> Child {
        let (engine, server) = serve(dir, &objects).await;
        Child { dir: dir.to_owned(), objects, engine, server: Some(server), volume: None, client: None }
    }

    /// All steps; each is told on standard output once it returned.
    pub async fn run(mut self) {
        for (number, step) in steps().into_iter().enumerate() {
            self.step(&step).await;
            let mut out = std::io::stdout().lock();
            writeln!(out, "\ndone {}", number + 1).and_then(|()| out.flush()).expect("written");
        }
    }

    async fn open(&self, volume: &(VolumeInfo, Token), resume: Option<&RemoteService>) -> Client {
        let endpoint = format!("unix:{}", self.dir.join("socket").display()).parse().expect("an endpoint");
        let resume = resume.map(|service| (service.grant().session, service.grant().generation));
        let options = RemoteOptions { open_timeout: PATIENCE };
        let request = SessionRequest { resume, ..request(volume) };
        let service = RemoteService::open(endpoint, None, request, options).await.expect("a session");
        let meta = Arc::clone(&service) as Arc<dyn MetadataService>;
        let bodies = Bodies::new(meta, Arc::clone(&self.objects), BodyOptions::default()).expect("bodies");
        Client { service, bodies }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("a session")
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Begin => {
                self.volume = Some(self.engine.create_volume(spec("v")).await.expect("a volume"));
                self.client = Some(self.open(self.volume.as_ref().expect("one"), None).await);
            }
            Step::TakeOver => {
                let before = self.client.take().expect("a session");
                self.client = Some(self.open(self.volume.as_ref().expect("one"), Some(&before.service)).await);
            }
            Step::Restart => {
                self.server.take().expect("one").shutdown(PATIENCE).await.expect("ended");
                let (engine, server) = serve(&self.dir, &self.objects).await;
                (self.engine, self.server) = (engine, Some(server));
            }
            Step::DiskTrouble => self.disk_trouble().await,
            Step::Silence => self.silence().await,
            Step::Volume => self.another_volume().await,
            Step::Quiet => self.quiet().await,
            Step::End => {
                let client = self.client.take().expect("a session");
                client.service.close().await.expect("closed");
                self.server.take().expect("one").shutdown(PATIENCE).await.expect("ended");
            }
            Step::Pack(paths, seed) => {
                let client = self.open(self.volume.as_ref().expect("one"), None).await;
                let writes = paths.iter().map(|path| client.write(path, vec![(0, pattern(2000, *seed))]));
                futures::future::join_all(writes).await;
                client.service.close().await.expect("closed");
            }
            step => self.client().apply(step).await,
        }
    }

    /// Writes of files fail for a moment: the store is opened again.
    async fn disk_trouble(&self) {
        // A sweep that fails is tried again half a minute later.
        self.quiet().await;
        // SAFETY: a signal's disposition; this process runs nothing else.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let limit = |soft: libc::rlim_t| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: the limit is alive during the call.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        };
        limit(1);
        let change = self.client().set_mode("d/s");
        let heal = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            limit(libc::RLIM_INFINITY);
        };
        futures::join!(change, heal);
    }

    async fn silence(&self) {
        let client = self.open(self.volume.as_ref().expect("one"), None).await;
        let reserve = Mutation::ReserveUploads { count: 4, settled: UploadId(0) };
        let Applied::Uploads { first, .. } = client.service.mutate(&context(), reserve).await.expect("granted") else {
            panic!("no uploads");
        };
        let slice = SliceId { upload: first, inode: InodeId::ROOT, chunk: 0 };
        let key = slice.object_key(client.service.volume().id, 0);
        self.objects.put(&key, Bytes::from_static(b"nobody's")).await.expect("put");
    }

    async fn another_volume(&self) {
        let volume = self.engine.create_volume(spec("w")).await.expect("a volume");
        let client = self.open(&volume, None).await;
        client.apply(&Step::Create("x")).await;
        client.apply(&Step::Write("x", 5000, 7)).await;
        client.service.close().await.expect("closed");
        drop(client);
        self.engine.delete_volume(volume.0.id).await.expect("deleted");
        let end = Instant::now() + PATIENCE;
        while self.engine.volume(volume.0.id).await.is_ok() {
            assert!(Instant::now() < end, "the volume does not go");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn quiet(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let figures = self.engine.figures();
            if (figures.sessions, figures.orphans, figures.garbage, figures.unswept) == (1, 0, 0, 0) {
                return;
            }
            assert!(Instant::now() < end, "{figures:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub async fn serve(dir: &Path, objects: &Arc<dyn ObjectStore>) -> (Arc<Engine>, Server) {
    let engine = Engine::open(engine_options(dir, EXPIRY), Arc::clone(objects)).await.expect("opened");
    let listen = vec![Listen::Unix(dir.join("socket"))];
    let options = ServeOptions { listen, http: None, tls: None, limits: Limits::default() };
    let server = Server::start_with(Arc::clone(&engine) as _, Arc::clone(objects), options).await.expect("started");
    (engine, server)
}

impl Client {
    async fn find(&self, path: &str) -> Attr {
        let mut at = InodeId::ROOT;
        let mut attr = None;
        for name in path.split('/') {
            let found = self.service.lookup(&context(), at, &text(name)).await.expect("found");
            at = found.inode;
            attr = Some(found);
        }
        attr.expect("a name")
    }

    async fn place(&self, path: &str) -> (InodeId, Name) {
        match path.rsplit_once('/') {
            Some((dir, name)) => (self.find(dir).await.inode, text(name)),
            None => (InodeId::ROOT, text(path)),
        }
    }

    async fn mutate(&self, mutation: Mutation) -> Applied {
        self.service.mutate(&context(), mutation).await.expect("applied")
    }

    async fn make(&self, path: &str, node: NewNode, ack: Ack) {
        let (parent, name) = self.place(path).await;
        self.mutate(Mutation::Create { parent, name, node, mode: 0o755, open_existing: false, ack }).await;
    }

    async fn opened(&self, path: &str) -> Arc<OpenFile> {
        self.bodies.open(&context(), self.find(path).await.inode).await.expect("opened")
    }

    async fn write(&self, path: &str, pieces: Vec<(usize, Vec<u8>)>) {
        let file = self.opened(path).await;
        for (at, bytes) in pieces {
            file.write(&context(), at as u64, bytes.into()).await.expect("written");
        }
        file.sync(&context()).await.expect("synced");
    }

    /// Also where a checkpoint fails just now, and nothing is written until one succeeds.
    async fn set_mode(&self, path: &str) {
        let inode = self.find(path).await.inode;
        let end = Instant::now() + PATIENCE;
        loop {
            let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
            match self.service.mutate(&context(), Mutation::SetAttr { inode, set }).await {
                Err(MetaError::NoSpace(_)) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                applied => break drop(applied.expect("applied")),
            }
        }
    }

    async fn apply(&self, step: &Step) {
        match step {
            Step::Mkdir(path) => self.make(path, NewNode::Directory, Ack::Durable).await,
            Step::Create(path) => self.make(path, NewNode::File, Ack::Early).await,
            Step::Symlink(path) => self.make(path, NewNode::Symlink("target".into()), Ack::Durable).await,
            Step::Write(path, len, seed) => self.write(path, vec![(0, pattern(*len, *seed))]).await,
            Step::Scatter(path, count) => {
                self.write(path, (0..*count).map(|at| (at * GAP, pattern(PIECE, at as u8))).collect()).await;
            }
            Step::Truncate(path, len) => {
                let file = self.opened(path).await;
                file.truncate(&context(), *len as u64).await.expect("cut");
            }
            Step::GiveUp(path) => {
                let file = self.opened(path).await;
                file.write(&context(), 0, vec![5; BLOCK_SIZE as usize].into()).await.expect("written");
                // Its upload began.
                tokio::time::sleep(Duration::from_millis(100)).await;
                file.discard();
            }
            Step::Rename(from, to) => {
                let ((parent, name), (new_parent, new_name)) = (self.place(from).await, self.place(to).await);
                self.mutate(Mutation::Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace }).await;
            }
            Step::Link(from, to) => {
                let inode = self.find(from).await.inode;
                let (parent, name) = self.place(to).await;
                self.mutate(Mutation::Link { inode, parent, name }).await;
            }
            Step::Unlink(path) => {
                let (parent, name) = self.place(path).await;
                self.mutate(Mutation::Unlink { parent, name }).await;
            }
            Step::Rmdir(path) => {
                let (parent, name) = self.place(path).await;
                self.mutate(Mutation::Rmdir { parent, name }).await;
            }
            Step::Xattr(path) => {
                let inode = self.find(path).await.inode;
                let (name, value) = ("user.x".into(), "value".into());
                self.mutate(Mutation::SetXattr { inode, name, value, mode: XattrMode::Set }).await;
            }
            other => panic!("{other:?} is no client's"),
        }
    }
}

fn text(name: &str) -> Name {
    Name::try_from(name).expect("a name")
}
