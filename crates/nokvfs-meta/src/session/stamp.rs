//! Carrying a mutation out, exactly once.

use std::sync::Arc;

use nokvfs_failpoint::failpoint;
use nokvfs_types::{Ack, Applied, Caller, MetaError, MountId, Mutation, OpId, Stamp, VolumeState};

use super::{ENDED, Live, SLOTS, slot_key};
use crate::commit::Txn;
use crate::engine::Core;
use crate::layout::{Key, SessionRecord, SlotRecord, VolumeRecord, decode_reply, encode_reply};
use crate::plan::{Outcome, Plan, Target, Writer};
use crate::service::MetaResult;

impl Core {
    pub(crate) async fn mutate(
        self: &Arc<Self>,
        stamp: Stamp,
        caller: Caller,
        mutation: Mutation,
    ) -> MetaResult<Applied> {
        let live = self.sessions.check(stamp.session, stamp.generation)?;
        if live.read_only {
            return Err(MetaError::ReadOnly);
        }
        if stamp.slot >= SLOTS {
            return Err(MetaError::Invalid(format!("slot {} of {SLOTS}", stamp.slot)));
        }
        // The kernel holds the directory's lock meanwhile.
        let urgent = matches!(mutation, Mutation::Create { ack: Ack::Early, .. });
        let request = Arc::new((caller, mutation));
        // A caller that gives up does not hear of the orphan that it made.
        let mut unheard = Unheard { core: self, mount: live.mount, heard: !may_orphan(&request.1) };
        loop {
            let (core, live, request) = (Arc::clone(self), Arc::clone(&live), Arc::clone(&request));
            let plan = move |txn: &mut Txn<'_>| core.plan_once(txn, &live, &stamp, &request.0, &request.1);
            let submitted = self.committer.submit_early(plan, |outcome| outcome.early_after, urgent).await;
            unheard.heard |= !matches!(submitted, Err(MetaError::Unavailable(_)));
            let outcome = submitted?;
            failpoint!("mutate.done");
            if let Some(inode) = outcome.orphaned {
                self.orphans.add(unheard.mount, inode);
            }
            if outcome.garbage {
                self.wake.garbage.notify_one();
            }
            if !outcome.more {
                return outcome.reply;
            }
        }
    }

    /// Plans a request unless it is answered already; keeps the answer.
    fn plan_once(
        &self,
        txn: &mut Txn<'_>,
        live: &Live,
        stamp: &Stamp,
        caller: &Caller,
        mutation: &Mutation,
    ) -> MetaResult<Outcome> {
        let mut session = session_of(txn, stamp)?;
        let key = slot_key(stamp);
        if let Some(slot) = txn.get::<SlotRecord>(&key)?
            && slot.generation == stamp.generation
            && slot.sequence >= stamp.sequence
        {
            return repeated(&slot, stamp);
        }
        let outcome = match live.inherited.get(&stamp.op).filter(|_| stamp.op != OpId(0)) {
            Some(reply) => answered(decode_reply(reply)?),
            None => {
                let target = active(txn, session.mount)?;
                let mut plan = Plan::new(txn, target, caller, &self.server.hash_secret, &self.allocators);
                match mutation {
                    Mutation::ReserveUploads { count, settled } => {
                        let from = session.uploads.first().map_or(*settled, |(first, _)| *first);
                        let settled = plan.drop_packs(stamp.session, from, *settled)?;
                        let granted =
                            super::uploads::reserve(plan.txn(), stamp.session, &mut session, *count, settled)?;
                        plan.finish(Ok(granted))?
                    }
                    _ => plan.writer(Writer { session: stamp.session, uploads: &session.uploads }).run(mutation)?,
                }
            }
        };
        if !outcome.more {
            let reply = encode_reply(&outcome.reply).into();
            let slot = SlotRecord { generation: stamp.generation, sequence: stamp.sequence, op: stamp.op, reply };
            txn.put(&key, &slot)?;
            failpoint!("mutate.answer_kept");
        }
        Ok(outcome)
    }
}

/// A command whose end its caller may never hear of.
struct Unheard<'c> {
    core: &'c Core,
    mount: MountId,
    heard: bool,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if !self.heard {
            self.core.orphans.missed(self.mount);
        }
    }
}

fn may_orphan(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Unlink { .. } | Mutation::Rmdir { .. } | Mutation::Rename { .. })
}

/// The session of a stamp, if it is still that generation's.
fn session_of(txn: &mut Txn<'_>, stamp: &Stamp) -> MetaResult<SessionRecord> {
    let expired = MetaError::SessionExpired(stamp.session.0);
    let session: SessionRecord = txn.get(&Key::Session(stamp.session))?.ok_or_else(|| expired.clone())?;
    match session.generation {
        ENDED => Err(expired),
        generation if generation > stamp.generation => Err(MetaError::Superseded(generation)),
        generation if generation < stamp.generation => Err(expired),
        _ => Ok(session),
    }
}

/// The volume, unless it is being deleted.
fn active(txn: &mut Txn<'_>, mount: MountId) -> MetaResult<Target> {
    let record: VolumeRecord = txn.get(&Key::Volume(mount))?.ok_or(MetaError::NotFound)?;
    match record.state {
        VolumeState::Active => Ok(Target::new(mount, &record)),
        VolumeState::Hidden | VolumeState::Deleting => {
            Err(MetaError::Busy("the volume was deleted or rolled back; open a new session".into()))
        }
    }
}

fn answered(reply: MetaResult<Applied>) -> Outcome {
    Outcome { reply, orphaned: None, garbage: false, more: false, early_after: None }
}

/// What a slot that has got this far says to a request.
fn repeated(slot: &SlotRecord, stamp: &Stamp) -> MetaResult<Outcome> {
    if slot.sequence > stamp.sequence {
        return Err(MetaError::Invalid(format!(
            "request {} of slot {} came after request {}; its client does not wait for it any more",
            stamp.sequence, stamp.slot, slot.sequence
        )));
    }
    if slot.op != stamp.op {
        return Err(MetaError::Invalid(format!(
            "request {} of slot {} was another operation; this is a bug of the client, report it",
            stamp.sequence, stamp.slot
        )));
    }
    Ok(answered(decode_reply(&slot.reply)?))
}
