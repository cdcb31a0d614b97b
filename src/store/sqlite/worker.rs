//! What the threads of the store have in common: their supervision.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::health::Health;
use crate::store::{Error, Result};
use crate::supervise::{STEADY, Task};
use crate::telemetry::Metrics;

/// A thread of the store.
pub(super) struct Worker {
    pub(super) health: Arc<Health>,
    pub(super) task: Task,
}

impl Worker {
    /// A thread that is up. Its panics are counted in `metrics` under `name`.
    pub(super) fn new(name: &'static str, health: &Arc<Health>, metrics: &Metrics) -> Self {
        Self { health: Arc::clone(health), task: Task::new(name, metrics) }
    }

    /// Runs a call to SQLite, and notes what its error says about the file. A panic is an error, and is counted; the
    /// thread goes on.
    pub(super) fn run<T>(&self, call: impl FnOnce() -> rusqlite::Result<T>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(answer) => answer.map_err(|error| self.health.note(error)),
            Err(_) => {
                self.task.caught_panic();
                Err(Error::Unexpected("a call to SQLite panicked".into()))
            }
        }
    }

    /// Takes jobs until nobody can send more. A panic drops the job, and the next one is taken.
    pub(super) fn take_jobs<T>(&self, jobs: &Receiver<T>, mut work: impl FnMut(T)) {
        loop {
            // While the task is down, a turn ends without a job too: the task is then up again.
            let job = if self.task.is_down() { jobs.recv_timeout(STEADY) } else { jobs.recv().map_err(Into::into) };
            match job {
                Ok(job) => self.task.turn(|| work(job)),
                Err(RecvTimeoutError::Timeout) => self.task.turn(|| ()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
        }
    }
}
