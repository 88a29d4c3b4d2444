//! What every store must do, by the trait alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use nokvfs_object::{ObjectError, ObjectStore};

/// Runs the whole suite; the store must be empty.
pub(crate) async fn run(store: Arc<dyn ObjectStore>) {
    bodies(&*store).await;
    ranges(&*store).await;
    missing(&*store).await;
    nested_keys(&*store).await;
    races(&store).await;
    listings(&*store).await;
    limits(&*store).await;
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect::<Vec<_>>().into()
}

async fn bodies(store: &dyn ObjectStore) {
    for len in [0, 1, 4096, 300_000, 1 << 20, 4 << 20, (4 << 20) + 1] {
        let key = format!("bodies/{len}");
        store.put(&key, pattern(len)).await.expect("put");
        assert!(store.get(&key, None).await.expect("get") == pattern(len), "{len}");
        assert_eq!(store.head(&key).await.expect("head").len, len as u64);
    }
    store.put("bodies/1", Bytes::from_static(b"replaced")).await.expect("replace");
    assert_eq!(store.get("bodies/1", None).await.expect("get"), "replaced");
}

async fn ranges(store: &dyn ObjectStore) {
    let body = pattern(3 << 20);
    store.put("range", body.clone()).await.expect("put");
    for range in [0..1, 5..10, 0..3 << 20, 1 << 20..(2 << 20) + 7, (3 << 20) - 1..3 << 20] {
        let read = store.get("range", Some(range.clone())).await.expect("get");
        assert!(read == body[range.start as usize..range.end as usize], "{range:?}");
    }
    let over = store.get("range", Some((3 << 20) - 2..9 << 20)).await.expect("beyond the end");
    assert_eq!(over, body[(3 << 20) - 2..]);
    for range in [3 << 20..4 << 20, 7 << 20..8 << 20, 5..5] {
        let refused = store.get("range", Some(range.clone())).await;
        assert!(matches!(refused, Err(ObjectError::Invalid(_))), "{range:?}: {refused:?}");
    }
}

async fn missing(store: &dyn ObjectStore) {
    assert!(matches!(store.get("no", None).await, Err(ObjectError::NotFound(_))));
    assert!(matches!(store.get("no", Some(0..4)).await, Err(ObjectError::NotFound(_))));
    assert!(matches!(store.head("no").await, Err(ObjectError::NotFound(_))));
    store.delete(&["no".to_owned()]).await.expect("absent is deleted");
    store.delete(&[]).await.expect("nothing to delete");
    store.put("there", Bytes::from_static(b"x")).await.expect("put");
    store.delete(&["no".to_owned(), "there".to_owned(), "nor".to_owned()]).await.expect("some are there");
    assert!(matches!(store.head("there").await, Err(ObjectError::NotFound(_))));
}

async fn nested_keys(store: &dyn ObjectStore) {
    let long = format!("long/{}/end", ["part"; 100].join("/"));
    let keys = ["nest/a b", "nest/a+b", "nest/a%2Fb", "nest/b-_.~!'()*", &long];
    for key in keys {
        store.put(key, Bytes::copy_from_slice(key.as_bytes())).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    for key in keys {
        assert_eq!(store.get(key, None).await.expect("get"), key);
    }
    let listed = store.list("nest/", None, 100).await.expect("list");
    assert_eq!(listed.objects.len(), 4, "{listed:?}");
    store.delete(&keys.map(str::to_owned)).await.expect("delete");
    assert!(store.list("nest/", None, 100).await.expect("list").objects.is_empty());
}

async fn races(store: &Arc<dyn ObjectStore>) {
    for round in 0..10 {
        let key = format!("race/{round}");
        let racers = (0..8u8).map(|racer| {
            let (store, key) = (Arc::clone(store), key.clone());
            tokio::spawn(async move { store.put_if_absent(&key, Bytes::from(vec![racer; 1000])).await })
        });
        let mut winners = Vec::new();
        for (racer, done) in futures::future::join_all(racers).await.into_iter().enumerate() {
            if done.expect("no panic").expect("put_if_absent") {
                winners.push(racer as u8);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(store.get(&key, None).await.expect("get"), vec![winners[0]; 1000]);
    }
}

async fn listings(store: &dyn ObjectStore) {
    let keys: BTreeSet<String> = (0..250).map(|n| format!("list/{:02x}/{n}", n % 16)).collect();
    futures::future::join_all(keys.iter().map(|key| store.put(key, Bytes::from_static(b"abc")))).await;
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list("list/", after.as_deref(), 64).await.expect("list");
        assert!(page.objects.len() <= 64 && page.objects.iter().all(|object| object.len == 3));
        seen.extend(page.objects.iter().map(|object| object.key.clone()));
        if !page.more {
            break;
        }
        after = seen.last().cloned();
    }
    assert_eq!(seen, keys.into_iter().collect::<Vec<_>>());
    assert_eq!(store.list("list/0f/", None, 1000).await.expect("list").objects.len(), 15);
    assert!(store.list("list/zz", None, 10).await.expect("list").objects.is_empty());
    store.delete(&seen).await.expect("delete");
    assert!(store.list("list/", None, 10).await.expect("list").objects.is_empty());
}

async fn limits(store: &dyn ObjectStore) {
    let long = "k".repeat(1025);
    for key in ["", "a\nb", long.as_str()] {
        assert!(matches!(store.put(key, Bytes::new()).await, Err(ObjectError::Invalid(_))), "{key:?}");
    }
    for limit in [0, 1001] {
        assert!(matches!(store.list("", None, limit).await, Err(ObjectError::Invalid(_))));
    }
    let many = vec!["k".to_owned(); 1001];
    assert!(matches!(store.delete(&many).await, Err(ObjectError::Invalid(_))));
}
