//! The metadata engine behind [`Backend`], and a server that opens one.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use nokvfs_meta::service::MetaResult;
use nokvfs_meta::store::StoreOptions;
use nokvfs_meta::{Engine, EngineOptions};
use nokvfs_object::{ObjectStore, S3Options, S3Store};
use nokvfs_protocol::SessionRef;
use nokvfs_types::{Applied, Attr, BodyView, Caller, DirPage, FsStat, InodeId, Mutation, Name, Stamp};

use crate::backend::{Backend, Figures};
use crate::options::ServerOptions;
use crate::server::{ServeOptions, Server};

#[async_trait::async_trait]
impl Backend for Engine {
    async fn lookup(&self, session: SessionRef, parent: InodeId, name: &Name) -> MetaResult<Attr> {
        Engine::lookup(self, session.session, session.generation, parent, name).await
    }

    async fn getattr(&self, session: SessionRef, inode: InodeId) -> MetaResult<Attr> {
        Engine::getattr(self, session.session, session.generation, inode).await
    }

    async fn readdir(
        &self,
        session: SessionRef,
        dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage> {
        Engine::readdir(self, session.session, session.generation, dir, after, limit, attrs).await
    }

    async fn readlink(&self, session: SessionRef, inode: InodeId) -> MetaResult<Bytes> {
        Engine::readlink(self, session.session, session.generation, inode).await
    }

    async fn getxattr(&self, session: SessionRef, inode: InodeId, name: &[u8]) -> MetaResult<Bytes> {
        Engine::getxattr(self, session.session, session.generation, inode, name).await
    }

    async fn listxattr(&self, session: SessionRef, inode: InodeId) -> MetaResult<Vec<Bytes>> {
        Engine::listxattr(self, session.session, session.generation, inode).await
    }

    async fn body(&self, session: SessionRef, inode: InodeId, from: u64) -> MetaResult<BodyView> {
        Engine::body(self, session.session, session.generation, inode, from).await
    }

    async fn statfs(&self, session: SessionRef) -> MetaResult<FsStat> {
        Engine::statfs(self, session.session, session.generation).await
    }

    async fn mutate(&self, stamp: Stamp, caller: Caller, mutation: Mutation) -> MetaResult<Applied> {
        Engine::mutate(self, stamp, caller, mutation).await
    }

    fn health(&self) -> Result<(), String> {
        self.ready()
    }

    fn figures(&self) -> Figures {
        let (figures, health) = (Engine::figures(self), Engine::health(self));
        Figures {
            sessions: figures.sessions,
            batches: health.batches,
            commands: health.commands,
            garbage: figures.garbage,
            orphans: figures.orphans,
            queued: health.queued as u64,
        }
    }

    async fn shutdown(&self) -> MetaResult<()> {
        self.close().await
    }
}

impl Server {
    /// Opens the metadata in the data directory and serves it.
    ///
    /// # Errors
    /// What can't work, and what to do about it.
    pub async fn start(options: ServerOptions) -> anyhow::Result<Server> {
        options.validate()?;
        let store: Arc<dyn ObjectStore> = Arc::new(S3Store::new(options.s3.clone()).context("the object store")?);
        // One that gives up sooner, so that its answer tells why.
        let asked = S3Options { deadline: crate::probe::PATIENCE * 4 / 5, ..options.s3.clone() };
        let asked: Arc<dyn ObjectStore> = Arc::new(S3Store::new(asked).context("the object store")?);
        Self::start_asking(store, asked, options).await
    }

    /// As [`Server::start`], with bodies in `store` instead of the one that the options name.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_on(store: Arc<dyn ObjectStore>, options: ServerOptions) -> anyhow::Result<Server> {
        Self::start_asking(Arc::clone(&store), store, options).await
    }

    /// As [`Server::start_on`]; whether the object store answers is asked through `asked`.
    async fn start_asking(
        store: Arc<dyn ObjectStore>,
        asked: Arc<dyn ObjectStore>,
        options: ServerOptions,
    ) -> anyhow::Result<Server> {
        options.validate()?;
        let mut engine = EngineOptions::new(&options.data);
        engine.store = StoreOptions::new(&options.data, options.memory_limit);
        let engine = Engine::open(engine, store).await;
        let engine = engine.with_context(|| format!("opening the metadata in {}", options.data.display()))?;
        let serve =
            ServeOptions { listen: options.listen, http: options.http, tls: options.tls, limits: options.limits };
        let started = Self::start_with(Arc::clone(&engine) as Arc<dyn Backend>, asked, serve).await;
        if started.is_err() {
            engine.close().await.context("closing the metadata")?;
        }
        started
    }
}
