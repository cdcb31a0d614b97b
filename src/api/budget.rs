//! Bounds on the memory that bodies and large answers take on all connections together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{Error, Result};

/// Bytes of the bodies of requests in progress, except batches: about 450 of the largest updates. A parsed body takes up
/// to 20 times its size.
pub(super) const BODIES: usize = 64 * 1024 * 1024;
/// Bytes of the bodies of batches whose cookies are not verified yet: 16 of the largest. They have a budget of their own,
/// so that slow batches refuse no login.
pub(super) const BATCHES: usize = 64 * 1024 * 1024;
/// Bytes that batches in progress may find in the store, if each session has as much data as it may: 16 of the largest
/// batches. Most find far less.
pub(super) const LOOKUPS: usize = 256 * 1024 * 1024;
/// Bytes of answers to batches that are being made or sent: four of the largest. Making one takes about three times its
/// size.
pub(super) const ANSWERS: usize = 64 * 1024 * 1024;
/// Answers of /metrics that are being sent, each of about 70 KiB. The route needs no key.
pub(super) const TEXTS: usize = 16;

/// How long a batch waits for other batches.
const WAIT: Duration = Duration::from_secs(1);

/// A limited amount of a resource.
pub(super) struct Budget(Arc<Semaphore>);

/// A part of a budget. It is given back when this is dropped.
pub(super) struct Held(OwnedSemaphorePermit);

impl Budget {
    pub(super) fn new(amount: usize) -> Self {
        Self(Arc::new(Semaphore::new(amount)))
    }

    /// Takes `amount`.
    ///
    /// # Errors
    /// 503 if less than that is free.
    pub(super) fn take(&self, amount: usize) -> Result<Held> {
        let permit = Arc::clone(&self.0).try_acquire_many_owned(permits(amount));
        permit.map(Held).map_err(|_| overloaded())
    }

    /// Takes `amount`, and waits up to a second for it.
    ///
    /// # Errors
    /// 503 if less than that becomes free.
    pub(super) async fn take_soon(&self, amount: usize) -> Result<Held> {
        let permit = timeout(WAIT, Arc::clone(&self.0).acquire_many_owned(permits(amount))).await;
        permit.ok().and_then(std::result::Result::ok).map(Held).ok_or_else(overloaded)
    }
}

impl Held {
    /// Adds another part of the same budget.
    pub(super) fn add(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// Gives back what is held above `amount`.
    pub(super) fn shrink(&mut self, amount: usize) {
        drop(self.0.split(self.0.num_permits().saturating_sub(amount)));
    }

    /// Returns `bytes` as a body that holds this until it is sent.
    pub(super) fn with(self, bytes: impl Into<Vec<u8>>) -> Bytes {
        Bytes::from_owner(HeldBytes { bytes: bytes.into(), _held: self })
    }
}

struct HeldBytes {
    bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn permits(amount: usize) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}

fn overloaded() -> Error {
    Error::overloaded(
        "requests and answers in progress take all the memory that they may: try again",
        "requests and answers in progress take all the memory that they may",
    )
}
