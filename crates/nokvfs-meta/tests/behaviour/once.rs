//! Requests that arrive twice, at once, late and at the server's successor.

use nokvfs_meta::service::SessionService;
use nokvfs_types::{
    Applied, InodeId, MetaError, Mutation, Name, OpId, RenameMode, SessionGrant, SessionRequest, SetAttr, Stamp,
    XattrMode,
};

use crate::{ROOT, World, caller, dir, file, name, request, unlink};

fn stamp(grant: &SessionGrant, slot: u16, sequence: u64, op: u64) -> Stamp {
    Stamp { session: grant.session, generation: grant.generation, slot, sequence, op: OpId(op) }
}

fn rename(from: &str, to: &str) -> Mutation {
    let (name, new_name): (Name, Name) = (name(from), name(to));
    Mutation::Rename { parent: ROOT, name, new_parent: ROOT, new_name, mode: RenameMode::Replace }
}

/// None of them does the same a second time.
fn requests(first: InodeId) -> Vec<Mutation> {
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    vec![
        dir(ROOT, "d"),
        Mutation::Link { inode: first, parent: ROOT, name: name("second") },
        rename("a", "b"),
        Mutation::SetXattr { inode: first, name: "user.x".into(), value: "1".into(), mode: XattrMode::Create },
        Mutation::RemoveXattr { inode: first, name: "user.x".into() },
        Mutation::SetAttr { inode: first, set },
        unlink(ROOT, "second"),
        Mutation::Rmdir { parent: ROOT, name: name("d") },
        Mutation::ReserveUploads { count: 10, settled: nokvfs_types::UploadId(0) },
        unlink(ROOT, "b"),
    ]
}

#[tokio::test]
async fn doubles_take_effect_once_and_get_one_answer() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let grant = world.engine.open_session(request(&volume)).await.expect("opened");
    let first = world.engine.mutate(stamp(&grant, 0, 1, 1), caller(), file(ROOT, "a")).await.expect("made");
    let Applied::Entry { attr, .. } = first else { panic!("{first:?}") };
    for (number, mutation) in (2..).zip(requests(attr.inode)) {
        let send = || world.engine.mutate(stamp(&grant, 0, number, number), caller(), mutation.clone());
        let (one, two) = tokio::join!(send(), send());
        assert!(one.is_ok(), "{mutation:?}: {one:?}");
        assert_eq!(one, two, "{mutation:?}");
        assert_eq!(send().await, one, "late: {mutation:?}");
        if number % 3 == 0 {
            world.restart().await;
            let again = world.engine.mutate(stamp(&grant, 0, number, number), caller(), mutation.clone()).await;
            assert_eq!(again, one, "after a restart: {mutation:?}");
        }
        // The one before is over, and another operation with the same number is none of it.
        let old = world.engine.mutate(stamp(&grant, 0, number - 1, number - 1), caller(), file(ROOT, "old")).await;
        assert!(matches!(old, Err(MetaError::Invalid(_))), "{old:?}");
        let other = world.engine.mutate(stamp(&grant, 0, number, 999), caller(), file(ROOT, "other")).await;
        assert!(matches!(other, Err(MetaError::Invalid(_))), "{other:?}");
    }
    world.engine.close_session(grant.session, 1).await.expect("closed");
    crate::until("only the root is left", async || world.usage(&volume).await == (0, 1)).await;
    world.engine.close().await.expect("closed");
}

#[tokio::test]
async fn a_take_over_in_the_middle_of_a_request_settles_it_once() {
    let world = World::new().await;
    let volume = world.volume().await;
    let mut grant = world.engine.open_session(request(&volume)).await.expect("opened");
    for round in 0..30u64 {
        let text = format!("file {round}");
        let op = round + 1;
        let resume = SessionRequest { resume: Some((grant.session, grant.generation)), ..request(&volume) };
        let old = world.engine.mutate(stamp(&grant, 7, 1, op), caller(), file(ROOT, &text));
        let (old, next) = if round % 2 == 0 {
            tokio::join!(old, world.engine.open_session(resume))
        } else {
            let (next, old) = tokio::join!(world.engine.open_session(resume), old);
            (old, next)
        };
        grant = next.expect("taken over");
        // The successor asks for every operation that its predecessor had under way.
        let settled = world.engine.mutate(stamp(&grant, 3, 1, op), caller(), file(ROOT, &text)).await.expect("settled");
        match old {
            Ok(answer) => assert_eq!(answer, settled, "round {round}"),
            Err(error) => assert!(matches!(error, MetaError::Superseded(_)), "round {round}: {error:?}"),
        }
    }
    assert_eq!(world.usage(&volume).await, (0, 31));
    world.engine.close().await.expect("closed");
}
