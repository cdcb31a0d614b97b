//! Finds that are asked for at the same time go to Redis together.
//!
//! A round trip costs both sides far more than one more key in it: a wake-up and a system call or two each. So the first
//! who asks lets all others ask that are about to, which takes no time when there are none, and then asks for all.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::yield_now;

/// How many are asked for together at the most: with more, both sides wait for each other in turns.
const MOST: usize = 16;

/// Questions of the type `Q` with answers of the type `A`.
pub(super) struct Gather<Q, A>(Mutex<Vec<Waiting<Q, A>>>);

type Waiting<Q, A> = (Q, oneshot::Sender<A>);

impl<Q, A> Default for Gather<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q, A> Gather<Q, A> {
    /// The answer to `question`, by `ask`, which answers many in their order. None: who was to ask has gone away.
    pub(super) async fn ask(&self, question: Q, ask: impl AsyncFnOnce(Vec<Q>) -> Vec<A>) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        let waiting = {
            let mut waiting = self.lock();
            waiting.push((question, answer));
            waiting.len()
        };
        if waiting == 1 || waiting == MOST {
            let gathered = Gathered(self);
            if waiting == 1 {
                yield_now().await;
            }
            let (questions, answers): (Vec<_>, Vec<_>) = gathered.take().into_iter().unzip();
            if !questions.is_empty() {
                for (answer, to) in ask(questions).await.into_iter().zip(answers) {
                    let _ = to.send(answer);
                }
            }
        }
        answered.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting<Q, A>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the questions, also when whoever was to ask them goes away: then nobody waits for that.
struct Gathered<'g, Q, A>(&'g Gather<Q, A>);

impl<Q, A> Gathered<'_, Q, A> {
    fn take(self) -> Vec<Waiting<Q, A>> {
        let gathered = std::mem::take(&mut *self.0.lock());
        std::mem::forget(self);
        gathered
    }
}

impl<Q, A> Drop for Gathered<'_, Q, A> {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_asks_at_the_same_time_is_answered_together() {
        let (gather, times) = (Gather::default(), AtomicUsize::new(0));
        let double = async |numbers: Vec<usize>| {
            times.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
            numbers.iter().map(|number| 2 * number).collect()
        };
        for (askers, at_most) in [(1, 1), (MOST - 1, 1), (MOST, 1), (10 * MOST + 1, 11)] {
            times.store(0, Ordering::Relaxed);
            let answers = join_all((0..askers).map(|number| gather.ask(number, double))).await;
            assert!(answers.iter().enumerate().all(|(number, answer)| *answer == Some(2 * number)));
            assert!((1..=at_most).contains(&times.load(Ordering::Relaxed)), "{times:?} times for {askers}");
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_who_has_gone() {
        let gather = Gather::<u8, u8>::default();
        let never = async |_| pending().await;
        // Before it has asked, and while it asks.
        for polls in [1, 2] {
            let mut first = Box::pin(gather.ask(1, never));
            assert!(first.as_mut().now_or_never().is_none());
            let mut second = Box::pin(gather.ask(2, never));
            assert!(second.as_mut().now_or_never().is_none());
            if polls == 2 {
                yield_now().await;
                assert!(first.as_mut().now_or_never().is_none());
            }
            drop(first);
            assert_eq!(second.await, None);
        }
        let same = async |numbers| numbers;
        assert_eq!(gather.ask(3, same).await, Some(3));
    }
}
