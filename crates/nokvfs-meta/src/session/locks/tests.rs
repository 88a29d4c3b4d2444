//! The table of locks, against a model that keeps each byte, and one by one.

use std::time::{Duration, Instant};

use nokvfs_types::{
    HeldLock, InodeId, Lock, LockKind, LockOwner, LockPlace, LockRange, LockReply, LockType, MetaError, MountId, OpId,
    SessionId,
};
use proptest::prelude::*;

use super::{By, CLAIM, FILE_LOCKS, SESSION_WAITS, Table, Waiting};

const FILE: InodeId = InodeId(7);
const ONE: By = By { place: (MountId(1), None), session: SessionId(1) };
const TWO: By = By { place: (MountId(1), None), session: SessionId(2) };

fn table() -> (Table, Instant) {
    let (mut table, now) = (Table::new(), Instant::now());
    table.begin(ONE, now);
    table.begin(TWO, now);
    (table, now)
}

fn lock(owner: u64, start: u64, end: u64, lock_type: LockType) -> Lock {
    let (kind, range) = (LockKind::Posix, LockRange { start, end });
    Lock { inode: FILE, owner: LockOwner(owner), kind, range, lock_type, pid: owner as u32 * 100 }
}

fn exclusive(owner: u64, start: u64, end: u64) -> Lock {
    lock(owner, start, end, LockType::Exclusive)
}

fn shared(owner: u64, start: u64, end: u64) -> Lock {
    lock(owner, start, end, LockType::Shared)
}

fn unlock(owner: u64, start: u64, end: u64) -> Lock {
    lock(owner, start, end, LockType::Unlock)
}

fn flock(owner: u64, lock_type: LockType) -> Lock {
    Lock { kind: LockKind::Flock, range: LockRange::WHOLE, ..lock(owner, 0, 0, lock_type) }
}

fn set(table: &mut Table, by: By, lock: Lock, now: Instant) -> LockReply {
    table.set(by, 1, &lock, now).expect("no limit is near")
}

fn is_held(reply: LockReply) -> bool {
    matches!(reply, LockReply::Held(_))
}

fn wait(table: &mut Table, by: By, lock: Lock, op: u64, place: Option<LockPlace>, now: Instant) -> Waiting {
    table.wait(by, 1, (&lock, OpId(op)), place, now).expect("may wait")
}

fn told(waiting: &mut Waiting) -> Option<LockReply> {
    waiting.told.try_recv().ok()
}

#[test]
fn whoever_waited_first_is_told_first_and_nobody_overtakes() {
    let (mut table, now) = table();
    assert_eq!(set(&mut table, ONE, exclusive(1, 0, 99), now), LockReply::Done);
    let mut first = wait(&mut table, TWO, exclusive(1, 0, 9), 1, None, now);
    let mut second = wait(&mut table, TWO, exclusive(2, 0, 9), 2, None, now);
    let mut aside = wait(&mut table, ONE, exclusive(3, 50, 59), 3, None, now);
    // The first leaves for a moment, as between two requests, and comes back to its place.
    table.leave((ONE.place, FILE), first.id, now);
    first = wait(&mut table, TWO, exclusive(1, 0, 9), 1, Some(first.place), now);
    assert_eq!((told(&mut first), told(&mut second), told(&mut aside)), (None, None, None));
    set(&mut table, ONE, unlock(1, 0, 49), now);
    assert_eq!((told(&mut first), told(&mut second), told(&mut aside)), (Some(LockReply::Done), None, None));
    // Its claim keeps others off, and it alone.
    assert!(is_held(set(&mut table, ONE, exclusive(1, 5, 5), now)));
    assert_eq!(table.test(ONE, &exclusive(1, 5, 5)), LockReply::Done, "a claim is no lock");
    assert_eq!(set(&mut table, TWO, exclusive(1, 0, 9), now), LockReply::Done);
    set(&mut table, TWO, unlock(1, 0, LockRange::MAX), now);
    assert_eq!(told(&mut second), Some(LockReply::Done));
    // Who does not come loses the claim.
    assert!(is_held(set(&mut table, ONE, exclusive(9, 0, 9), now)));
    let later = now + CLAIM + Duration::from_millis(1);
    assert_eq!(set(&mut table, ONE, exclusive(9, 0, 9), later), LockReply::Done);
    set(&mut table, ONE, unlock(1, 0, LockRange::MAX), later);
    assert_eq!(told(&mut aside), Some(LockReply::Done));
}

