//! A store whose every call is counted, timed, and ended by the deadline of the request that makes it.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{DEADLINE, Enlisted, Entry, Error, Found, Insertion, Outcome, Page, Position, Result, Store, Watcher};
use crate::clock::Ms;
use crate::telemetry::{CallMetrics, Metrics};

/// A store, and what becomes of the calls to it.
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
    sweep_user: CallMetrics,
    purge_expired: CallMetrics,
    ping: CallMetrics,
}

/// The calls of one request: none of them ends after its deadline. What each does is said by [`Store`].
#[derive(Clone, Copy)]
pub struct Calls<'m> {
    metered: &'m Metered,
    deadline: Instant,
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
            sweep_user: metrics.store_call("sweep_user"),
            purge_expired: metrics.store_call("purge_expired"),
            ping: metrics.store_call("ping"),
        }
    }

    /// The store, for calls that have to end by `deadline`.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Calls<'_> {
        Calls { metered: self, deadline }
    }

    /// As [`Store::watch`].
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.store.watch(watcher);
    }
}

#[expect(missing_docs, clippy::missing_errors_doc, reason = "each is the call of the same name in Store")]
impl Calls<'_> {
    async fn measured<T>(self, metrics: &CallMetrics, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let answer = if self.deadline >= began + DEADLINE {
            // The store's own deadline comes first.
            call.await
        } else {
            timeout_at(self.deadline, call).await.unwrap_or(Err(Error::OutOfTime))
        };
        metrics.duration.observe(began.elapsed().as_secs_f64());
        match &answer {
            Ok(_) => metrics.ok.inc(),
            Err(Error::Unavailable(_) | Error::OutOfTime) => metrics.unavailable.inc(),
            Err(Error::Unexpected(_)) => metrics.unexpected.inc(),
        };
        answer
    }

    pub async fn insert(self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion> {
        self.measured(&self.metered.insert, self.metered.store.insert(id, entry, now)).await
    }

    pub async fn find(self, id: &str, now: Ms) -> Result<Option<Found>> {
        self.measured(&self.metered.find, self.metered.store.find(id, now)).await
    }

    pub async fn find_many(self, ids: &[&str], now: Ms) -> Result<Vec<Option<Found>>> {
        self.measured(&self.metered.find_many, self.metered.store.find_many(ids, now)).await
    }

    pub async fn replace(self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.measured(&self.metered.replace, self.metered.store.replace(id, expected, entry, now)).await
    }

    pub async fn touch(self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.measured(&self.metered.touch, self.metered.store.touch(id, expected, entry, now)).await
    }

    pub async fn remove(self, ids: &[&str], user_id: Option<&str>, now: Ms) -> Result<usize> {
        self.measured(&self.metered.remove, self.metered.store.remove(ids, user_id, now)).await
    }

    pub async fn remove_if(self, id: &str, expected: &[u8], user_id: Option<&str>, now: Ms) -> Result<Outcome> {
        self.measured(&self.metered.remove_if, self.metered.store.remove_if(id, expected, user_id, now)).await
    }

    pub async fn supersede(
        self,
        id: &str,
        expected: &[u8],
        user_id: Option<&str>,
        new_id: &str,
        entry: Entry<'_>,
        now: Ms,
    ) -> Result<Outcome> {
        let call = self.metered.store.supersede(id, expected, user_id, new_id, entry, now);
        self.measured(&self.metered.supersede, call).await
    }

    pub async fn enlist(self, entries: &[Enlisted<'_>], now: Ms) -> Result<()> {
        self.measured(&self.metered.enlist, self.metered.store.enlist(entries, now)).await
    }

    pub async fn list_by_user(self, user_id: &str, after: Option<&Position>, limit: usize, now: Ms) -> Result<Page> {
        let call = self.metered.store.list_by_user(user_id, after, limit, now);
        self.measured(&self.metered.list_by_user, call).await
    }

    pub async fn sweep_user(self, user_id: &str, limit: usize, now: Ms) -> Result<Page> {
        self.measured(&self.metered.sweep_user, self.metered.store.sweep_user(user_id, limit, now)).await
    }

    pub async fn purge_expired(self, now: Ms, limit: usize) -> Result<usize> {
        self.measured(&self.metered.purge_expired, self.metered.store.purge_expired(now, limit)).await
    }

    pub async fn ping(self) -> Result<()> {
        self.measured(&self.metered.ping, self.metered.store.ping()).await
    }
}
