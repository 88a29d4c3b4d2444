//! How sessions begin, go on and end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_failpoint::failpoint;
use nokvfs_types::{
    Heartbeat, HeartbeatReply, MetaError, SessionGrant, SessionId, SessionRequest, VolumeId, VolumeState,
};
use sha2::{Digest, Sha256};

use super::{ALL_SLOTS, By, ENDED, Live, SESSIONS, SLOTS, row_of};
use crate::commit::Txn;
use crate::engine::{Core, Engine, find_snapshot};
use crate::layout::{Key, KeyPrefix, ServerRecord, SessionByMountRecord, SessionRecord, SlotRecord, VolumeRecord};
use crate::service::{MetaResult, SessionService};

/// Longest description of a client.
const CLIENT_MAX: usize = 256;

#[async_trait::async_trait]
impl SessionService for Engine {
    async fn open_session(&self, request: SessionRequest) -> MetaResult<SessionGrant> {
        let core = self.core();
        if request.client.len() > CLIENT_MAX {
            return Err(MetaError::Invalid(format!("the client's description is longer than {CLIENT_MAX} bytes")));
        }
        let record = core.authorise(&request)?;
        if request.resume.is_none() {
            if core.sessions.len() >= SESSIONS {
                return Err(MetaError::Busy(format!("the server holds {SESSIONS} sessions; end some first")));
            }
            core.check_owner(request.volume).await?;
        }
        // On its own task: a caller that gives up must not leave a session that this process does not know.
        let (volume, opening) = (request.volume, Arc::clone(core));
        let opened = tokio::spawn(async move { opening.begin_session(request, record.id).await });
        let (session, generation) =
            opened.await.map_err(|_| MetaError::Unavailable("the metadata server is stopping; try again".into()))??;
        failpoint!("session.known");
        core.grant(session, generation, volume).await
    }

    async fn attach_session(&self, request: SessionRequest) -> MetaResult<SessionGrant> {
        let core = self.core();
        core.authorise(&request)?;
        let Some((session, generation)) = request.resume else {
            return Err(MetaError::Invalid("a session to attach must be named".into()));
        };
        failpoint!("session.attaching");
        let live = core.sessions.check(session, generation)?;
        if live.volume != request.volume {
            return Err(MetaError::Unauthorized(format!("session {session} is another volume's")));
        }
        core.grant(session, generation, request.volume).await
    }

    async fn heartbeat(&self, session: SessionId, generation: u32, beat: Heartbeat) -> MetaResult<HeartbeatReply> {
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        if live.lineage.at().is_some() {
            // What it has open has a name in its snapshot.
            return Ok(HeartbeatReply::default());
        }
        core.orphans.answer(live.mount, session, &beat);
        if !beat.closed.is_empty() {
            core.wake.orphans.notify_one();
        }
        Ok(HeartbeatReply { orphans: core.orphans.ask(live.mount, session) })
    }

    async fn close_session(&self, session: SessionId, generation: u32) -> MetaResult<()> {
        let core = self.core();
        let live = core.sessions.check(session, generation)?;
        core.end_session(&live, Duration::ZERO).await
    }
}

impl Core {
    /// The volume of a request whose token is right. One that does not exist is answered like a wrong token.
    fn authorise(&self, request: &SessionRequest) -> MetaResult<VolumeRecord> {
        let refused = || MetaError::Unauthorized("there is no such volume, or the token is not its own".into());
        let (_, record) = self.find_volume(request.volume)?.ok_or_else(refused)?;
        if Sha256::digest(request.token.0).as_slice() != record.token_hash {
            return Err(refused());
        }
        match record.state {
            VolumeState::Active => Ok(record),
            VolumeState::Hidden if request.snapshot.is_some() => Ok(record),
            VolumeState::Hidden | VolumeState::Deleting => Err(MetaError::NotFound),
        }
    }

    async fn grant(&self, session: SessionId, generation: u32, volume: VolumeId) -> MetaResult<SessionGrant> {
        let expires_ms = u32::try_from(self.options.session_expiry.as_millis()).unwrap_or(u32::MAX);
        Ok(SessionGrant { session, generation, volume: self.volume_info(volume).await?, expires_ms, slots: SLOTS })
    }

    async fn begin_session(&self, request: SessionRequest, volume: VolumeId) -> MetaResult<(SessionId, u32)> {
        let opened = move |txn: &mut Txn<'_>| {
            let (session, record) = match request.resume {
                None => open(txn, &request)?,
                Some((session, generation)) => take_over(txn, volume, session, generation)?,
            };
            let volume: VolumeRecord = txn.get(&Key::Volume(record.mount))?.ok_or(MetaError::NotFound)?;
            Ok((session, record, volume))
        };
        failpoint!("session.opening");
        let (session, record, volume) = self.committer.submit(opened).await?;
        failpoint!("session.opened");
        self.orphans.forget_session(record.mount, session);
        self.sessions.insert(Live::load(&self.store, session, &record, &volume)?, Duration::ZERO);
        self.locks.lock().begin(By { place: (record.mount, record.pin), session }, Instant::now());
        Ok((session, record.generation))
    }

    /// Ends a session: nothing can be changed in it from then on. Its unsettled uploads are swept after `quiet`.
    pub(crate) async fn end_session(&self, live: &Arc<Live>, quiet: Duration) -> MetaResult<()> {
        let (session, generation, mount) = (live.session, live.generation, live.mount);
        failpoint!("session.ending");
        let sweep = self.committer.submit(move |txn| end(txn, session, generation)).await?;
        failpoint!("session.ended");
        self.sessions.remove(session, generation);
        self.locks.lock().end(live.locker(), Instant::now());
        self.orphans.forget_session(mount, session);
        self.wake.orphans.notify_one();
        if sweep {
            // Whoever adopted it in between does not know how it ended.
            let at = Instant::now() + quiet;
            self.ended.lock().entry(session).and_modify(|known| *known = at.min(*known)).or_insert(at);
            self.wake.sweep.notify_one();
        }
        Ok(())
    }
}

