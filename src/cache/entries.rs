//! The near-cache: what was made of entries, kept in this process, and given out again without asking the store.
//!
//! # The promise
//! A removal, or any other change, that was acknowledged anywhere is honoured by every [`Cache::get`] that begins more than
//! `max_staleness` later, whatever becomes of the store and of the way to it; and by every one that begins after this
//! process has acknowledged it itself.
//!
//! # How it is kept
//! - The store tells its [`Watcher`], which a cache is, of each change: of this process's own before it acknowledges
//!   them, of others' as it learns of them. And it proves now and then that it has told everything up to a point in
//!   time. A cache gives nothing out when the last such point is further back than `max_staleness`.
//! - What is put in was read after its [`Ticket`] was drawn, and goes in only if nothing was told of it in between
//!   ([`Generations`]). So a read that a change has overtaken does not bring the old state back.
//! - When the store may have missed to tell of something, it says so, and the cache forgets everything.
//!
//! Entries take a bounded number of bytes; the least requested ones are evicted first. The caller checks whether a session
//! has expired: a cache only measures staleness. It does so with a [`BootInstant`], which goes on while the machine is
//! suspended, so that nothing is fresh when the machine resumes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache as Entries;
use tokio::sync::watch;
use tokio::time::timeout;

use super::generations::Generations;
use crate::clock::BootInstant;
use crate::store::Watcher;

/// How many locks the generations have. A change refuses what is about to be put in under the same one.
const SHARDS: usize = 1024;
/// What an entry takes besides its value and its id: the cache's own bookkeeping.
const OVERHEAD: usize = 160;
/// How long to wait for another caller who asks the store for the same entry, before asking it too.
const PATIENCE: Duration = Duration::from_millis(100);

/// How much is kept, and how far behind it may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// About how many bytes the entries take.
    pub bytes: u64,
    /// How much later than it was acknowledged a change elsewhere may be honoured here.
    pub max_staleness: Duration,
}

/// What is kept of entries, by id. The promise is at the top of this module.
pub struct Cache<V> {
    entries: Entries<Box<str>, Kept<V>, Bytes>,
    generations: Generations,
    limits: Limits,
    /// Until when entries are given out, in ns since `epoch`.
    fresh_until: AtomicU64,
    epoch: BootInstant,
    /// What freshness is measured with.
    instant: fn() -> BootInstant,
    /// Who is asking the store now. The senders are in their tickets.
    asking: Mutex<HashMap<Box<str>, watch::Receiver<()>>>,
}

#[derive(Clone)]
struct Kept<V> {
    value: V,
    bytes: usize,
}

#[derive(Clone)]
struct Bytes;

impl<V> Weighter<Box<str>, Kept<V>> for Bytes {
    fn weight(&self, id: &Box<str>, kept: &Kept<V>) -> u64 {
        (id.len() + kept.bytes + OVERHEAD) as u64
    }
}

/// The right to put an entry in, which was drawn before the store was asked for it. Other callers wait for it a little.
pub struct Ticket<'c, V: Clone> {
    cache: &'c Cache<V>,
    id: Box<str>,
    generation: u64,
    /// Whom others wait for.
    first: Option<watch::Sender<()>>,
}

impl<V: Clone + Send + Sync + 'static> Cache<V> {
    /// An empty one, which gives nothing out before a store has proved anything.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_clock(limits, BootInstant::now)
    }

    /// The same, with a clock of a test's.
    #[must_use]
    pub fn with_clock(limits: Limits, instant: fn() -> BootInstant) -> Self {
        // A typical session with its answer; only a hint for the first allocation.
        let about = usize::try_from(limits.bytes / 1024).unwrap_or(usize::MAX);
        Self {
            entries: Entries::with_weighter(about, limits.bytes, Bytes),
            generations: Generations::new(SHARDS),
            limits,
            fresh_until: AtomicU64::new(0),
            epoch: instant(),
            instant,
            asking: Mutex::default(),
        }
    }

    /// What is kept of an entry, as far as it may be given out now.
    pub fn get(&self, id: &str) -> Option<V> {
        self.is_fresh().then(|| self.entries.get(id)).flatten().map(|kept| kept.value)
    }

    /// To be called before the store is asked for an entry. When another caller is asking for it already, waits for that a
    /// little: then look again, whether the entry is kept by now.
    pub async fn ask(&self, id: &str) -> Ticket<'_, V> {
        if !self.is_fresh() {
            return self.ticket(id, None);
        }
        let mut waiting = {
            let mut asking = self.asking();
            match asking.get(id) {
                Some(first) => first.clone(),
                None => {
                    let (first, others) = watch::channel(());
                    asking.insert(id.into(), others);
                    return self.ticket(id, Some(first));
                }
            }
        };
        // Ends, with an error, when the ticket of the first one is dropped.
        let _ = timeout(PATIENCE, waiting.changed()).await;
        self.ticket(id, None)
    }

    /// About how many bytes the entries take.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    fn ticket(&self, id: &str, first: Option<watch::Sender<()>>) -> Ticket<'_, V> {
        Ticket { cache: self, id: id.into(), generation: self.generations.sample(id), first }
    }

    fn is_fresh(&self) -> bool {
        self.nanos((self.instant)()) < self.fresh_until.load(Ordering::Acquire)
    }

    fn nanos(&self, at: BootInstant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<V: Clone> Cache<V> {
    fn asking(&self) -> MutexGuard<'_, HashMap<Box<str>, watch::Receiver<()>>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> Ticket<'_, V> {
    /// Puts in what was made of the entry that the store has given since this ticket was drawn, and takes `bytes`; unless
    /// the entry has changed meanwhile.
    pub fn fill(self, value: V, bytes: usize) {
        let Cache { entries, generations, .. } = self.cache;
        generations.fill(&self.id, self.generation, || entries.insert(self.id.clone(), Kept { value, bytes }));
    }
}

impl<V: Clone> Drop for Ticket<'_, V> {
    fn drop(&mut self) {
        if self.first.is_some() {
            self.cache.asking().remove(&self.id);
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Watcher for Cache<V> {
    fn changed(&self, id: &str) {
        self.generations.change(id, || drop(self.entries.remove(id)));
    }

    fn doubt(&self) {
        self.fresh_until.store(0, Ordering::Release);
        // In this order: what was read before is refused from now on, and what is in goes.
        self.generations.change_all();
        self.entries.clear();
    }

    fn current(&self, at: BootInstant) {
        self.fresh_until.store(self.nanos(at + self.limits.max_staleness), Ordering::Release);
    }

    fn max_staleness(&self) -> Duration {
        self.limits.max_staleness
    }
}
