//! What a request costs. Prints figures; asserts only that all came back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokvfs_meta::service::MetadataService;
use nokvfs_types::InodeId;

use crate::backend::TestBackend;
use crate::{create, ctx, endpoint, open, options, start};

/// CPU time of this process, server and clients together.
fn cpu() -> Duration {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("tasks") {
        let path = task.expect("task").path().join("schedstat");
        // A thread may end in between.
        if let Ok(text) = std::fs::read_to_string(path) {
            total += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_pipeline() {
    const CLIENTS: u64 = 64;
    const EACH: u64 = 100;
    let backend = TestBackend::new();
    let volume = backend.add_volume("v");
    let server = start(&backend, options()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(open(endpoint(&server), &volume).await);
    }
    let (started, before) = (Instant::now(), cpu());
    let work = clients.iter().enumerate().map(|(number, service)| {
        let service = Arc::clone(service);
        tokio::spawn(async move {
            let calls = (0..EACH).map(|index| {
                let service = &service;
                async move { create(service, &format!("{number}-{index}"), index + 1, Duration::from_secs(30)).await }
            });
            futures::future::try_join_all(calls).await.map(|all| all.len())
        })
    });
    let work: Vec<_> = work.collect();
    for done in work {
        assert_eq!(done.await.expect("task").expect("create") as u64, EACH);
    }
    let count = (CLIENTS * EACH) as u32;
    println!("{count} mutations: {:?} each, CPU {:?} each", started.elapsed() / count, (cpu() - before) / count);
    let (started, before) = (Instant::now(), cpu());
    for _ in 0..1000 {
        clients[0].getattr(&ctx(1, Duration::from_secs(30)), InodeId::ROOT).await.expect("getattr");
    }
    println!("one client, one read at a time: {:?}, CPU {:?}", started.elapsed() / 1000, (cpu() - before) / 1000);
}