#[test]
fn readers_are_told_together_and_who_gave_up_is_not() {
    let (mut table, now) = table();
    set(&mut table, ONE, exclusive(1, 0, 9), now);
    let mut readers: Vec<_> = (10..14).map(|op| wait(&mut table, TWO, shared(op, 0, 9), op, None, now)).collect();
    table.forget(TWO, FILE, OpId(11), now);
    drop(readers.remove(2));
    set(&mut table, ONE, unlock(1, 0, 9), now);
    let heard: Vec<_> = readers.iter_mut().map(told).collect();
    assert_eq!(heard, [Some(LockReply::Done), None, Some(LockReply::Done)]);
    // Neither the one that gave up nor the one that is gone claims anything.
    table.forget(TWO, FILE, OpId(10), now);
    table.forget(TWO, FILE, OpId(13), now);
    assert_eq!(set(&mut table, ONE, exclusive(1, 0, 9), now), LockReply::Done);
}

#[test]
fn circles_are_found_over_any_number_of_owners_and_both_sessions() {
    let (mut table, now) = table();
    let owners = [(ONE, 1), (TWO, 1), (ONE, 2), (TWO, 2)];
    for (at, (by, owner)) in owners.iter().enumerate() {
        let at = at as u64;
        assert_eq!(set(&mut table, *by, exclusive(*owner, at, at), now), LockReply::Done);
    }
    let mut waits = Vec::new();
    for (at, (by, owner)) in owners.iter().enumerate().take(3) {
        let next = at as u64 + 1;
        waits.push(wait(&mut table, *by, shared(*owner, next, next), next, None, now));
    }
    let last = table.wait(TWO, 1, (&exclusive(2, 0, 0), OpId(9)), None, now);
    assert_eq!(last.map(drop), Err(MetaError::Deadlock));
    // The other family knows no owners that wait, and a circle that is broken is none.
    let lock = flock(2, LockType::Exclusive);
    assert!(table.wait(TWO, 1, (&lock, OpId(10)), None, now).is_ok());
    table.forget(TWO, FILE, OpId(2), now);
    assert!(table.wait(TWO, 1, (&exclusive(2, 0, 0), OpId(9)), None, now).is_ok());
}

#[test]
fn two_who_hold_it_shared_and_want_it_alone_are_a_circle_unless_it_is_flock() {
    let (mut table, now) = table();
    set(&mut table, ONE, shared(1, 0, 9), now);
    set(&mut table, TWO, shared(1, 0, 9), now);
    let mut upgrade = wait(&mut table, ONE, exclusive(1, 0, 9), 1, None, now);
    assert_eq!(table.wait(TWO, 1, (&exclusive(1, 0, 9), OpId(2)), None, now).map(drop), Err(MetaError::Deadlock));
    set(&mut table, TWO, unlock(1, 0, 9), now);
    assert_eq!(told(&mut upgrade), Some(LockReply::Done));
    // What it had is there until the new lock is.
    assert!(is_held(table.test(TWO, &exclusive(1, 0, 9))));

    for by in [ONE, TWO] {
        assert_eq!(set(&mut table, by, flock(5, LockType::Shared), now), LockReply::Done);
    }
    assert!(is_held(set(&mut table, ONE, flock(5, LockType::Exclusive), now)));
    let mut first = wait(&mut table, ONE, flock(5, LockType::Exclusive), 3, None, now);
    assert!(is_held(set(&mut table, TWO, flock(5, LockType::Exclusive), now)), "the first one's claim");
    assert_eq!(told(&mut first), Some(LockReply::Done));
    assert_eq!(set(&mut table, ONE, flock(5, LockType::Exclusive), now), LockReply::Done);
}

#[test]
fn a_session_that_ends_leaves_nothing() {
    let (mut table, now) = table();
    set(&mut table, ONE, exclusive(1, 0, 9), now);
    set(&mut table, ONE, flock(1, LockType::Exclusive), now);
    let mut waiting = wait(&mut table, TWO, exclusive(1, 0, 0), 1, None, now);
    let mut of_one = wait(&mut table, ONE, flock(2, LockType::Shared), 2, None, now);
    table.end(ONE, now);
    assert_eq!((told(&mut waiting), told(&mut of_one)), (Some(LockReply::Done), None));
    assert!(matches!(table.set(ONE, 1, &exclusive(1, 50, 50), now), Err(MetaError::Unavailable(_))));
    table.end(TWO, now);
    assert!(table.files.is_empty() && table.sessions.is_empty() && table.waiting.is_empty(), "{table:?}");
    assert_eq!((table.pieces, table.waits), (0, 0));
}

