//! Metadata of which a test can count every effect and hold up every answer. Outlives the servers in front of it, as a
//! data directory does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nokvfs_meta::service::{CheckService, LockService, MetaResult, SessionService, SnapshotService, VolumeService};
use nokvfs_protocol::SessionRef;
use nokvfs_server::{Backend, Figures};
use nokvfs_types::*;
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct State {
    volumes: Vec<(VolumeInfo, Token)>,
    sessions: HashMap<SessionId, (VolumeId, u32)>,
    slots: HashMap<(SessionId, u16), (u64, MetaResult<Applied>)>,
    names: HashMap<Name, InodeId>,
    effects: HashMap<Name, u32>,
}

#[derive(Debug, Default)]
pub struct TestBackend {
    state: Mutex<State>,
    numbers: AtomicU64,
    /// Milliseconds before a mutation takes effect.
    pub delay_before: AtomicU64,
    /// Milliseconds between a mutation's effect and its answer.
    pub delay_after: AtomicU64,
    pub sick: AtomicBool,
    shut_down: AtomicBool,
}

pub fn attr(inode: InodeId) -> Attr {
    let kind = if inode == InodeId::ROOT { FileKind::Directory } else { FileKind::File };
    let time = Timestamp(0);
    let (uid, gid, nlink, size, mapped, rdev) = (0, 0, 1, 0, 0, 0);
    let version = Version(1);
    Attr {
        inode,
        kind,
        mode: 0o644,
        uid,
        gid,
        nlink,
        size,
        mapped,
        rdev,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        version,
    }
}

impl TestBackend {
    pub fn new() -> Arc<Self> {
        Arc::new(TestBackend { numbers: AtomicU64::new(2), ..TestBackend::default() })
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub fn add_volume(&self, name: &str) -> (VolumeInfo, Token) {
        let spec = VolumeSpec {
            name: name.into(),
            quota_bytes: 0,
            quota_inodes: 0,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        };
        let usage = VolumeUsage { bytes: 5, inodes: 1 };
        let mount = MountId(self.number());
        let info = VolumeInfo {
            id: VolumeId::random(),
            mount,
            spec,
            state: VolumeState::Active,
            usage,
            sessions: 0,
            origins: Vec::new(),
        };
        let mut token = [0; 32];
        token[..16].copy_from_slice(VolumeId::random().0.as_bytes());
        let volume = (info, Token(token));
        self.state.lock().volumes.push(volume.clone());
        volume
    }

    /// How often each name was created.
    pub fn effects(&self) -> HashMap<Name, u32> {
        self.state.lock().effects.clone()
    }

    pub fn was_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Relaxed)
    }

    pub fn expire_sessions(&self) {
        self.state.lock().sessions.clear();
    }

    fn check(&self, session: SessionId, generation: u32) -> MetaResult<()> {
        match self.state.lock().sessions.get(&session) {
            None => Err(MetaError::SessionExpired(session.0)),
            Some((_, newer)) if *newer != generation => Err(MetaError::Superseded(*newer)),
            Some(_) => Ok(()),
        }
    }

    fn volume_of(&self, request: &SessionRequest) -> MetaResult<VolumeInfo> {
        let state = self.state.lock();
        let found = state.volumes.iter().find(|(info, token)| info.id == request.volume && *token == request.token);
        found
            .map(|(info, _)| info.clone())
            .ok_or_else(|| MetaError::Unauthorized("no such volume, or not its token".into()))
    }

    fn grant(session: SessionId, generation: u32, volume: VolumeInfo) -> SessionGrant {
        SessionGrant { session, generation, volume, expires_ms: 60_000, slots: 64 }
    }

    /// One step: the slot is looked up and the effect made under one lock.
    fn apply(&self, stamp: Stamp, mutation: Mutation) -> MetaResult<Applied> {
        let inode = InodeId(self.number());
        let mut state = self.state.lock();
        match state.slots.get(&(stamp.session, stamp.slot)) {
            Some((sequence, reply)) if *sequence == stamp.sequence => return reply.clone(),
            Some((sequence, _)) if *sequence > stamp.sequence => {
                return Err(MetaError::Invalid("an old sequence".into()));
            }
            _ => {}
        }
        let Mutation::Create { name, .. } = mutation else { return Err(MetaError::NotPermitted) };
        *state.effects.entry(name.clone()).or_insert(0) += 1;
        state.names.insert(name, inode);
        let reply = Ok(Applied::Entry { attr: attr(inode), created: true });
        state.slots.insert((stamp.session, stamp.slot), (stamp.sequence, reply.clone()));
        reply
    }
}

