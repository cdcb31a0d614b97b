//! Notes what a store tells whom it watches for, in order, and passes it on to a cache.

use std::sync::Arc;
use std::time::Duration;

use sessiond::cache::{Cache, Limits};
use sessiond::clock::BootInstant;
use sessiond::store::Watcher;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Changed(String),
    Doubt,
    Current,
}

pub(crate) struct Recorder {
    told: watch::Sender<Vec<Told>>,
    pub(crate) cache: Cache<u32>,
}

impl Recorder {
    pub(crate) fn new(max_staleness: Duration) -> Arc<Self> {
        let limits = Limits { bytes: 1 << 20, max_staleness };
        Arc::new(Self { told: watch::Sender::default(), cache: Cache::new(limits) })
    }

    /// What was told so far, and is forgotten hereby.
    pub(crate) fn take(&self) -> Vec<Told> {
        let mut all = Vec::new();
        self.told.send_modify(|told| all = std::mem::take(told));
        all
    }

    pub(crate) fn has(&self, what: &Told) -> bool {
        self.told.borrow().contains(what)
    }

    /// Waits until this has been told since the last `take`; what it means to the cache has happened then.
    pub(crate) async fn until(&self, what: &Told) {
        let mut told = self.told.subscribe();
        let in_time = timeout(PATIENCE, told.wait_for(|told| told.contains(what))).await;
        assert!(in_time.is_ok(), "{what:?} was not told");
    }

    fn note(&self, what: Told) {
        self.told.send_modify(|told| told.push(what));
    }
}

impl Watcher for Recorder {
    fn changed(&self, id: &str) {
        self.cache.changed(id);
        self.note(Told::Changed(id.into()));
    }

    fn doubt(&self) {
        self.cache.doubt();
        self.note(Told::Doubt);
    }

    fn current(&self, at: BootInstant) {
        self.cache.current(at);
        self.note(Told::Current);
    }

    fn max_staleness(&self) -> Duration {
        self.cache.max_staleness()
    }
}

pub(crate) fn changed(id: &str) -> Told {
    Told::Changed(id.into())
}