fn open(txn: &mut Txn<'_>, request: &SessionRequest) -> MetaResult<(SessionId, SessionRecord)> {
    let (mount, pin) = match &request.snapshot {
        None => (active_volume(txn, request.volume)?.0, None),
        Some(name) => {
            let (mount, version, _) = find_snapshot(txn, request.volume, name)?.ok_or(MetaError::NotFound)?;
            (mount, Some(version))
        }
    };
    let mut server: ServerRecord =
        txn.get(&Key::Server)?.ok_or_else(|| MetaError::Corrupt("the server's own record is missing".into()))?;
    let session = SessionId(server.next_session);
    server.next_session += 1;
    txn.put(&Key::Server, &server)?;
    let record = SessionRecord {
        mount,
        generation: 1,
        read_only: request.read_only || pin.is_some(),
        pin,
        client: request.client.clone(),
        uploads: Vec::new(),
        opened: txn.now(),
    };
    txn.put(&Key::Session(session), &record)?;
    txn.put(&Key::SessionByMount(mount, session), &SessionByMountRecord)?;
    Ok((session, record))
}

fn take_over(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    session: SessionId,
    generation: u32,
) -> MetaResult<(SessionId, SessionRecord)> {
    let key = Key::Session(session);
    let record: Option<SessionRecord> = txn.get(&key)?;
    let Some(mut record) = record.filter(|record| record.generation != ENDED) else {
        return Err(MetaError::SessionExpired(session.0));
    };
    let held: VolumeRecord = txn.get(&Key::Volume(record.mount))?.ok_or(MetaError::NotFound)?;
    if held.id != volume {
        return Err(MetaError::Unauthorized(format!("session {session} is another volume's")));
    }
    if held.state == VolumeState::Deleting || (held.state == VolumeState::Hidden && record.pin.is_none()) {
        return Err(MetaError::NotFound);
    }
    if record.generation != generation {
        return Err(MetaError::Superseded(record.generation));
    }
    if generation >= ENDED - 1 {
        return Err(MetaError::Busy("the session was taken over too often; open a new one".into()));
    }
    failpoint!("session.taken_over");
    record.generation = generation + 1;
    txn.put(&key, &record)?;
    // The row is an old generation's, whose answers nobody asks for any more.
    let row = row_of(record.generation);
    remove_slots(txn, session, |slot| (row..row + SLOTS).contains(&slot))?;
    Ok((session, record))
}

/// Ends a session; answers whether its uploads are to be swept.
fn end(txn: &mut Txn<'_>, session: SessionId, generation: u32) -> MetaResult<bool> {
    let key = Key::Session(session);
    let Some(mut record) = txn.get::<SessionRecord>(&key)? else { return Ok(false) };
    if record.generation == ENDED {
        return Ok(true);
    }
    if record.generation != generation {
        return Err(MetaError::Superseded(record.generation));
    }
    txn.delete(&Key::SessionByMount(record.mount, session))?;
    remove_slots(txn, session, |_| true)?;
    if record.uploads.is_empty() {
        txn.delete(&key)?;
        return Ok(false);
    }
    record.generation = ENDED;
    txn.put(&key, &record)?;
    Ok(true)
}

fn remove_slots(txn: &mut Txn<'_>, session: SessionId, which: impl Fn(u16) -> bool) -> MetaResult<()> {
    let mut keys = Vec::new();
    txn.scan::<SlotRecord>(&KeyPrefix::slots(session), None, ALL_SLOTS, |key, _| keys.push(key))?;
    for key in keys {
        if matches!(key, Key::Slot(_, slot) if which(slot)) {
            txn.delete(&key)?;
        }
    }
    Ok(())
}

fn active_volume(txn: &mut Txn<'_>, volume: VolumeId) -> MetaResult<(nokvfs_types::MountId, VolumeRecord)> {
    let reference: crate::layout::VolumeUuidRecord = txn.get(&Key::VolumeUuid(volume))?.ok_or(MetaError::NotFound)?;
    let record: VolumeRecord = txn.get(&Key::Volume(reference.mount))?.ok_or(MetaError::NotFound)?;
    match record.state {
        VolumeState::Active => Ok((reference.mount, record)),
        VolumeState::Hidden | VolumeState::Deleting => Err(MetaError::NotFound),
    }
}
