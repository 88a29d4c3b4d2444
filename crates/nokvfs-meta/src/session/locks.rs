//! The table of advisory locks: soft state of the sessions, in memory only.
//!
//! A lock is set by [`Table::set`] alone, at once or not at all. Waiting changes nothing: whoever waits is told, in the
//! order of their places, that a lock can be set now, and then has a moment in which nobody else can take it (its claim).
//! So a wait that is given up, or whose answer is lost, leaves no lock behind.

mod deadlock;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nokvfs_types::{
    HeldLock, InodeId, Lock, LockKind, LockOwner, LockPlace, LockReply, LockType, MetaError, MountId, OpId, SessionId,
    Version,
};
use tokio::sync::oneshot;

use crate::lock_ranges::{LockPiece, LockRanges};
use crate::service::MetaResult;

/// Most locked ranges of one file: a request looks at all of them, some 10 us.
const FILE_LOCKS: usize = 4096;
/// Most locked ranges of a session: when it connects again it tells them in one request, at most 60 bytes each, 480 KiB.
const SESSION_LOCKS: usize = 8192;
/// Most locked ranges of a server, about 100 bytes each: 26 MB.
const SERVER_LOCKS: usize = 262_144;
/// Most requests of a session that wait for a lock.
const SESSION_WAITS: usize = 1024;
/// Most requests of a server that wait for a lock, about 250 bytes each: 16 MB.
const SERVER_WAITS: usize = 65_536;
/// How long nobody else can take a lock from one who was told to set it: a few times the way to the client and back.
const CLAIM: Duration = Duration::from_secs(3);

/// A file of a volume.
pub(crate) type FileKey = (Place, InodeId);

/// A volume as it is, or at a pin: files of a snapshot are not those that go on.
pub(crate) type Place = (MountId, Option<Version>);

/// A session and what it sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By {
    pub place: Place,
    pub session: SessionId,
}

/// Who holds a lock or waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    session: SessionId,
    number: LockOwner,
}

#[derive(Debug)]
struct Waiter {
    /// Of this table; never reused.
    id: u64,
    owner: Owner,
    lock: Lock,
    op: OpId,
    place: LockPlace,
    told: oneshot::Sender<LockReply>,
}

/// A moment in which nobody else can take a lock.
#[derive(Debug)]
struct Claim {
    /// Of the waiter that was told.
    id: u64,
    owner: Owner,
    lock: Lock,
    op: OpId,
    until: Instant,
}

#[derive(Debug, Default)]
struct FileLocks {
    held: BTreeMap<(LockKind, Owner), LockRanges>,
    /// All ranges in `held`.
    pieces: usize,
    /// In the order of their places.
    waiting: Vec<Waiter>,
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Session {
    /// The connection of the session whose requests are taken.
    incarnation: u64,
    /// Files in which it holds a lock or has a claim.
    files: HashSet<FileKey>,
    pieces: usize,
    waits: usize,
}

/// A wait that has begun.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub id: u64,
    pub place: LockPlace,
    pub told: oneshot::Receiver<LockReply>,
}

/// All locks of a server.
#[derive(Debug)]
pub(crate) struct Table {
    files: HashMap<FileKey, FileLocks>,
    sessions: HashMap<SessionId, Session>,
    /// Sessions of before the server's start that have not told their locks yet, of volumes that have such.
    recovering: HashMap<Place, HashSet<SessionId>>,
    /// Files where an owner waits.
    waiting: BTreeMap<Owner, Vec<FileKey>>,
    pieces: usize,
    waits: usize,
    last_id: u64,
    last_place: u64,
}

