//! What SQLite has written into its WAL gets into the file while the service runs.

use std::fs;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sessiond::store::{Entry, Insertion};
use tokio::time::{sleep, timeout};

use super::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wal_is_copied_into_the_file_while_writes_go_on() {
    // 15 MB and 30 MB: more than after which the copying is due, and less than after which the writer does it itself.
    for (records, bytes) in [(15_000, 1000), (500, 60_000)] {
        let fixture = Fixture::sqlite().await;
        let path = fixture.url.strip_prefix("sqlite:").unwrap();
        let size = |path: &str| fs::metadata(path).unwrap().len();
        let (before, record) = (size(path), vec![b'x'; bytes]);
        let (store, record) = (fixture.store(), record.as_slice());
        let inserted = stream::iter(0..records).map(async |number| {
            let entry = Entry { record, user_id: None, expires_at: 2_000_000 };
            store.insert(&format!("id-{number}"), entry, 1_000_000).await
        });
        let inserted: Vec<_> = inserted.buffer_unordered(32).collect().await;
        assert!(inserted.iter().all(|inserted| matches!(inserted, Ok(Insertion::Done))));
        assert!(size(&format!("{path}-wal")) < 64 << 20, "or this test shows nothing");
        let copied = async {
            while size(path) < before + (1 << 20) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let copied = timeout(Duration::from_secs(10), copied).await;
        assert!(copied.is_ok(), "the file grows while it is open, also by records of {bytes} bytes");
    }
}