#[test]
fn what_a_client_never_heard_of_goes_when_it_connects_again() {
    let (mut table, now) = table();
    set(&mut table, ONE, exclusive(1, 0, 9), now);
    set(&mut table, ONE, exclusive(2, 20, 29), now);
    table.sync(ONE, 2, &[exclusive(1, 0, 9)], now).expect("told");
    assert!(is_held(table.test(TWO, &shared(1, 9, 9))));
    assert_eq!(table.test(TWO, &shared(1, 20, 29)), LockReply::Done);
    // Requests of the connection before come too late, and so does what it told.
    assert!(matches!(table.set(ONE, 1, &exclusive(2, 20, 29), now), Err(MetaError::Unavailable(_))));
    assert!(matches!(table.set(ONE, 1, &unlock(1, 0, 9), now), Err(MetaError::Unavailable(_))));
    assert!(matches!(table.sync(ONE, 2, &[], now), Err(MetaError::Unavailable(_))));
    assert_eq!(table.set(ONE, 2, &exclusive(1, 30, 39), now), Ok(LockReply::Done));
    // One that is someone else's by now can't be had; then nothing of the session is left.
    set(&mut table, TWO, exclusive(1, 50, 50), now);
    let lost = table.sync(ONE, 3, &[exclusive(1, 0, 9), exclusive(1, 50, 59)], now);
    assert_eq!(lost, Err(MetaError::SessionExpired(ONE.session.0)));
    assert_eq!(table.test(TWO, &exclusive(1, 0, 49)), LockReply::Done);
}

#[test]
fn after_a_restart_nobody_gets_a_lock_until_all_have_told_theirs() {
    let (mut table, now) = (Table::new(), Instant::now());
    let other = By { place: (MountId(9), None), session: SessionId(9) };
    table.recover([ONE, TWO]);
    table.begin(other, now);
    assert_eq!(set(&mut table, other, exclusive(1, 0, 0), now), LockReply::Done, "another volume");
    let new = By { session: SessionId(3), ..ONE };
    table.begin(new, now);
    assert_eq!(set(&mut table, new, exclusive(1, 5, 5), now), LockReply::Recovering);
    assert_eq!(table.test(new, &exclusive(1, 5, 5)), LockReply::Recovering);
    assert_eq!(set(&mut table, new, unlock(1, 5, 5), now), LockReply::Done);
    let mut free = wait(&mut table, new, exclusive(1, 50, 50), 1, None, now);
    let mut taken = wait(&mut table, new, exclusive(1, 5, 5), 2, None, now);
    table.sync(ONE, 5, &[exclusive(1, 0, 9)], now).expect("told");
    assert_eq!(table.set(ONE, 5, &exclusive(1, 0, 9), now), Ok(LockReply::Recovering));
    assert_eq!((told(&mut free), told(&mut taken)), (None, None));
    // The other one ended instead.
    table.end(TWO, now);
    assert_eq!(told(&mut free), Some(LockReply::Done));
    assert_eq!(told(&mut taken), Some(LockReply::Waiting(taken.place)));
    assert!(is_held(set(&mut table, new, exclusive(1, 5, 5), now)));
    assert_eq!(set(&mut table, new, exclusive(1, 50, 50), now), LockReply::Done);
}

#[test]
fn limits_answer_no_locks_and_whole_files_can_always_be_unlocked() {
    let (mut table, now) = table();
    for at in 0..FILE_LOCKS as u64 {
        assert_eq!(set(&mut table, ONE, shared(1, at * 2, at * 2), now), LockReply::Done);
    }
    let beyond = FILE_LOCKS as u64 * 2 + 10;
    let answer = table.set(TWO, 1, &shared(1, beyond, beyond), now);
    assert!(matches!(answer, Err(MetaError::NoLocks(_))), "{answer:?}");
    // One more in the middle joins two and is none too many.
    assert_eq!(set(&mut table, ONE, shared(1, 1, 1), now), LockReply::Done);
    assert_eq!(set(&mut table, ONE, unlock(1, 0, LockRange::MAX), now), LockReply::Done);
    assert_eq!(table.pieces, 0);
    set(&mut table, ONE, exclusive(1, 0, 0), now);
    let waits: Vec<_> =
        (0..SESSION_WAITS as u64).map(|op| wait(&mut table, TWO, shared(op, 0, 0), op, None, now)).collect();
    let answer = table.wait(TWO, 1, (&shared(1, 0, 0), OpId(1 << 40)), None, now);
    assert!(matches!(answer.map(drop), Err(MetaError::NoLocks(_))));
    for waiting in &waits {
        table.leave((TWO.place, FILE), waiting.id, now);
    }
    assert_eq!((table.waits, table.waiting.len()), (0, 0));
}