impl Table {
    pub(crate) fn new() -> Self {
        // Places of before a restart come before those of after it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Table {
            files: HashMap::new(),
            sessions: HashMap::new(),
            recovering: HashMap::new(),
            waiting: BTreeMap::new(),
            pieces: 0,
            waits: 0,
            last_id: 0,
            last_place: since.as_micros() as u64,
        }
    }

    /// Sessions that lived before the server's start. Until all of a volume have told their locks or ended, nobody can
    /// take a new one there.
    pub(crate) fn recover(&mut self, sessions: impl IntoIterator<Item = By>) {
        for By { place, session } in sessions {
            self.recovering.entry(place).or_default().insert(session);
        }
    }

    /// A session was opened, or taken over by another client, which holds nothing yet.
    pub(crate) fn begin(&mut self, by: By, now: Instant) {
        self.end(by, now);
        let session = Session { incarnation: 1, files: HashSet::new(), pieces: 0, waits: 0 };
        self.sessions.insert(by.session, session);
    }

    /// A session ended: its locks are free.
    pub(crate) fn end(&mut self, by: By, now: Instant) {
        for key in self.clear(by.session) {
            self.tell(key, now);
        }
        self.sessions.remove(&by.session);
        self.recovered(by, now);
    }

    /// A session connected again and tells everything that it holds. What the table has beyond that is dropped: it was
    /// set for someone who never heard of it.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] if a newer connection has told already; [`MetaError::SessionExpired`] if a lock is
    /// someone else's by now, so that the client can't go on.
    pub(crate) fn sync(&mut self, by: By, incarnation: u64, locks: &[Lock], now: Instant) -> MetaResult<()> {
        if self.sessions.get(&by.session).is_some_and(|session| session.incarnation >= incarnation) {
            return Err(stale());
        }
        let mut touched: HashSet<FileKey> = self.clear(by.session).into_iter().collect();
        let session = Session { incarnation, files: HashSet::new(), pieces: 0, waits: 0 };
        self.sessions.insert(by.session, session);
        let mut lost = false;
        for lock in locks {
            let owner = Owner { session: by.session, number: lock.owner };
            let key = (by.place, lock.inode);
            touched.insert(key);
            let taken = self.files.get(&key).is_some_and(|file| file.conflict(owner, lock).is_some());
            lost |= taken || self.replace(key, owner, lock).is_err();
        }
        if lost {
            touched.extend(self.clear(by.session));
        }
        for key in touched {
            self.tell(key, now);
        }
        self.recovered(by, now);
        if lost { Err(MetaError::SessionExpired(by.session.0)) } else { Ok(()) }
    }

    /// Sets a lock or gives one back, at once or not at all.
    ///
    /// # Errors
    /// [`MetaError::NoLocks`] beyond a limit; [`MetaError::Unavailable`] from a connection that is not the session's
    /// newest.
    pub(crate) fn set(&mut self, by: By, incarnation: u64, lock: &Lock, now: Instant) -> MetaResult<LockReply> {
        self.check(by, incarnation)?;
        let key = (by.place, lock.inode);
        let owner = Owner { session: by.session, number: lock.owner };
        if lock.lock_type != LockType::Unlock {
            if self.recovering.contains_key(&by.place) {
                return Ok(LockReply::Recovering);
            }
            self.drop_converted(key, owner, lock, now)?;
            if let Some(file) = self.files.get_mut(&key) {
                file.claims.retain(|claim| claim.until > now);
                let taken = file.conflict(owner, lock).or_else(|| file.claimed(owner, lock));
                if let Some((holder, piece)) = taken {
                    return Ok(LockReply::Held(seen_by(by.session, holder, piece)));
                }
            }
        }
        self.replace(key, owner, lock)?;
        if let Some(file) = self.files.get_mut(&key) {
            let same = |claim: &Claim| claim.owner == owner && is_same(&claim.lock, lock);
            file.claims.retain(|claim| !same(claim));
        }
        self.tell(key, now);
        Ok(LockReply::Done)
    }

    /// What is in the way of a lock.
    pub(crate) fn test(&self, by: By, lock: &Lock) -> LockReply {
        if self.recovering.contains_key(&by.place) {
            return LockReply::Recovering;
        }
        let owner = Owner { session: by.session, number: lock.owner };
        let file = self.files.get(&(by.place, lock.inode));
        match file.and_then(|file| file.conflict(owner, lock)) {
            Some((holder, piece)) => LockReply::Held(seen_by(by.session, holder, piece)),
            None => LockReply::Done,
        }
    }

    /// Waits for a lock, from the place that an earlier wait had, if there was one.
    ///
    /// # Errors
    /// [`MetaError::Deadlock`] if whoever holds it waits, over any number of others, for this owner;
    /// [`MetaError::NoLocks`] beyond a limit; [`MetaError::Unavailable`] as [`Table::set`].
    pub(crate) fn wait(
        &mut self,
        by: By,
        incarnation: u64,
        (lock, op): (&Lock, OpId),
        place: Option<LockPlace>,
        now: Instant,
    ) -> MetaResult<Waiting> {
        self.check(by, incarnation)?;
        let key = (by.place, lock.inode);
        let owner = Owner { session: by.session, number: lock.owner };
        if self.is_deadlock(key, owner, lock) {
            return Err(MetaError::Deadlock);
        }
        let waits = self.sessions.get(&by.session).map_or(0, |session| session.waits);
        within("that wait for a lock in the session", waits + 1, SESSION_WAITS)?;
        within("that wait for a lock on the server", self.waits + 1, SERVER_WAITS)?;
        let place = place.unwrap_or_else(|| {
            self.last_place += 1;
            LockPlace(self.last_place)
        });
        self.last_id += 1;
        let id = self.last_id;
        let (told, receiver) = oneshot::channel();
        let waiter = Waiter { id, owner, lock: *lock, op, place, told };
        let file = self.files.entry(key).or_default();
        let at = file.waiting.partition_point(|other| other.place <= place);
        file.waiting.insert(at, waiter);
        self.waits += 1;
        if let Some(session) = self.sessions.get_mut(&by.session) {
            session.waits += 1;
        }
        self.waiting.entry(owner).or_default().push(key);
        self.tell(key, now);
        Ok(Waiting { id, place, told: receiver })
    }

    /// Nobody hears any more what the waiter is told.
    pub(crate) fn leave(&mut self, key: FileKey, id: u64, now: Instant) {
        self.remove_waiters(key, |waiter| waiter.id == id);
        if let Some(file) = self.files.get_mut(&key) {
            file.claims.retain(|claim| claim.id != id);
        }
        self.tell(key, now);
    }

    /// A request gave up waiting for a lock of a file.
    pub(crate) fn forget(&mut self, by: By, inode: InodeId, op: OpId, now: Instant) {
        let key = (by.place, inode);
        let mine = |owner: &Owner, of: OpId| owner.session == by.session && of == op;
        self.remove_waiters(key, |waiter| mine(&waiter.owner, waiter.op));
        if let Some(file) = self.files.get_mut(&key) {
            file.claims.retain(|claim| !mine(&claim.owner, claim.op));
        }
        self.tell(key, now);
    }

    /// Locked ranges, and requests that wait.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.pieces as u64, self.waits as u64)
    }

    /// When a claim in a file ends, so that others are to be told.
    pub(crate) fn next_claim_end(&self, key: FileKey) -> Option<Instant> {
        self.files.get(&key)?.claims.iter().map(|claim| claim.until).min()
    }

    /// Tells those who wait for a lock in a file and can have it now. Forgets the file if nothing is left in it.
    pub(crate) fn tell(&mut self, key: FileKey, now: Instant) {
        if let Some(file) = self.files.get_mut(&key) {
            file.claims.retain(|claim| claim.until > now);
        }
        let recovering = self.recovering.contains_key(&key.0);
        while let Some(at) = self.files.get(&key).and_then(FileLocks::first_ready).filter(|_| !recovering) {
            let Some(Waiter { id, owner, lock, op, told, .. }) = self.take_waiter(key, at) else { break };
            // Whoever does not listen any more has left, and claims nothing.
            if told.send(LockReply::Done).is_ok() {
                self.files.entry(key).or_default().claims.push(Claim { id, owner, lock, op, until: now + CLAIM });
                self.inside(owner.session, key);
            }
        }
        if self.files.get(&key).is_some_and(FileLocks::is_empty) {
            self.files.remove(&key);
        }
    }

    /// Notes that a session has something in a file. Where it has nothing any more is forgotten now and then.
    fn inside(&mut self, session: SessionId, key: FileKey) {
        let Table { files, sessions, .. } = self;
        let Some(state) = sessions.get_mut(&session) else { return };
        state.files.insert(key);
        if state.files.len() > 2 * state.pieces + SESSION_WAITS {
            state.files.retain(|key| files.get(key).is_some_and(|file| file.has(session)));
        }
    }

    /// Refuses what comes from an older connection of the session.
    fn check(&self, by: By, incarnation: u64) -> MetaResult<()> {
        match self.sessions.get(&by.session) {
            Some(session) if session.incarnation == incarnation => Ok(()),
            _ => Err(stale()),
        }
    }

    /// flock(2) is not converted in place: the lock that is there goes before the new one is asked for, so that two who
    /// hold a shared lock and want it exclusively do not wait for each other.
    fn drop_converted(&mut self, key: FileKey, owner: Owner, lock: &Lock, now: Instant) -> MetaResult<()> {
        let held = self.files.get(&key).and_then(|file| file.held.get(&(lock.kind, owner)));
        let converts = held.is_some_and(|held| held.pieces().iter().any(|piece| piece.lock_type != lock.lock_type));
        if lock.kind == LockKind::Flock && converts {
            self.replace(key, owner, &Lock { lock_type: LockType::Unlock, ..*lock })?;
            self.tell(key, now);
        }
        Ok(())
    }

    /// Puts a lock into an owner's ranges, whoever else holds what.
    fn replace(&mut self, key: FileKey, owner: Owner, lock: &Lock) -> MetaResult<()> {
        let session = self.sessions.get(&owner.session).map_or(0, |session| session.pieces);
        let Table { files, pieces: all, .. } = self;
        let none = LockRanges::default();
        let before = files.get(&key).and_then(|file| file.held.get(&(lock.kind, owner))).unwrap_or(&none);
        let after = before.with(LockPiece { range: lock.range, lock_type: lock.lock_type, pid: lock.pid });
        let (old, new) = (before.pieces().len(), after.pieces().len());
        if new > old {
            let more = new - old;
            within("of the file", files.get(&key).map_or(0, |file| file.pieces) + more, FILE_LOCKS)?;
            within("of the session", session + more, SESSION_LOCKS)?;
            within("of the server", *all + more, SERVER_LOCKS)?;
        }
        if new == 0 && old == 0 {
            return Ok(());
        }
        let file = files.entry(key).or_default();
        file.pieces = file.pieces + new - old;
        if after.is_empty() {
            file.held.remove(&(lock.kind, owner));
        } else {
            file.held.insert((lock.kind, owner), after);
        }
        *all = *all + new - old;
        if let Some(session) = self.sessions.get_mut(&owner.session) {
            session.pieces = session.pieces + new - old;
        }
        self.inside(owner.session, key);
        Ok(())
    }

    /// Takes everything of a session out; answers the files in which something was.
    fn clear(&mut self, session: SessionId) -> Vec<FileKey> {
        let all = Owner { session, number: LockOwner(0) }..=Owner { session, number: LockOwner(u64::MAX) };
        let mut keys: Vec<_> = self.waiting.range(all).flat_map(|(_, keys)| keys).copied().collect();
        keys.extend(self.sessions.get(&session).into_iter().flat_map(|session| &session.files));
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            self.remove_waiters(*key, |waiter| waiter.owner.session == session);
            let Some(file) = self.files.get_mut(key) else { continue };
            file.claims.retain(|claim| claim.owner.session != session);
            file.held.retain(|(_, owner), _| owner.session != session);
            let left: usize = file.held.values().map(|ranges| ranges.pieces().len()).sum();
            self.pieces = self.pieces + left - file.pieces;
            file.pieces = left;
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.files.clear();
            session.pieces = 0;
        }
        keys
    }

    /// A session of before the start has told its locks, or ended. After the last one everybody is told who can go on.
    fn recovered(&mut self, by: By, now: Instant) {
        let Some(sessions) = self.recovering.get_mut(&by.place) else { return };
        sessions.remove(&by.session);
        if !sessions.is_empty() {
            return;
        }
        self.recovering.remove(&by.place);
        let keys: Vec<_> = self.files.keys().filter(|(place, _)| *place == by.place).copied().collect();
        for key in keys {
            self.tell(key, now);
            // Those who did not want to wait are to hear what is in their way.
            while let Some(waiter) = self.take_waiter(key, 0) {
                // Whoever does not listen any more has left.
                let _gone = waiter.told.send(LockReply::Waiting(waiter.place));
            }
            self.tell(key, now);
        }
    }

    fn remove_waiters(&mut self, key: FileKey, which: impl Fn(&Waiter) -> bool) {
        while let Some(at) = self.files.get(&key).and_then(|file| file.waiting.iter().position(&which)) {
            drop(self.take_waiter(key, at));
        }
    }

    fn take_waiter(&mut self, key: FileKey, at: usize) -> Option<Waiter> {
        let file = self.files.get_mut(&key)?;
        if at >= file.waiting.len() {
            return None;
        }
        let waiter = file.waiting.remove(at);
        self.waits -= 1;
        if let Some(session) = self.sessions.get_mut(&waiter.owner.session) {
            session.waits = session.waits.saturating_sub(1);
        }
        if let Some(keys) = self.waiting.get_mut(&waiter.owner) {
            if let Some(found) = keys.iter().position(|other| *other == key) {
                keys.swap_remove(found);
            }
            if keys.is_empty() {
                self.waiting.remove(&waiter.owner);
            }
        }
        Some(waiter)
    }
}

