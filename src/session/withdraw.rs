//! Withdrawals: sessions that were stored, or may have been, and whose caller was told that they were not.
//!
//! A call that the store did not answer in time may be applied later. Nobody holds the cookie of such a session, but it
//! would be listed, and take a place of its user. So it is removed as soon as the store answers again, and once more a
//! little later: a write that was under way when its connection broke can arrive after the first removal.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::{Id, Sessions};

/// How many sessions wait to be removed at most. Further ones are left to expire.
const MOST: usize = 10_000;
/// How long to wait after a removal that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long removals that fail are repeated.
const PATIENCE: Duration = Duration::from_secs(120);
/// When a session is removed again: after every write that was under way has arrived or was dropped.
const AGAIN: Duration = Duration::from_secs(5);

/// The sessions that are to be removed, in the order in which they are due.
#[derive(Default)]
pub(super) struct Withdrawals {
    first: Mutex<VecDeque<Withdrawal>>,
    again: Mutex<VecDeque<Withdrawal>>,
}

#[derive(Clone)]
struct Withdrawal {
    id: Id,
    user_id: Option<String>,
    due: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    First,
    Again,
}

impl Withdrawals {
    fn queue(&self, round: Round) -> MutexGuard<'_, VecDeque<Withdrawal>> {
        let queue = match round {
            Round::First => &self.first,
            Round::Again => &self.again,
        };
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Removes a session whose caller got an error, in the background.
    pub(super) fn withdraw(&self, id: Id, user_id: Option<String>) {
        self.queue(Withdrawal { id, user_id, due: Instant::now() }, Round::First);
    }

    fn queue(&self, withdrawal: Withdrawal, round: Round) {
        let mut queue = self.inner.withdrawals.queue(round);
        if queue.len() >= MOST {
            return;
        }
        queue.push_back(withdrawal);
        // One task works for each round, while there is something to remove.
        if queue.len() == 1 {
            let sessions = self.clone();
            tokio::spawn(async move { sessions.work_off(round).await });
        }
    }

    async fn work_off(self, round: Round) {
        loop {
            let Some(next) = self.inner.withdrawals.queue(round).front().cloned() else { return };
            sleep_until(next.due).await;
            let call = self.begin();
            let removed = self.store(call).remove(&[next.id.as_str()], next.user_id.as_deref(), call.now).await;
            if removed.is_err() && next.due.elapsed() < PATIENCE {
                sleep(PAUSE).await;
                continue;
            }
            let done = {
                let mut queue = self.inner.withdrawals.queue(round);
                queue.pop_front();
                queue.is_empty()
            };
            if round == Round::First && removed.is_ok() {
                self.queue(Withdrawal { due: Instant::now() + AGAIN, ..next }, Round::Again);
            }
            if done {
                return;
            }
        }
    }
}
