//! What is kept, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use sessiond::store::{Cache, Limits, Watcher};
use tokio::time::sleep;

/// One that is proved to be up to date.
fn cache(bytes: u64) -> Cache<Arc<str>> {
    let cache = Cache::new(Limits { bytes, max_staleness: Duration::from_secs(60) });
    cache.current(Instant::now());
    cache
}

/// As a resolve does it, from a store that takes 5 ms and is asked so many times.
async fn resolve(cache: &Cache<Arc<str>>, asked: &AtomicUsize) -> Arc<str> {
    if let Some(kept) = cache.get("a") {
        return kept;
    }
    let ticket = cache.ask("a").await;
    if let Some(kept) = cache.get("a") {
        return kept;
    }
    asked.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(5)).await;
    ticket.fill("value".into(), 5);
    "value".into()
}

#[tokio::test]
async fn of_many_callers_one_asks_the_store() {
    let (cache, asked) = (cache(1024 * 1024), AtomicUsize::new(0));
    let answers = join_all((0..100).map(|_| resolve(&cache, &asked))).await;
    assert!(answers.iter().all(|answer| &**answer == "value"));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn nobody_waits_for_a_caller_who_has_gone() {
    let (cache, asked) = (cache(1024 * 1024), AtomicUsize::new(0));
    let mut first = Box::pin(resolve(&cache, &asked));
    assert!(first.as_mut().now_or_never().is_none());
    let began = Instant::now();
    let others = async {
        sleep(Duration::from_millis(1)).await;
        drop(first);
    };
    let (answer, ()) = tokio::join!(resolve(&cache, &asked), others);
    assert_eq!((&*answer, asked.load(Ordering::Relaxed)), ("value", 2));
    assert!(began.elapsed() < Duration::from_millis(90), "it waited {:?}", began.elapsed());
}

#[tokio::test]
async fn before_any_proof_nothing_is_given_out_and_nobody_waits() {
    let cache = Cache::<Arc<str>>::new(Limits { bytes: 1024 * 1024, max_staleness: Duration::from_secs(60) });
    let asked = AtomicUsize::new(0);
    join_all((0..10).map(|_| resolve(&cache, &asked))).await;
    assert_eq!((asked.load(Ordering::Relaxed), cache.get("a")), (10, None));
}

#[tokio::test]
async fn no_more_bytes_are_kept_than_allowed() {
    let cache = cache(1024 * 1024);
    for n in 0..20_000 {
        cache.ask(&n.to_string()).await.fill("value".into(), 500);
        assert!(cache.bytes() <= 1024 * 1024);
    }
    let kept = (0..20_000).filter(|n: &usize| cache.get(&n.to_string()).is_some()).count();
    assert!((1_000..=2_000).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_doubt_forgets_what_is_kept_and_refuses_what_was_read() {
    let cache = cache(1024 * 1024);
    cache.ask("a").await.fill("value".into(), 5);
    assert!(cache.get("a").is_some());
    let ticket = cache.ask("b").await;
    cache.doubt();
    ticket.fill("value".into(), 5);
    cache.current(Instant::now());
    assert_eq!((cache.get("a"), cache.get("b")), (None, None));
}

#[tokio::test]
async fn a_change_is_of_one_entry() {
    let cache = cache(1024 * 1024);
    for id in ["a", "b"] {
        cache.ask(id).await.fill("value".into(), 5);
    }
    let ticket = cache.ask("a").await;
    cache.changed("a");
    ticket.fill("old".into(), 3);
    assert_eq!((cache.get("a"), cache.get("b").as_deref()), (None, Some("value")));
}