impl FileLocks {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty() && self.claims.is_empty()
    }

    fn has(&self, session: SessionId) -> bool {
        self.held.keys().any(|(_, owner)| owner.session == session)
            || self.claims.iter().any(|claim| claim.owner.session == session)
    }

    /// The first lock of someone else that keeps an owner from a lock.
    fn conflict(&self, owner: Owner, lock: &Lock) -> Option<(Owner, LockPiece)> {
        let others = self.held.iter().filter(|((kind, other), _)| *kind == lock.kind && *other != owner);
        let found =
            others.filter_map(|((_, other), held)| Some((*other, *held.conflict(&lock.range, lock.lock_type)?)));
        found.min_by_key(|(_, piece)| piece.range.start)
    }

    /// A claim of someone else that keeps an owner from a lock.
    fn claimed(&self, owner: Owner, lock: &Lock) -> Option<(Owner, LockPiece)> {
        let found = self.claims.iter().find(|claim| claim.owner != owner && excludes(&claim.lock, lock))?;
        let Lock { range, lock_type, pid, .. } = found.lock;
        Some((found.owner, LockPiece { range, lock_type, pid }))
    }

    fn first_ready(&self) -> Option<usize> {
        let free = |waiter: &Waiter| {
            self.conflict(waiter.owner, &waiter.lock).is_none() && self.claimed(waiter.owner, &waiter.lock).is_none()
        };
        self.waiting.iter().position(free)
    }
}

fn excludes(one: &Lock, other: &Lock) -> bool {
    one.kind == other.kind
        && one.range.overlaps(&other.range)
        && (one.lock_type == LockType::Exclusive || other.lock_type == LockType::Exclusive)
}

fn is_same(one: &Lock, other: &Lock) -> bool {
    (one.kind, one.range, one.lock_type) == (other.kind, other.range, other.lock_type)
}

fn seen_by(session: SessionId, holder: Owner, piece: LockPiece) -> HeldLock {
    let LockPiece { range, lock_type, pid } = piece;
    HeldLock { range, lock_type, pid: (holder.session == session).then_some(pid) }
}

fn within(what: &str, wanted: usize, limit: usize) -> MetaResult<()> {
    if wanted <= limit {
        return Ok(());
    }
    Err(MetaError::NoLocks(format!("more than {limit} {what}; give some back first")))
}

fn stale() -> MetaError {
    MetaError::Unavailable("the session's locks were told on a newer connection, or are yet to be told".into())
}
