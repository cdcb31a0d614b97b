//! The calls that wait for a thread.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{Error, Result};

/// The maximum number of jobs in a queue. A job stays in the queue after its caller has given up, so this is more than
/// `--max-in-flight`: a burst of that many calls is not refused. When the disk stalls, jobs without a payload use some
/// 20 MiB of memory at the most.
const MAX_JOBS: usize = 65_536;
/// The maximum size of what the jobs in a queue contain, in bytes: about what the threads handle within the deadline of
/// a call. A burst of 4,096 updates of sessions of 8 kB fits.
const MAX_BYTES: usize = 64 << 20;

/// The sending end of a queue.
pub(super) struct Queue<T> {
    jobs: Sender<Queued<T>>,
    bytes: Arc<Semaphore>,
}

/// A job, and its share of the queue's bytes. The share is returned when it is dropped.
pub(super) struct Queued<T> {
    pub(super) job: T,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub(super) fn new() -> (Self, Receiver<Queued<T>>) {
        let (jobs, queued) = unbounded();
        (Self { jobs, bytes: Arc::new(Semaphore::new(MAX_BYTES)) }, queued)
    }

    /// Appends `job`, which contains `bytes` of ids and records.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the queue is full, or if no thread takes jobs any more.
    pub(super) fn push(&self, job: T, bytes: usize) -> Result<()> {
        if self.jobs.len() >= MAX_JOBS {
            return Err(Error::Unavailable(format!("{MAX_JOBS} calls are waiting for SQLite")));
        }
        // A resolve takes no share: it contains an id only, and does not have to touch the semaphore.
        let share = (bytes > 0).then(|| {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            Arc::clone(&self.bytes).try_acquire_many_owned(bytes)
        });
        let share = share.transpose().map_err(|_| {
            let max = MAX_BYTES >> 20;
            Error::Unavailable(format!("calls with {max} MiB of data are waiting for SQLite"))
        })?;
        self.jobs.send(Queued { job, _bytes: share }).map_err(|_| stopped())
    }
}

/// The error of a call whose thread has ended.
pub(super) fn stopped() -> Error {
    Error::Unavailable("the SQLite thread has stopped".into())
}
