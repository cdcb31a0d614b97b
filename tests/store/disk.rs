//! The SQLite store under a burst of calls, and under probes.

use std::fmt::Debug;
use std::fs;

use futures_util::future::join_all;
use sessiond::store::{Entry, Result};

use super::Fixture;

/// As many calls as `--max-in-flight` lets in at once wait their turn. A slow machine may be late with some: that is not
/// what this shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_refused_by_no_queue() {
    fn check<T: Debug>(answers: &[Result<T>]) {
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(error.to_string().contains("no answer in time"), "{error}");
        }
        assert!(answers.iter().any(Result::is_ok), "or this shows nothing");
    }
    let fixture = Fixture::sqlite().await;
    let (store, now) = (fixture.store(), 1_000_000);
    let ids: Vec<String> = (0..4096).map(|number| format!("id-{number}")).collect();
    let inserted = join_all(ids.iter().map(async |id| {
        let entry = Entry { record: id.as_bytes(), user_id: Some(id), expires_at: 2_000_000 };
        store.insert(id, entry, now).await
    }));
    check(&inserted.await);
    check(&join_all(ids.iter().map(|id| store.find(id, now))).await);
}

/// Each write makes other processes forget what their near-caches hold, and wears the disk.
#[tokio::test]
async fn probes_write_one_page_in_a_while() {
    let fixture = Fixture::sqlite().await;
    let wal = format!("{}-wal", fixture.url.strip_prefix("sqlite:").unwrap());
    let size = || fs::metadata(&wal).unwrap().len();
    let before = size();
    for _ in 0..20 {
        fixture.store().ping().await.unwrap();
    }
    assert_eq!(size() - before, 24 + 4096, "a frame's header and a page");
}