#[async_trait::async_trait]
impl SessionService for TestBackend {
    async fn open_session(&self, request: SessionRequest) -> MetaResult<SessionGrant> {
        let volume = self.volume_of(&request)?;
        let (session, generation) = match request.resume {
            None => (SessionId(self.number()), 1),
            Some((session, generation)) => {
                self.check(session, generation)?;
                (session, generation + 1)
            }
        };
        self.state.lock().sessions.insert(session, (volume.id, generation));
        Ok(Self::grant(session, generation, volume))
    }

    async fn attach_session(&self, request: SessionRequest) -> MetaResult<SessionGrant> {
        let volume = self.volume_of(&request)?;
        let (session, generation) = request.resume.ok_or_else(|| MetaError::Invalid("no session".into()))?;
        self.check(session, generation)?;
        if self.state.lock().sessions.get(&session).map(|(volume, _)| *volume) != Some(volume.id) {
            return Err(MetaError::Unauthorized("a session of another volume".into()));
        }
        Ok(Self::grant(session, generation, volume))
    }

    async fn heartbeat(&self, session: SessionId, generation: u32, _beat: Heartbeat) -> MetaResult<HeartbeatReply> {
        self.check(session, generation).map(|()| HeartbeatReply::default())
    }

    async fn close_session(&self, session: SessionId, generation: u32) -> MetaResult<()> {
        self.check(session, generation)?;
        self.state.lock().sessions.remove(&session);
        Ok(())
    }
}

#[async_trait::async_trait]
impl VolumeService for TestBackend {
    async fn create_volume(&self, spec: VolumeSpec) -> MetaResult<(VolumeInfo, Token)> {
        Ok(self.add_volume(&spec.name))
    }

    async fn volume(&self, id: VolumeId) -> MetaResult<VolumeInfo> {
        let state = self.state.lock();
        state.volumes.iter().find(|(info, _)| info.id == id).map(|(info, _)| info.clone()).ok_or(MetaError::NotFound)
    }

    async fn list_volumes(&self, after: Option<&str>, limit: u32) -> MetaResult<Vec<VolumeInfo>> {
        let mut all: Vec<_> = self.state.lock().volumes.iter().map(|(info, _)| info.clone()).collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all.retain(|info| after.is_none_or(|after| *info.spec.name > *after));
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn set_quota(&self, id: VolumeId, _bytes: u64, _inodes: u64) -> MetaResult<VolumeInfo> {
        self.volume(id).await
    }

    async fn delete_volume(&self, id: VolumeId) -> MetaResult<()> {
        self.state.lock().volumes.retain(|(info, _)| info.id != id);
        Ok(())
    }
}

/// Nobody locks anything here; the tests of locks have the engine.
#[async_trait::async_trait]
impl LockService for TestBackend {
    async fn set_lock(&self, _: SessionId, _: u32, _: u64, lock: Lock) -> MetaResult<LockReply> {
        Err(MetaError::Invalid(format!("{lock:?}")))
    }

    async fn test_lock(&self, _: SessionId, _: u32, lock: Lock) -> MetaResult<LockReply> {
        Err(MetaError::Invalid(format!("{lock:?}")))
    }

    async fn wait_lock(
        &self,
        _: SessionId,
        _: u32,
        _: u64,
        (lock, _): (Lock, OpId),
        _: Option<LockPlace>,
        _: Duration,
    ) -> MetaResult<LockReply> {
        Err(MetaError::Invalid(format!("{lock:?}")))
    }

    async fn forget_wait(&self, session: SessionId, generation: u32, _: InodeId, _: OpId) -> MetaResult<()> {
        self.check(session, generation)
    }

