//! Adopt: putting the sessions of an Express fleet into their users' lists, all of them, before anybody visits.

use super::survey::Step;
use super::{Error, Sessions, Survey};
use crate::store::Enlisted;

/// What became of the entries of a walk.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Live sessions that are in their user's list now, and were not.
    pub adopted: u64,
    /// Live sessions that were in it already.
    pub listed: u64,
    /// Live sessions without a user.
    pub without_user: u64,
    /// Entries whose lifetime is over.
    pub ended: u64,
    /// Entries that cannot be read.
    pub unreadable: u64,
    /// The first of these.
    pub examples: Vec<Unreadable>,
}

/// An entry that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Its id.
    pub id: String,
    /// Why. Says nothing of what is in it.
    pub why: String,
}

/// How many unreadable entries are named.
const EXAMPLES: usize = 20;

impl Adopted {
    /// Puts the sessions of one step into their users' lists; `dry_run` only counts those that would be. Doing it again
    /// does no harm.
    ///
    /// # Errors
    /// [`Error::Store`]: some may have been adopted.
    pub async fn take(&mut self, step: Step, survey: &Survey, sessions: &Sessions, dry_run: bool) -> Result<(), Error> {
        let live: Vec<_> = step.entries.iter().filter_map(|stored| Some((stored, stored.standing?))).collect();
        let owned: Vec<_> = live
            .iter()
            .filter_map(|(stored, standing)| {
                let (id, user_id) = (stored.id.as_str(), stored.user_id.as_deref()?);
                Some(Enlisted { id, user_id, expires_at: standing.expires_at })
            })
            .collect();
        let unlisted = survey.unlisted(&owned, step.now).await?;
        let wanted: Vec<_> =
            owned.iter().zip(&unlisted).filter(|(_, unlisted)| **unlisted).map(|(one, _)| *one).collect();
        if !dry_run {
            sessions.store(sessions.begin()).enlist(&wanted, step.now).await?;
        }
        self.adopted += wanted.len() as u64;
        self.listed += (owned.len() - wanted.len()) as u64;
        self.without_user += (live.len() - owned.len()) as u64;
        for stored in &step.entries {
            match &stored.record {
                Ok(_) => self.ended += u64::from(stored.standing.is_none()),
                Err(why) => {
                    self.unreadable += 1;
                    if self.examples.len() < EXAMPLES {
                        self.examples.push(Unreadable { id: stored.id.clone(), why: why.to_string() });
                    }
                }
            }
        }
        Ok(())
    }
}
