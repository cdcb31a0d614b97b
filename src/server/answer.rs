//! The body of an answer. It notes what is sent, and ends its request after the last byte.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use super::connection::Shared;
use super::progress::Unsent;
use crate::api::InFlight;

/// An open request. It ends when this is dropped.
pub(super) struct Open {
    pub(super) shared: Arc<Shared>,
    answer: Option<(Unsent, Option<InFlight>)>,
}

impl Open {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.progress.opened();
        Self { shared, answer: None }
    }

    /// Notes that the request has an answer. `in_flight` is dropped after the answer is sent.
    pub(super) fn answered(mut self, in_flight: Option<InFlight>) -> Self {
        self.answer = Some((self.shared.progress.answered(), in_flight));
        self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((answer, _)) = &self.answer {
            self.shared.progress.sent(answer);
        }
        self.shared.progress.closed();
    }
}

/// A body whose last chunk keeps the request open until the chunk is sent. The body itself cannot: hyper drops it when
/// it takes the last chunk.
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

/// A part of a body. The last one keeps the request open.
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
        // hyper drops a chunk after its last byte, and that ends the request.
        if let Some(Open { shared, answer: Some((answer, _)) }) = &mut self.open
            && !self.bytes.is_empty()
        {
            shared.progress.sending(answer, sent);
        }
    }
}
