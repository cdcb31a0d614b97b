//! The rules over a whole store: what is in it, and whether the users' lists have all that they should.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use serde::Serialize;

use super::{Error, Policy, Record, Sessions, Standing};
use crate::clock::{Clock, Ms};
use crate::id::Id;
use crate::store::{self, Check, Cursor, Enlisted, Found};

const HOUR: Ms = 60 * 60 * 1000;

/// An entry of the store, as the rules see it.
#[derive(Debug)]
pub struct Stored {
    /// Its name.
    pub id: String,
    /// What the store has.
    pub found: Found,
    /// The same, read; or why it cannot be.
    pub record: Result<Record, Error>,
    /// Its user, if it names one.
    pub user_id: Option<String>,
    /// Its times. None: it is not live, though its key is there; or it cannot be read.
    pub standing: Option<Standing>,
}

impl Stored {
    fn read(policy: &Policy, id: String, found: Found, now: Ms) -> Self {
        let record = Record::decode(&found.record);
        let user_id = record.as_ref().ok().and_then(|record| policy.user_of(record));
        let standing = record.as_ref().ok().and_then(|record| policy.standing(record, found.expires_at, now));
        Self { id, found, record, user_id, standing }
    }
}

impl Sessions {
    /// What the store has under `id`, live or not. Touches nothing.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot say.
    pub async fn inspect(&self, id: &Id) -> Result<Option<Stored>, Error> {
        let call = self.begin();
        let found = self.store(call).find(id.as_str(), call.now).await?;
        Ok(found.map(|found| Stored::read(self.policy(), id.to_string(), found, call.now)))
    }
}

/// What is in a store.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Live sessions.
    pub sessions: u64,
    /// Those that have a user.
    pub with_user: u64,
    /// How many users they have.
    pub users: u64,
    /// Those that would expire within an hour if they were not touched.
    pub expire_within_1h: u64,
    /// The same, within a day.
    pub expire_within_24h: u64,
    /// Those that the store keeps for ever unless they are touched: another program put them there.
    pub without_expiry: u64,
    /// Entries whose lifetime is over, and which the store still has: another program touched them.
    pub ended: u64,
    /// Entries that neither this service nor express-session can read.
    pub unreadable: u64,
    /// What all of these records take up, in bytes.
    pub bytes: u64,
    /// The same by record.
    pub mean_bytes: u64,
}

/// What the users' lists have, all together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lists {
    /// Entries.
    pub entries: u64,
    /// Those that have no session, and should.
    pub dangling: u64,
    /// How many entries were taken out.
    pub pruned: u64,
}

/// A store under one policy, seen as a whole. Walks report how many keys they have looked at, each step as it is done.
pub struct Survey {
    store: Arc<dyn store::Survey>,
    policy: Policy,
    clock: Clock,
}

impl Survey {
    /// The policy says whose a session is, and whether it is live.
    #[must_use]
    pub fn new(store: Arc<dyn store::Survey>, policy: Policy, clock: Clock) -> Self {
        Self { store, policy, clock }
    }

    /// How the database is set up, and how it fares.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot say, as in every call here.
    pub async fn checks(&self) -> Result<Vec<Check>, Error> {
        Ok(self.store.checks(self.clock.now()).await?)
    }

