//! Volumes with snapshots, clones and rollbacks, several at once: each shows what its own reference says, and objects
//! are there exactly as long as something names them.

mod stage;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::op::{Op, op};
use crate::runtime;
use stage::Stage;

#[derive(Clone, Debug)]
enum Step {
    On { branch: usize, op: Op },
    Pack { branch: usize, files: Vec<usize>, at: u64 },
    Grow { branch: usize, file: usize, at: u64 },
    Settle { branch: usize },
    NewVolume,
    Snapshot { branch: usize },
    CloneSnapshot { snapshot: usize },
    CloneVolume { branch: usize },
    Rollback { branch: usize, snapshot: usize },
    DeleteSnapshot { snapshot: usize },
    DeleteVolume { branch: usize },
    Restart { resume: bool },
    Read { snapshot: usize },
    Compare { branch: usize },
    Remount { branch: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0..1000usize;
    prop_oneof![
        60 => (which(), op()).prop_map(|(branch, op)| Step::On { branch, op }),
        6 => (which(), vec(which(), 1..4), 0..60u64).prop_map(|(branch, files, at)| Step::Pack { branch, files, at }),
        5 => (which(), which(), 0..1000u64).prop_map(|(branch, file, at)| Step::Grow { branch, file, at }),
        2 => which().prop_map(|branch| Step::Settle { branch }),
        1 => Just(Step::NewVolume),
        7 => which().prop_map(|branch| Step::Snapshot { branch }),
        3 => which().prop_map(|snapshot| Step::CloneSnapshot { snapshot }),
        3 => which().prop_map(|branch| Step::CloneVolume { branch }),
        3 => (which(), which()).prop_map(|(branch, snapshot)| Step::Rollback { branch, snapshot }),
        4 => which().prop_map(|snapshot| Step::DeleteSnapshot { snapshot }),
        3 => which().prop_map(|branch| Step::DeleteVolume { branch }),
        1 => any::<bool>().prop_map(|resume| Step::Restart { resume }),
        3 => which().prop_map(|snapshot| Step::Read { snapshot }),
        3 => which().prop_map(|branch| Step::Compare { branch }),
        2 => which().prop_map(|branch| Step::Remount { branch }),
    ]
}

async fn run(stage: &mut Stage, step: Step) {
    let branches = stage.branches.len();
    let snapshots = stage.snapshots.len();
    match step {
        Step::NewVolume => return stage.new_volume().await,
        Step::Restart { resume } => return stage.restart(resume).await,
        Step::CloneSnapshot { snapshot } if snapshots > 0 => stage.clone_snapshot(snapshot % snapshots).await,
        Step::DeleteSnapshot { snapshot } if snapshots > 0 => stage.delete_snapshot(snapshot % snapshots).await,
        Step::Read { snapshot } if snapshots > 0 => stage.read(snapshot % snapshots).await,
        _ if branches == 0 => {}
        Step::On { branch, op } => stage.change(branch % branches, &op).await,
        Step::Pack { branch, files, at } => stage.branches[branch % branches].pair.pack(&files, at).await,
        Step::Grow { branch, file, at } => stage.branches[branch % branches].pair.grow(file, at).await,
        Step::Settle { branch } => stage.branches[branch % branches].pair.settle().await,
        Step::Snapshot { branch } => stage.snapshot(branch % branches).await,
        Step::CloneVolume { branch } => stage.clone_volume(branch % branches).await,
        Step::Rollback { branch, snapshot } => stage.roll_back(branch % branches, snapshot).await,
        Step::DeleteVolume { branch } => stage.delete_volume(branch % branches).await,
        Step::Compare { branch } => stage.branches[branch % branches].pair.compare().await,
        Step::Remount { branch } => stage.remount(branch % branches).await,
        _ => {}
    }
}

fn check(steps: &[Step], order: &[usize]) {
    runtime().block_on(async {
        let mut stage = Stage::new().await;
        for step in steps {
            run(&mut stage, step.clone()).await;
            stage.nothing_is_missing();
        }
        for snapshot in 0..stage.snapshots.len() {
            stage.read(snapshot).await;
        }
        for branch in 0..stage.branches.len() {
            stage.branches[branch].pair.compare().await;
            stage.remount(branch).await;
        }
        stage.nothing_is_left_over().await;
        let mut order = order.iter().cycle();
        loop {
            let (branches, snapshots) = (stage.branches.len(), stage.snapshots.len());
            if branches + snapshots == 0 {
                break;
            }
            let next = order.next().unwrap() % (branches + snapshots);
            match next.checked_sub(branches) {
                None => stage.delete_volume(next).await,
                Some(snapshot) => stage.delete_snapshot(snapshot).await,
            }
            stage.nothing_is_missing();
        }
        stage.nothing_is_left_over().await;
        stage.no_record_is_left().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_are_what_their_references_are(steps in vec(step(), 30..160), order in vec(0..1000usize, 1..20)) {
        check(&steps, &order);
    }
}
