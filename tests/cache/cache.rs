//! The cache by itself: who asks, what is kept, and how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sessiond::cache::{Cache, Limits};
use sessiond::clock::BootInstant;
use sessiond::store::Watcher;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// So long that it plays no part.
const AGES: Duration = Duration::from_secs(600);
/// What a cache counts for an entry at the most, besides what its caller says that it takes.
const OVERHEAD: u64 = 256;

fn cache(bytes: u64) -> Arc<Cache<usize>> {
    let cache = Cache::new(Limits { bytes, max_staleness: AGES });
    cache.current(BootInstant::now());
    Arc::new(cache)
}

async fn keep(cache: &Cache<usize>, id: &str, value: usize, bytes: usize) {
    cache.ask(id).await.fill(value, bytes);
}

/// What a caller does, with a store that takes `takes` and counts how often it is asked.
async fn look(cache: Arc<Cache<usize>>, asked: Arc<AtomicUsize>, takes: Duration) -> usize {
    if let Some(kept) = cache.get("a") {
        return kept;
    }
    let ticket = cache.ask("a").await;
    if let Some(kept) = cache.get("a") {
        return kept;
    }
    let answer = asked.fetch_add(1, Ordering::Relaxed);
    sleep(takes).await;
    ticket.fill(answer, 0);
    answer
}

