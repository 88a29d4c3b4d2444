//! Random operations on engines and on references of them: every answer, the whole tree and all objects must agree.
//!
//! `NOKV_TEST_CASES` sets how many histories are tried, `NOKV_TEST_OPS` how long the longest is.
#![cfg(feature = "holt")]

mod op;
mod pair;
mod reference;
mod versions;
mod view;
mod world;

use nokvfs_meta::service::MetadataService;
use proptest::collection::vec;
use proptest::prelude::*;

use op::{Op, op};
use pair::Pair;
use reference::UNIT;
use world::World;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn check(ops: &[Op], quota: (u64, u64)) {
    runtime().block_on(async {
        let world = World::new().await;
        let mut pair = Pair::new(&world, "model", quota).await;
        for (number, op) in ops.iter().enumerate() {
            pair.run(op).await;
            if number % 32 == 31 {
                pair.compare().await;
            }
        }
        pair.compare().await;
        pair.compare_rest().await;
        pair.service.close().await.unwrap();
        world.engine.close().await.unwrap();
    });
}

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

fn config() -> ProptestConfig {
    let cases = setting("NOKV_TEST_CASES", 150) as u32;
    ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() }
}

fn history() -> impl Strategy<Value = Vec<Op>> {
    let most = setting("NOKV_TEST_OPS", 100);
    vec(op(), most / 5..=most)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_engine_is_what_its_reference_is(ops in history()) {
        check(&ops, (0, 0));
    }

    #[test]
    fn quotas_are_exact(ops in history()) {
        check(&ops, (150 * UNIT, 12));
    }
}