    /// About how many keys a walk looks at.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn size(&self) -> Result<u64, Error> {
        Ok(self.store.size().await?)
    }

    /// A walk over every entry, or, with a [`Walk::cursor`] of another walk, over what that one had left.
    #[must_use]
    pub fn walk(&self, from: Option<Cursor>) -> Walk<'_> {
        Walk { survey: self, from: Some(from), seen: Distinct::default() }
    }

    /// Which of these entries their users' lists do not have.
    pub(super) async fn unlisted(&self, entries: &[Enlisted<'_>], now: Ms) -> Result<Vec<bool>, Error> {
        let entries: Vec<_> = entries.iter().map(|entry| (entry.user_id, entry.id)).collect();
        Ok(self.store.unlisted(&entries, now).await?)
    }

    /// Counts everything.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn stats(&self, mut looked_at: impl FnMut(u64)) -> Result<Stats, Error> {
        let (mut tally, mut walk) = (Tally::default(), self.walk(None));
        while let Some(step) = walk.next().await? {
            step.entries.iter().for_each(|stored| tally.add(stored, step.now));
            looked_at(step.looked_at);
        }
        Ok(tally.stats)
    }

    /// Counts everything, and the live sessions that their user's list does not have.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn examine(&self, mut looked_at: impl FnMut(u64)) -> Result<(Stats, u64), Error> {
        let (mut tally, mut walk, mut unlisted) = (Tally::default(), self.walk(None), 0);
        while let Some(step) = walk.next().await? {
            step.entries.iter().for_each(|stored| tally.add(stored, step.now));
            let owned: Vec<_> = step
                .entries
                .iter()
                .filter(|stored| stored.standing.is_some())
                .filter_map(|stored| Some((stored.user_id.as_deref()?, stored.id.as_str())))
                .collect();
            let missing = self.store.unlisted(&owned, step.now).await?;
            unlisted += missing.into_iter().filter(|missing| *missing).count() as u64;
            looked_at(step.looked_at);
        }
        Ok((tally.stats, unlisted))
    }

    /// Walks over the users' lists. `prune` takes out of them what has no session.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn lists(&self, prune: bool, mut looked_at: impl FnMut(u64)) -> Result<Lists, Error> {
        let (mut lists, mut from) = (Lists::default(), None);
        loop {
            let batch = self.store.walk_index(from.as_ref(), prune, self.clock.now()).await?;
            lists.entries += batch.entries;
            lists.dangling += batch.dangling;
            lists.pruned += batch.pruned;
            looked_at(batch.looked_at);
            from = batch.next;
            if from.is_none() {
                return Ok(lists);
            }
        }
    }
}

/// A walk over every entry of a store.
pub struct Walk<'a> {
    survey: &'a Survey,
    /// None: it is over.
    from: Option<Option<Cursor>>,
    seen: Distinct,
}

/// One step of a walk.
#[derive(Debug)]
pub struct Step {
    /// The entries that no step before had.
    pub entries: Vec<Stored>,
    /// How many keys it looked at.
    pub looked_at: u64,
    /// When it was made (epoch ms).
    pub now: Ms,
}

impl Walk<'_> {
    /// Where the next step begins. None: at the beginning, or nowhere.
    #[must_use]
    pub fn cursor(&self) -> Option<&Cursor> {
        self.from.as_ref()?.as_ref()
    }

    /// The next step, until there is none.
    ///
    /// # Errors
    /// [`Error::Store`]; the same step may be tried again.
    pub async fn next(&mut self) -> Result<Option<Step>, Error> {
        let Some(from) = &self.from else { return Ok(None) };
        let (survey, now) = (self.survey, self.survey.clock.now());
        let batch = survey.store.walk(from.as_ref(), now).await?;
        self.from = batch.next.map(Some);
        let fresh = batch.entries.into_iter().filter(|(id, _)| self.seen.add(id));
        let entries = fresh.map(|(id, found)| Stored::read(&survey.policy, id, found, now)).collect();
        Ok(Some(Step { entries, looked_at: batch.looked_at, now }))
    }
}

/// Which texts there were, by a hash of eight bytes: of ten million, all are told apart but for a chance in 300 000.
#[derive(Default)]
struct Distinct {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl Distinct {
    /// Whether it is the first of its kind.
    fn add(&mut self, text: &str) -> bool {
        self.hashes.insert(self.hasher.hash_one(text))
    }
}

#[derive(Default)]
struct Tally {
    stats: Stats,
    users: Distinct,
    records: u64,
}

impl Tally {
    fn add(&mut self, stored: &Stored, now: Ms) {
        let stats = &mut self.stats;
        self.records += 1;
        stats.bytes += stored.found.record.len() as u64;
        stats.mean_bytes = stats.bytes / self.records;
        let Some(standing) = stored.standing else {
            let count = if stored.record.is_ok() { &mut stats.ended } else { &mut stats.unreadable };
            *count += 1;
            return;
        };
        stats.sessions += 1;
        stats.without_expiry += u64::from(stored.found.expires_at.is_none());
        stats.expire_within_1h += u64::from(standing.expires_at - now <= HOUR);
        stats.expire_within_24h += u64::from(standing.expires_at - now <= 24 * HOUR);
        if let Some(user_id) = &stored.user_id {
            stats.with_user += 1;
            stats.users += u64::from(self.users.add(user_id));
        }
    }
}
