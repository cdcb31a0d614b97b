//! Who watches a store is told of every change in time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sessiond::clock::{BootInstant, Clock};
use sessiond::store::{Entry, Outcome, Watcher};
use tokio::time::{sleep, timeout};

use super::Fixture;

/// Notes what it is told.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn has(&self, what: &[&str]) -> bool {
        self.0.lock().unwrap().iter().any(|note| what.contains(&note.as_str()))
    }

    /// Waits until it is told.
    async fn wait_for(&self, what: &[&str]) {
        let told = async {
            while !self.has(what) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(5), told).await.expect("it is told");
    }
}

impl Watcher for Notes {
    fn changed(&self, id: &str) {
        self.note(id);
    }

    fn doubt(&self) {
        self.note("doubt");
    }

    fn current(&self, _at: BootInstant) {
        self.note("current");
    }

    fn max_staleness(&self) -> Duration {
        Duration::from_millis(100)
    }
}

pub(crate) async fn a_change_is_told_before_it_is_answered(fixture: &Fixture) {
    let (store, notes) = (fixture.store(), Arc::new(Notes::default()));
    store.watch(Arc::clone(&notes) as Arc<dyn Watcher>);
    let now = Clock::system().now();
    let entry =
        |record: &'static str| Entry { record: record.as_bytes(), user_id: Some("u"), expires_at: now + 60_000 };
    for id in ["a", "b", "c", "d"] {
        store.insert(id, entry("one"), now).await.unwrap();
    }
    notes.wait_for(&["current"]).await;
    // Looked at at once, and without a wait in between: what comes from Redis itself comes later.
    macro_rules! told {
        ($id:literal, $call:expr, $answer:expr) => {
            notes.take();
            let answer = $call.await.unwrap();
            assert!(notes.has(&[$id]), "{} is told before the answer", stringify!($call));
            assert_eq!(answer, $answer);
        };
    }
    told!("a", store.replace("a", b"one", entry("two"), now), Outcome::Applied);
    told!("a", store.touch("a", b"two", entry("two"), now), Outcome::Applied);
    told!("a", store.supersede("a", b"two", Some("u"), "A", entry("three"), now), Outcome::Applied);
    told!("b", store.remove(&["b"], Some("u"), now), 1);
    told!("c", store.remove_if("c", b"one", Some("u"), now), Outcome::Applied);
    // Nothing was changed, but then another writer has.
    told!("d", store.remove_if("d", b"other", Some("u"), now), Outcome::Changed);
}

pub(crate) async fn what_another_process_changes_is_told_soon(fixture: &Fixture) {
    let notes = Arc::new(Notes::default());
    fixture.store().watch(Arc::clone(&notes) as Arc<dyn Watcher>);
    notes.wait_for(&["current"]).await;
    let (other, now) = (fixture.stores[1].as_ref(), Clock::system().now());
    let entry = |record: &'static str| Entry { record: record.as_bytes(), user_id: None, expires_at: now + 60_000 };
    notes.take();
    other.insert("a", entry("one"), now).await.unwrap();
    notes.wait_for(&["a", "doubt"]).await;
    notes.take();
    other.replace("a", b"one", entry("two"), now).await.unwrap();
    notes.wait_for(&["a", "doubt"]).await;
    notes.take();
    other.remove(&["a"], None, now).await.unwrap();
    notes.wait_for(&["a", "doubt"]).await;
}

/// In SQLite another process's writes are known by a number that this process's own must not move: every write would have
/// everything forgotten.
pub(crate) async fn its_own_changes_are_no_reason_to_doubt(fixture: &Fixture) {
    let (store, notes) = (fixture.store(), Arc::new(Notes::default()));
    store.watch(Arc::clone(&notes) as Arc<dyn Watcher>);
    notes.wait_for(&["current"]).await;
    notes.take();
    let now = Clock::system().now();
    let entry = Entry { record: b"one", user_id: Some("u"), expires_at: now + 60_000 };
    store.insert("a", entry, now).await.unwrap();
    store.remove(&["a"], Some("u"), now).await.unwrap();
    for _ in 0..3 {
        notes.wait_for(&["current"]).await;
        assert!(!notes.take().contains(&"doubt".to_owned()));
    }
}
