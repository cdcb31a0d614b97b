//! Refuses fills that a change has overtaken. `tests/loom` explores every interleaving.

use std::hash::{BuildHasher, RandomState};
use std::sync::PoisonError;

use super::sync::Mutex;

/// A number a shard of the ids, which grows with each change.
pub(super) struct Generations {
    hasher: RandomState,
    shards: Box<[Mutex<u64>]>,
}

impl Generations {
    pub(super) fn new(shards: usize) -> Self {
        Self { hasher: RandomState::new(), shards: (0..shards).map(|_| Mutex::new(0)).collect() }
    }

    /// The number now. To be sampled before the store is asked.
    pub(super) fn sample(&self, id: &str) -> u64 {
        *self.shard(id).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `fill` if nothing has changed since `sampled`. No change comes in while it runs.
    pub(super) fn fill(&self, id: &str, sampled: u64, fill: impl FnOnce()) {
        let generation = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        if *generation == sampled {
            fill();
        }
    }

    /// Refuses what was sampled before, and runs `forget`, while nothing is filled in.
    pub(super) fn change(&self, id: &str, forget: impl FnOnce()) {
        let mut generation = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        forget();
    }

    /// Refuses whatever was sampled before.
    pub(super) fn change_all(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }

    fn shard(&self, id: &str) -> &Mutex<u64> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits do")]
        let at = self.hasher.hash_one(id) as usize % self.shards.len();
        &self.shards[at]
    }
}