    async fn sync_locks(&self, session: SessionId, generation: u32, _: u64, locks: Vec<Lock>) -> MetaResult<()> {
        assert_eq!(locks, []);
        self.check(session, generation)
    }
}

#[async_trait::async_trait]
impl CheckService for TestBackend {
    async fn check(&self, _run: u64, _step: u32, _spec: CheckSpec) -> MetaResult<CheckStep> {
        Err(MetaError::NotFound)
    }
}

#[async_trait::async_trait]
impl SnapshotService for TestBackend {
    async fn create_snapshot(&self, _volume: VolumeId, _name: &str) -> MetaResult<SnapshotInfo> {
        Err(MetaError::NotFound)
    }

    async fn list_snapshots(&self, _volume: VolumeId) -> MetaResult<Vec<SnapshotInfo>> {
        Ok(Vec::new())
    }

    async fn delete_snapshot(&self, _volume: VolumeId, _name: &str) -> MetaResult<()> {
        Ok(())
    }

    async fn clone_volume(&self, _spec: CloneSpec) -> MetaResult<(VolumeInfo, Token)> {
        Err(MetaError::NotFound)
    }

    async fn rollback_volume(&self, _volume: VolumeId, _snapshot: &str) -> MetaResult<VolumeInfo> {
        Err(MetaError::NotFound)
    }
}

#[async_trait::async_trait]
impl Backend for TestBackend {
    async fn lookup(&self, session: SessionRef, _parent: InodeId, name: &Name) -> MetaResult<Attr> {
        self.check(session.session, session.generation)?;
        self.state.lock().names.get(name).map(|inode| attr(*inode)).ok_or(MetaError::NotFound)
    }

    async fn getattr(&self, session: SessionRef, inode: InodeId) -> MetaResult<Attr> {
        self.check(session.session, session.generation).map(|()| attr(inode))
    }

    /// Always as many entries as asked for, with long names.
    async fn readdir(
        &self,
        session: SessionRef,
        _dir: InodeId,
        after: u64,
        limit: u32,
        attrs: bool,
    ) -> MetaResult<DirPage> {
        self.check(session.session, session.generation)?;
        let entry = |cookie: u64| {
            let inode = InodeId(cookie);
            let name = Name::new(format!("{cookie:0>200}")).expect("name");
            DirEntry { name, inode, kind: FileKind::File, cookie, attr: attrs.then(|| attr(inode)) }
        };
        let entries = (after + 4..after + 4 + u64::from(limit)).map(entry).collect();
        Ok(DirPage { entries, end: false, parent: InodeId::ROOT })
    }

    async fn readlink(&self, _session: SessionRef, _inode: InodeId) -> MetaResult<Bytes> {
        Ok(Bytes::from_static(b"target"))
    }

    async fn getxattr(&self, _session: SessionRef, _inode: InodeId, _name: &[u8]) -> MetaResult<Bytes> {
        Err(MetaError::NoAttribute)
    }

    async fn listxattr(&self, _session: SessionRef, _inode: InodeId) -> MetaResult<Vec<Bytes>> {
        Ok(Vec::new())
    }

    async fn body(&self, _session: SessionRef, inode: InodeId, _from: u64) -> MetaResult<BodyView> {
        Ok(BodyView { attr: attr(inode), extents: Vec::new(), complete_to: u64::MAX })
    }

    async fn statfs(&self, session: SessionRef) -> MetaResult<FsStat> {
        self.check(session.session, session.generation)?;
        Ok(FsStat { used_bytes: 0, total_bytes: 0, used_inodes: 0, total_inodes: 0 })
    }

    async fn mutate(&self, stamp: Stamp, _caller: Caller, mutation: Mutation) -> MetaResult<Applied> {
        self.check(stamp.session, stamp.generation)?;
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(self.delay_before.load(Ordering::Relaxed))).await;
        let reply = self.apply(stamp, mutation);
        tokio::time::sleep(Duration::from_millis(self.delay_after.load(Ordering::Relaxed))).await;
        reply
    }

    fn health(&self) -> Result<(), String> {
        if self.sick.load(Ordering::Relaxed) { Err("the committer stopped".into()) } else { Ok(()) }
    }

    fn figures(&self) -> Figures {
        Figures {
            sessions: self.state.lock().sessions.len() as u64,
            batches: 3,
            commands: 12,
            garbage: 4,
            ..Figures::default()
        }
    }

    async fn shutdown(&self) -> MetaResult<()> {
        self.shut_down.store(true, Ordering::Relaxed);
        Ok(())
    }
}
