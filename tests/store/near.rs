//! A store behind a near-cache, which in one process is as exact as the store itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sessiond::cache::{Cache, Limits, Ticket};
use sessiond::clock::Ms;
use sessiond::store::{Enlisted, Entry, Found, Insertion, Outcome, Page, Position, Result, Store, Watcher};

const LIMITS: Limits = Limits { bytes: 16 * 1024 * 1024, max_staleness: Duration::from_secs(60) };

pub(crate) struct Near {
    store: Arc<dyn Store>,
    cache: Arc<Cache<Found>>,
}

impl Near {
    /// Puts a near-cache before `store`, and waits until it keeps something.
    pub(crate) async fn new(store: Arc<dyn Store>) -> Self {
        let cache = Arc::new(Cache::new(LIMITS));
        store.watch(Arc::clone(&cache) as Arc<dyn Watcher>);
        while cache.get("probe").is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
            fill(cache.ask("probe").await, &Found { record: Vec::new(), expires_at: None });
        }
        Self { store, cache }
    }
}

fn fill(ticket: Ticket<'_, Found>, found: &Found) {
    ticket.fill(found.clone(), found.record.len());
}

#[async_trait]
impl Store for Near {
    async fn find(&self, id: &str, now: Ms) -> Result<Option<Found>> {
        for _ in 0..2 {
            if let Some(found) = self.cache.get(id).filter(|found| found.expires_at.is_none_or(|at| at > now)) {
                return Ok(Some(found));
            }
            let ticket = self.cache.ask(id).await;
            let Some(found) = self.store.find(id, now).await? else { return Ok(None) };
            fill(ticket, &found);
        }
        self.store.find(id, now).await
    }

    async fn insert(&self, id: &str, entry: Entry<'_>, now: Ms) -> Result<Insertion> {
        self.store.insert(id, entry, now).await
    }

    async fn find_many(&self, ids: &[&str], now: Ms) -> Result<Vec<Option<Found>>> {
        self.store.find_many(ids, now).await
    }

    async fn replace(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.store.replace(id, expected, entry, now).await
    }

    async fn touch(&self, id: &str, expected: &[u8], entry: Entry<'_>, now: Ms) -> Result<Outcome> {
        self.store.touch(id, expected, entry, now).await
    }

    async fn remove(&self, ids: &[&str], user_id: Option<&str>, now: Ms) -> Result<usize> {
        self.store.remove(ids, user_id, now).await
    }

    async fn remove_if(&self, id: &str, expected: &[u8], user_id: Option<&str>, now: Ms) -> Result<Outcome> {
        self.store.remove_if(id, expected, user_id, now).await
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
        self.store.supersede(id, expected, user_id, new_id, entry, now).await
    }

    async fn enlist(&self, entries: &[Enlisted<'_>], now: Ms) -> Result<()> {
        self.store.enlist(entries, now).await
    }

    async fn list_by_user(&self, user_id: &str, after: Option<&Position>, limit: usize, now: Ms) -> Result<Page> {
        self.store.list_by_user(user_id, after, limit, now).await
    }

    async fn sweep_user(&self, user_id: &str, limit: usize, now: Ms) -> Result<Page> {
        self.store.sweep_user(user_id, limit, now).await
    }

    async fn purge_expired(&self, now: Ms, limit: usize) -> Result<usize> {
        self.store.purge_expired(now, limit).await
    }

    async fn ping(&self) -> Result<()> {
        self.store.ping().await
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.store.watch(watcher);
    }
}
