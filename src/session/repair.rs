//! Repairs: what is left to do after a call to the store that failed, done in the background when the store answers again.
//!
//! - A session whose caller was told that it was not stored is withdrawn. A call that was not answered in time may be applied
//!   later: nobody holds the cookie of such a session, but it would be listed, and take a place of its user. It is removed
//!   once more a little later, because a write that was under way when its connection broke can arrive after the first removal.
//! - A user whose sessions could not be brought down to the limit after a login is tried again.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::{Error, Id, Sessions};

/// How many repairs wait at most. Further ones are left out: sessions expire, and the next login evicts.
const MOST: usize = 10_000;
/// How long to wait after a repair that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long repairs that fail are repeated.
const PATIENCE: Duration = Duration::from_secs(120);
/// When a session is removed again: after every write that was under way has arrived or was dropped.
const AGAIN: Duration = Duration::from_secs(5);

/// The repairs to be made.
#[derive(Default)]
pub(super) struct Repairs {
    first: Mutex<Queue>,
    again: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Repair>,
    /// Whether a task works on them.
    is_worked_on: bool,
}

struct Repair {
    work: Work,
    due: Instant,
}

#[derive(PartialEq, Eq)]
enum Work {
    Withdraw { id: Id, user_id: Option<String> },
    Evict { user_id: String },
}

#[derive(Clone, Copy)]
enum Round {
    First,
    Again,
}

impl Repairs {
    fn queue(&self, round: Round) -> MutexGuard<'_, Queue> {
        let queue = match round {
            Round::First => &self.first,
            Round::Again => &self.again,
        };
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Removes a session whose caller got an error, in the background.
    pub(super) fn withdraw_later(&self, id: Id, user_id: Option<String>) {
        self.repair_later(Work::Withdraw { id, user_id }, Instant::now(), Round::First);
    }

    /// Ends the sessions that a user has too many, in the background.
    pub(super) fn evict_later(&self, user_id: String) {
        self.repair_later(Work::Evict { user_id }, Instant::now(), Round::First);
    }

    fn repair_later(&self, work: Work, due: Instant, round: Round) {
        // There is none while the process ends.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut queue = self.inner.repairs.queue(round);
        let is_evicted = |repair: &Repair| matches!(work, Work::Evict { .. }) && repair.work == work;
        if queue.waiting.len() >= MOST || queue.waiting.iter().any(is_evicted) {
            return;
        }
        queue.waiting.push_back(Repair { work, due });
        if !std::mem::replace(&mut queue.is_worked_on, true) {
            let sessions = self.clone();
            runtime.spawn(async move { sessions.repair_all(round).await });
        }
    }

    async fn repair_all(self, round: Round) {
        loop {
            let next = {
                let mut queue = self.inner.repairs.queue(round);
                let next = queue.waiting.pop_front();
                queue.is_worked_on = next.is_some();
                next
            };
            let Some(next) = next else { return };
            sleep_until(next.due).await;
            let repaired = AssertUnwindSafe(self.repair(&next.work)).catch_unwind().await;
            match (repaired, round, &next.work) {
                (Ok(Ok(())), Round::First, Work::Withdraw { .. }) => {
                    self.repair_later(next.work, Instant::now() + AGAIN, Round::Again);
                }
                // The others first: this one may take longer than there is time.
                (Ok(Err(_)), ..) if next.due.elapsed() < PATIENCE => {
                    self.inner.repairs.queue(round).waiting.push_back(next);
                    sleep(PAUSE).await;
                }
                // Done, given up, or a panic, which was logged.
                _ => {}
            }
        }
    }

    async fn repair(&self, work: &Work) -> Result<(), Error> {
        match work {
            Work::Withdraw { id, user_id } => {
                let call = self.begin();
                self.store(call).remove(&[id.as_str()], user_id.as_deref(), call.now).await?;
                Ok(())
            }
            Work::Evict { user_id } => self.evict_down_to_limit(user_id, self.begin_many()).await,
        }
    }
}