#[test]
fn the_first_lock_in_the_way_is_told_with_its_process_only_here() {
    let (mut table, now) = table();
    set(&mut table, ONE, exclusive(1, 40, LockRange::MAX), now);
    set(&mut table, TWO, shared(2, 10, 19), now);
    let first = HeldLock { range: LockRange { start: 10, end: 19 }, lock_type: LockType::Shared, pid: None };
    assert_eq!(table.test(ONE, &exclusive(9, 0, 99)), LockReply::Held(first));
    assert_eq!(table.test(TWO, &exclusive(9, 0, 99)), LockReply::Held(HeldLock { pid: Some(200), ..first }));
    assert_eq!(table.test(ONE, &shared(1, 10, 99)), LockReply::Done, "its own is not in the way");
}

/// What each byte of a file is locked with, by owner.
type Model = [[Option<LockType>; BYTES as usize]; 3];
const BYTES: u64 = 12;

fn owners() -> [(By, u64); 3] {
    [(ONE, 1), (ONE, 2), (TWO, 1)]
}

/// The last byte of the model stands for all to the end.
fn real(at: u64) -> u64 {
    if at == BYTES - 1 { LockRange::MAX } else { at }
}

fn conflicts(model: &Model, who: usize, range: std::ops::RangeInclusive<u64>, lock_type: LockType) -> bool {
    range.into_iter().any(|at| {
        (0..3).filter(|other| *other != who).any(|other| match model[other][at as usize] {
            Some(held) => held == LockType::Exclusive || lock_type == LockType::Exclusive,
            None => false,
        })
    })
}

proptest! {
    #[test]
    fn every_byte_is_locked_as_in_the_model(
        ops in proptest::collection::vec((0usize..3, 0..BYTES, 0..BYTES, 0..3u8, any::<bool>()), 1..60),
    ) {
        let (mut table, now) = table();
        let mut model: Model = Default::default();
        for (who, a, b, what, only_ask) in ops {
            let (start, end) = (a.min(b), a.max(b));
            let lock_type = [LockType::Shared, LockType::Exclusive, LockType::Unlock][usize::from(what)];
            let (by, owner) = owners()[who];
            // The end of the last byte's neighbour is not the end of the file.
            let wanted = lock(owner, start, real(end), lock_type);
            let taken = lock_type != LockType::Unlock && conflicts(&model, who, start..=end, lock_type);
            if only_ask && lock_type != LockType::Unlock {
                prop_assert_eq!(is_held(table.test(by, &wanted)), taken);
                continue;
            }
            prop_assert_eq!(is_held(set(&mut table, by, wanted, now)), taken);
            if !taken {
                let held = (lock_type != LockType::Unlock).then_some(lock_type);
                model[who][start as usize..=end as usize].fill(held);
            }
            check(&table, &model)?;
        }
        for (by, owner) in owners() {
            set(&mut table, by, unlock(owner, 0, LockRange::MAX), now);
        }
        prop_assert!(table.files.is_empty());
        prop_assert_eq!(table.pieces, 0);
    }
}

/// The table's ranges, byte by byte; they are as few as can be.
fn check(table: &Table, model: &Model) -> Result<(), TestCaseError> {
    let file = table.files.get(&(ONE.place, FILE));
    let mut total = 0;
    for (who, (by, owner)) in owners().into_iter().enumerate() {
        let key = (LockKind::Posix, super::Owner { session: by.session, number: LockOwner(owner) });
        let pieces = file.and_then(|file| file.held.get(&key)).map_or(&[][..], |held| held.pieces());
        total += pieces.len();
        let mut bytes = [None; BYTES as usize];
        for piece in pieces {
            for (at, byte) in bytes.iter_mut().enumerate() {
                let at = at as u64;
                if piece.range.start <= at && real(at) <= piece.range.end {
                    prop_assert!(byte.is_none(), "ranges overlap");
                    *byte = Some(piece.lock_type);
                }
            }
        }
        prop_assert_eq!(&bytes, &model[who]);
        let runs = bytes.chunk_by(|a, b| a == b).filter(|run| run[0].is_some()).count();
        prop_assert_eq!(pieces.len(), runs);
    }
    prop_assert_eq!(table.pieces, total);
    Ok(())
}
