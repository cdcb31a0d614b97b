//! Sessions that an Express made, or gave to a user, are in no user's list: they come into it when the service first meets
//! them.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Call, Loaded, Sessions};
use crate::clock::Ms;
use crate::id::Id;
use crate::store::Enlisted;

/// How long a session that was listed once is taken to be so, in ms.
const LISTED: Ms = 10 * 60 * 1000;
/// How many sessions are remembered.
const SLOTS: usize = 1 << 16;

/// Which sessions this process has put into their users' lists lately: a hash each, in a table of fixed size. Two that
/// share a slot drive each other out, and are listed more often than need be.
#[derive(Default)]
pub(super) struct Met(OnceLock<(RandomState, Box<[AtomicU64]>)>);

impl Met {
    /// A slot, and what it holds when `id` was put into the list of `user_id` lately.
    fn slot(&self, id: &Id, user_id: &str, now: Ms) -> (&AtomicU64, u64) {
        let (hasher, slots) = self
            .0
            .get_or_init(|| (RandomState::new(), std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect()));
        let hash = hasher.hash_one((id.as_str(), user_id, now / LISTED));
        #[expect(clippy::cast_possible_truncation, reason = "any bits do")]
        let slot = &slots[hash as usize % SLOTS];
        (slot, hash)
    }
}

impl Sessions {
    /// Sees to it that live sessions which an Express may have made are in their users' lists. One that could not be put
    /// there now is the next time that it is met.
    pub(super) async fn enlist<'a>(&self, met: impl Iterator<Item = (&'a Id, &'a Loaded)>, call: Call) {
        let foreign = |loaded: &Loaded| self.policy().express_writes || loaded.record.ours.is_none();
        let unknown: Vec<_> = met
            .filter(|(_, loaded)| foreign(loaded))
            .filter_map(|(id, loaded)| {
                let user_id = self.user_of(&loaded.record)?;
                let (slot, hash) = self.inner.met.slot(id, &user_id, call.now);
                (slot.load(Ordering::Relaxed) != hash).then_some((id, user_id, loaded.standing.expires_at, slot, hash))
            })
            .collect();
        if unknown.is_empty() {
            return;
        }
        let entries: Vec<_> = unknown
            .iter()
            .map(|(id, user_id, expires_at, ..)| Enlisted { id: id.as_str(), user_id, expires_at: *expires_at })
            .collect();
        match self.store(call).enlist(&entries, call.now).await {
            Ok(()) => unknown.iter().for_each(|(.., slot, hash)| slot.store(*hash, Ordering::Relaxed)),
            Err(error) => tracing::debug!(%error, "sessions were not put into their users' lists"),
        }
    }
}
