//! The updates of one session, one after another.
//!
//! An update reads the record and replaces it by compare-and-set. Of a thousand at once all but one would lose that race
//! and read again, so that their work grows with the square of their number and leaves nothing for other callers. In a
//! queue each reads once, and races only with other processes.
//!
//! A queue for each session, and not a fixed number of locks that sessions share: a session with a thousand updates to do
//! delays no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Error, Id};
use crate::store;

/// How many updates of one session may wait, the one in progress included.
const MAX_UPDATES: usize = 1024;

/// How long an update waits for its turn. Within the API's deadline, so that the caller learns that nothing was changed.
const PATIENCE: Duration = Duration::from_secs(4);

/// The queues of the sessions that are being updated.
#[derive(Default)]
pub(super) struct UpdateQueues(Mutex<HashMap<Id, Queue>>);

#[derive(Default)]
struct Queue {
    updates: usize,
    turn: Turn,
}

/// The right to update, which waiting updates get in the order of their calls. It holds the last failure of the store.
type Turn = Arc<tokio::sync::Mutex<Option<(Instant, store::Error)>>>;

/// A place in a queue, until it is dropped.
struct Place<'q> {
    queues: &'q UpdateQueues,
    id: &'q Id,
}

impl UpdateQueues {
    /// Runs `update` after all that began earlier.
    ///
    /// # Errors
    /// Those of `update`; [`Error::Contention`] if the queue is full or the turn does not come in time; and the store's error
    /// if it was unavailable to an earlier update meanwhile: each would wait for the store's deadline in turn.
    pub(super) async fn run<T>(&self, id: &Id, update: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let began = Instant::now();
        let (_place, turn) = self.enter(id).ok_or(Error::Contention)?;
        let mut failure = timeout(PATIENCE, turn.lock()).await.map_err(|_| Error::Contention)?;
        if let Some((_, error)) = failure.as_ref().filter(|(at, _)| *at >= began) {
            return Err(error.clone().into());
        }
        let outcome = update.await;
        *failure = match &outcome {
            Err(Error::Store(error @ store::Error::Unavailable(_))) => Some((Instant::now(), error.clone())),
            _ => None,
        };
        outcome
    }

    fn enter<'q>(&'q self, id: &'q Id) -> Option<(Place<'q>, Turn)> {
        let mut queues = self.lock();
        let queue = queues.entry(id.clone()).or_default();
        if queue.updates == MAX_UPDATES {
            return None;
        }
        queue.updates += 1;
        Some((Place { queues: self, id }, Arc::clone(&queue.turn)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(self.id) {
            queue.updates -= 1;
            if queue.updates == 0 {
                queues.remove(self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    fn id(name: &str) -> Id {
        Id::parse(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn updates_run_in_the_order_of_their_calls_one_at_a_time() {
        let (queues, id, log) = (UpdateQueues::default(), id("a"), Mutex::new(Vec::new()));
        let (queues, id, log) = (&queues, &id, &log);
        let update = |number| async move {
            log.lock().unwrap().push((number, "begins"));
            tokio::time::sleep(Duration::from_millis(1)).await;
            log.lock().unwrap().push((number, "ends"));
            Ok(number)
        };
        let outcomes = join_all((0..100).map(|number| queues.run(id, update(number)))).await;
        assert!(outcomes.into_iter().map(Result::unwrap).eq(0..100));
        let expected = (0..100).flat_map(|number| [(number, "begins"), (number, "ends")]);
        assert!(log.lock().unwrap().iter().copied().eq(expected), "{log:?}");
        assert!(queues.lock().is_empty(), "nobody waits");
    }

    #[tokio::test]
    async fn an_update_of_another_session_does_not_wait() {
        let (queues, a, b) = (UpdateQueues::default(), id("a"), id("b"));
        let mut held = Box::pin(queues.run(&a, pending::<Result<(), Error>>()));
        assert!((&mut held).now_or_never().is_none());
        queues.run(&b, ready(Ok(()))).now_or_never().unwrap().unwrap();
        assert_eq!(queues.lock().len(), 1);
        // The caller hangs up.
        drop(held);
        assert!(queues.lock().is_empty());
        queues.run(&a, ready(Ok(()))).now_or_never().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_bounded_in_length_and_in_time() {
        let (queues, id) = (UpdateQueues::default(), id("a"));
        let mut all: Vec<_> =
            (0..MAX_UPDATES).map(|_| Box::pin(queues.run(&id, pending::<Result<(), Error>>()))).collect();
        assert!(all.iter_mut().all(|update| update.now_or_never().is_none()));
        let full = queues.run(&id, ready(Ok(()))).now_or_never().unwrap();
        assert!(matches!(full, Err(Error::Contention)));
        drop(all.pop());
        let began = Instant::now();
        assert!(matches!(queues.run(&id, ready(Ok(()))).await, Err(Error::Contention)));
        assert!(began.elapsed() >= PATIENCE);
        drop(all);
        assert!(queues.lock().is_empty());
    }

    #[tokio::test]
    async fn who_waits_behind_a_store_that_failed_is_told_so_at_once() {
        let (queues, id) = (UpdateQueues::default(), id("a"));
        let (fail, failed) = oneshot::channel::<store::Error>();
        let first = queues.run(&id, async { Err::<(), _>(failed.await.unwrap().into()) });
        let waiting = (0..10).map(|_| queues.run(&id, async { panic!("the store is not asked") }));
        let fails = async { fail.send(store::Error::Unavailable("no answer in time".into())).unwrap() };
        let (first, waiting, ()) = tokio::join!(first, join_all(waiting), fails);
        let unavailable =
            |outcome: &Result<(), Error>| matches!(outcome, Err(Error::Store(store::Error::Unavailable(_))));
        assert!(unavailable(&first) && waiting.iter().all(unavailable));
        queues.run(&id, ready(Ok(()))).await.unwrap();
        // Any other error is one update's own.
        let (first, next) = tokio::join!(
            queues.run(&id, ready(Err::<(), _>(Error::PreconditionFailed))),
            queues.run(&id, ready(Ok(())))
        );
        assert!(first.is_err() && next.is_ok());
    }
}