/// 32 callers at once; the clock goes on when all of them wait.
fn callers(cache: &Arc<Cache<usize>>, asked: &Arc<AtomicUsize>, takes: Duration) -> JoinSet<usize> {
    (0..32).map(|_| look(Arc::clone(cache), Arc::clone(asked), takes)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_caller_asks_and_the_others_are_given_its_answer() {
    let (cache, asked) = (cache(1 << 20), Arc::default());
    let answers = callers(&cache, &asked, Duration::from_millis(50)).join_all().await;
    assert_eq!(answers, [0; 32]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Another id is nobody's business.
    let first = cache.ask("b").await;
    timeout(Duration::ZERO, cache.ask("c")).await.unwrap();
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_long_for_another() {
    let (cache, asked) = (cache(1 << 20), Arc::default());
    let began = tokio::time::Instant::now();
    callers(&cache, &asked, Duration::from_secs(10)).join_all().await;
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
}

/// A caller who hangs up, or whose store fails.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_dropped_lets_the_others_on() {
    let (cache, asked) = (cache(1 << 20), Arc::<AtomicUsize>::default());
    let first = tokio::spawn(look(Arc::clone(&cache), Arc::clone(&asked), AGES));
    while asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let others = callers(&cache, &asked, Duration::ZERO);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "they wait");
    let dropped = tokio::time::Instant::now();
    first.abort();
    let answers = others.join_all().await;
    assert!(dropped.elapsed() < Duration::from_millis(50), "{:?}", dropped.elapsed());
    assert!(answers.iter().all(|answer| *answer > 0), "{answers:?}");
    assert!(cache.get("a").is_some());
    // Nobody is left whom the next one would wait for.
    cache.changed("a");
    let next = cache.ask("a").await;
    drop(next);
    timeout(Duration::ZERO, cache.ask("a")).await.unwrap();
}

#[tokio::test]
async fn without_a_proof_nothing_is_given_out_and_nobody_waits() {
    let cache = Cache::new(Limits { bytes: 1 << 20, max_staleness: AGES });
    let first = cache.ask("a").await;
    // Each has to ask for itself.
    let second = cache.ask("a").await;
    first.fill(1, 0);
    second.fill(2, 0);
    assert_eq!(cache.get("a"), None);
    cache.current(BootInstant::now());
    assert_eq!(cache.get("a"), Some(2));
    cache.current(BootInstant::now() - AGES);
    assert_eq!(cache.get("a"), None);
}

/// A machine that resumes has not heard of anything since it was suspended.
#[tokio::test]
async fn a_suspended_machine_resumes_with_nothing_fresh() {
    static SUSPENDED: AtomicU64 = AtomicU64::new(0);
    let clock = || BootInstant::now() + Duration::from_millis(SUSPENDED.load(Ordering::Relaxed));
    let cache = Cache::with_clock(Limits { bytes: 1 << 20, max_staleness: AGES }, clock);
    let told_at = clock();
    cache.current(told_at);
    keep(&cache, "a", 1, 0).await;
    SUSPENDED.fetch_add(300_000, Ordering::Relaxed);
    assert_eq!(cache.get("a"), Some(1), "for less than max-staleness");
    SUSPENDED.fetch_add(300_000, Ordering::Relaxed);
    assert_eq!(cache.get("a"), None);
    // What was proved before the suspend proves nothing now.
    cache.current(told_at);
    assert_eq!(cache.get("a"), None);
    cache.current(clock());
    assert_eq!(cache.get("a"), Some(1));
}

#[tokio::test]
async fn a_change_forgets_one_and_refuses_what_was_read_before() {
    let cache = cache(1 << 20);
    keep(&cache, "a", 1, 0).await;
    keep(&cache, "b", 1, 0).await;
    let before = cache.ask("a").await;
    cache.changed("a");
    assert_eq!((cache.get("a"), cache.get("b")), (None, Some(1)));
    before.fill(1, 0);
    assert_eq!(cache.get("a"), None);
    keep(&cache, "a", 2, 0).await;
    assert_eq!(cache.get("a"), Some(2));
}

#[tokio::test]
async fn a_doubt_forgets_everything_and_refuses_what_was_read_before() {
    let cache = cache(1 << 20);
    // More than the cache has locks.
    let ids: Vec<String> = (0..3000).map(|n| format!("id{n}")).collect();
    let mut before = Vec::new();
    for id in &ids {
        keep(&cache, id, 1, 0).await;
        before.push(cache.ask(id).await);
    }
    cache.doubt();
    assert_eq!(cache.bytes(), 0);
    before.into_iter().for_each(|ticket| ticket.fill(1, 0));
    assert_eq!(cache.bytes(), 0);
    assert!(ids.iter().all(|id| cache.get(id).is_none()));
    cache.current(BootInstant::now());
    assert!(ids.iter().all(|id| cache.get(id).is_none()), "also when it is current again");
    keep(&cache, "a", 2, 0).await;
    assert_eq!(cache.get("a"), Some(2));
}

#[tokio::test]
async fn the_bytes_stay_within_their_limit() {
    const LIMIT: u64 = 1 << 20;
    let cache = cache(LIMIT);
    let (mut given, mut filled) = (0, 0);
    while given < 10 * LIMIT {
        let bytes = 100 + filled * 37 % 4000;
        keep(&cache, &format!("id{filled}"), filled, bytes).await;
        (given, filled) = (given + bytes as u64, filled + 1);
        assert!(cache.bytes() <= LIMIT, "{} bytes after {filled} entries", cache.bytes());
    }
    assert!(cache.bytes() > LIMIT / 2, "and are made use of: {}", cache.bytes());
    let kept: u64 =
        (0..filled).filter(|n| cache.get(&format!("id{n}")).is_some()).map(|n| (100 + n * 37 % 4000) as u64).sum();
    assert!(kept <= cache.bytes(), "{kept}");
    // One that has no room is not kept, nor is what it takes the place of.
    keep(&cache, "id", 1, 0).await;
    keep(&cache, "id", 2, 2 * LIMIT as usize).await;
    assert_eq!(cache.get("id"), None);
    assert!(cache.bytes() <= LIMIT);
}

#[tokio::test]
async fn small_entries_count_too() {
    const LIMIT: u64 = 64 * 1024;
    let cache = cache(LIMIT);
    let most = usize::try_from(LIMIT).unwrap();
    for n in 0..most / 16 {
        keep(&cache, &n.to_string(), n, 0).await;
        assert!(cache.bytes() <= LIMIT);
    }
    let kept = (0..most / 16).filter(|n| cache.get(&n.to_string()).is_some()).count();
    assert!(kept as u64 >= LIMIT / 2 / OVERHEAD, "{kept} are kept");
}

#[tokio::test]
async fn what_is_asked_for_stays() {
    let cache = cache(1 << 20);
    let hot: Vec<String> = (0..100).map(|n| format!("hot{n}")).collect();
    for id in &hot {
        keep(&cache, id, 0, 500).await;
    }
    for n in 0..20_000 {
        keep(&cache, &format!("cold{n}"), n, 500).await;
        cache.get(&hot[n % hot.len()]);
    }
    let stayed = hot.iter().filter(|id| cache.get(id).is_some()).count();
    assert!(stayed > 90, "{stayed} of 100");
}
