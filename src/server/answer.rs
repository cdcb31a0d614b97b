//! The body of an answer, which knows when its last byte has been sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use super::connection::Shared;
use crate::api::InFlight;

/// A request that is being answered. It ends when this is dropped.
pub(super) struct Open {
    pub(super) shared: Arc<Shared>,
    answer: Option<Unsent>,
}

/// An answer that is not sent yet.
struct Unsent {
    slice: u64,
    _in_flight: Option<InFlight>,
}

impl Open {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.progress.opened();
        Self { shared, answer: None }
    }

    /// The request has an answer; `in_flight` is held until that is sent.
    pub(super) fn answered(mut self, in_flight: Option<InFlight>) -> Self {
        self.answer = Some(Unsent { slice: self.shared.progress.answered(), _in_flight: in_flight });
        self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(answer) = &self.answer {
            self.shared.progress.sent(answer.slice);
        }
        self.shared.progress.closed();
    }
}

/// A body whose last chunk holds the request open until it is sent: hyper drops the body itself earlier, as soon as it
/// has taken the chunk.
pub(super) struct Answer {
    body: Body,
    open: Option<Open>,
}

impl Answer {
    pub(super) fn new(body: Body, open: Open) -> Self {
        Self { body, open: Some(open) }
    }
}

impl HttpBody for Answer {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? else {
            self.open = None;
            return Poll::Ready(None);
        };
        let open = if self.body.is_end_stream() { self.open.take() } else { None };
        Poll::Ready(Some(Ok(frame.map_data(|bytes| Chunk { bytes, open }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of a body.
pub(super) struct Chunk {
    bytes: Bytes,
    open: Option<Open>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, sent: usize) {
        self.bytes.advance(sent);
        // At its end it is dropped, which says more.
        if let Some(Open { shared, answer: Some(answer) }) = &mut self.open
            && !self.bytes.is_empty()
        {
            answer.slice = shared.progress.sending(answer.slice);
        }
    }
}
