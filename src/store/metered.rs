//! A store whose every call is counted and timed.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::{Enlisted, Entry, Error, Found, Insertion, Listed, Outcome, Result, Store, Watcher};
use crate::clock::Ms;
use crate::telemetry::{CallMetrics, Metrics};

/// Passes each call on to another store, and counts what becomes of it.
pub struct Metered {
    store: Arc<dyn Store>,
    insert: CallMetrics,
    find: CallMetrics,
    find_many: CallMetrics,
    replace: CallMetrics,
    touch: CallMetrics,
    remove: CallMetrics,
    remove_if: CallMetrics,
    supersede: CallMetrics,
    enlist: CallMetrics,
    list_by_user: CallMetrics,
    purge_expired: CallMetrics,
    ping: CallMetrics,
}

impl Metered {
    /// Counts the calls to `store` in `metrics`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, metrics: &Metrics) -> Self {
        Self {
            store,
            insert: metrics.store_call("insert"),
            find: metrics.store_call("find"),
            find_many: metrics.store_call("find_many"),
            replace: metrics.store_call("replace"),
            touch: metrics.store_call("touch"),
            remove: metrics.store_call("remove"),
            remove_if: metrics.store_call("remove_if"),
            supersede: metrics.store_call("supersede"),
            enlist: metrics.store_call("enlist"),
            list_by_user: metrics.store_call("list_by_user"),
            purge_expired: metrics.store_call("purge_expired"),
            ping: metrics.store_call("ping"),
        }
    }
}

async fn measured<T>(metrics: &CallMetrics, call: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let answer = call.await;
    metrics.duration.observe(began.elapsed().as_secs_f64());
    match &answer {
        Ok(_) => metrics.ok.inc(),
        Err(Error::Unavailable(_)) => metrics.unavailable.inc(),
        Err(Error::Unexpected(_)) => metrics.unexpected.inc(),
    };
    answer
}

#[async_trait]
impl Store for Metered {
    async fn insert(&self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion> {
        measured(&self.insert, self.store.insert(id, entry, now)).await
    }

    async fn find(&self, id: &str, now: Ms) -> Result<Option<Found>> {
        measured(&self.find, self.store.find(id, now)).await
    }

    async fn find_many(&self, ids: &[&str], now: Ms) -> Result<Vec<Option<Found>>> {
        measured(&self.find_many, self.store.find_many(ids, now)).await
    }

    async fn replace(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        measured(&self.replace, self.store.replace(id, expected, entry, now)).await
    }

    async fn touch(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        measured(&self.touch, self.store.touch(id, expected, entry, now)).await
    }

    async fn remove(&self, ids: &[&str], user_id: Option<&str>, now: Ms) -> Result<usize> {
        measured(&self.remove, self.store.remove(ids, user_id, now)).await
    }

    async fn remove_if(&self, id: &str, expected: &[u8], user_id: Option<&str>, now: Ms) -> Result<Outcome> {
        measured(&self.remove_if, self.store.remove_if(id, expected, user_id, now)).await
    }

    async fn supersede(
        &self,
        id: &str,
        expected: &[u8],
        user_id: Option<&str>,
        new_id: &str,
        entry: Entry<'_>,
        now: Ms,
    ) -> Result<Outcome> {
        measured(&self.supersede, self.store.supersede(id, expected, user_id, new_id, entry, now)).await
    }

    async fn enlist(&self, entries: &[Enlisted<'_>], now: Ms) -> Result<()> {
        measured(&self.enlist, self.store.enlist(entries, now)).await
    }

    async fn list_by_user(
        &self,
        user_id: &str,
        after: Option<(Ms, &str)>,
        limit: usize,
        pending: bool,
        now: Ms,
    ) -> Result<Vec<Listed>> {
        measured(&self.list_by_user, self.store.list_by_user(user_id, after, limit, pending, now)).await
    }

    async fn purge_expired(&self, now: Ms, limit: usize) -> Result<usize> {
        measured(&self.purge_expired, self.store.purge_expired(now, limit)).await
    }

    async fn ping(&self) -> Result<()> {
        measured(&self.ping, self.store.ping()).await
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.store.watch(watcher);
    }
}
