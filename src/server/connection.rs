//! One connection, HTTP/1.1 or HTTP/2 with prior knowledge, and its deadlines.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, Open};
use super::progress::{Deadlines, Due, Progress};
use super::stream::Stream;
use crate::api::{Api, MAX_HEADERS};

/// The largest head of a request: more is answered 431 by hyper, without a body.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Requests that one HTTP/2 connection may have in progress.
const MAX_STREAMS: u32 = 128;
/// How often an HTTP/2 connection gets a PING.
const PING_EVERY: Duration = Duration::from_secs(30);
/// The flow-control windows of HTTP/2: how many bytes of one body, and of all bodies on a connection, a client may send
/// before we read them. hyper's default, a megabyte of each, would allow 10 GB on all connections. A batch of 4 MiB takes
/// 64 round trips.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// The first bytes of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After this time an idle HTTP/1.1 connection frees its buffers: 16 KiB of hyper's.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// How connections are served.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    deadlines: Deadlines,
}

/// The state that the parts of one connection share.
pub(super) struct Shared {
    api: Arc<Api>,
    pub(super) progress: Progress,
}

/// Changes once, when the server stops.
pub(super) type Stopping = watch::Receiver<bool>;

impl Protocols {
    pub(super) fn new(deadlines: Deadlines) -> Self {
        let mut http1 = http1::Builder::new();
        // hyper's own deadline for a head includes the idle time before it, and takes a timer for each request.
        http1.header_read_timeout(None).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(deadlines.read);
        Self { http1, http2, deadlines }
    }

    /// Serves a connection until it ends, is late, or the server stops.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        api: Arc<Api>,
        mut stopping: Stopping,
    ) {
        let shared = Arc::new(Shared { api, progress: Progress::new(self.deadlines) });
        let until = Instant::now() + self.deadlines.read;
        let mut first = [0; PREFACE.len()];
        let begun = tokio::select! {
            biased;
            begun = read_preface(&mut socket, &mut first) => begun,
            _ = stopping.changed() => None,
            () = sleep_until(until) => None,
        };
        let Some(first) = begun.map(|length| Bytes::copy_from_slice(&first[..length])) else { return };
        if first == PREFACE {
            self.serve_http2(Stream::new(socket, first, Arc::clone(&shared), false), shared, stopping).await;
        } else {
            self.serve_http1(socket, first, shared, stopping).await;
        }
    }

    async fn serve_http1<S>(&self, mut socket: S, mut ahead: Bytes, shared: Arc<Shared>, mut stopping: Stopping)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let park_after = PARK_AFTER.min(self.deadlines.keep_alive);
        loop {
            let stream = TokioIo::new(Stream::new(socket, ahead, Arc::clone(&shared), true));
            // In a box, so that an idle connection returns its memory.
            let mut connection = Box::new(self.http1.serve_connection(stream, service(&shared)));
            let timer = sleep_until(Instant::now() + self.deadlines.read.min(park_after));
            let mut timer = std::pin::pin!(timer);
            let mut stopped = false;
            loop {
                tokio::select! {
                    biased;
                    // A connection that breaks is the client's business.
                    _ = &mut *connection => return,
                    _ = stopping.changed(), if !stopped => {
                        stopped = true;
                        std::pin::Pin::new(&mut *connection).graceful_shutdown();
                    }
                    () = &mut timer => match shared.progress.due(park_after) {
                        Due::Later(next) => timer.as_mut().reset(next),
                        Due::Late => return,
                        Due::Idle => break,
                    },
                }
            }
            // Nothing is lost: no request is open, and hyper has written every answer.
            let parts = connection.into_parts();
            socket = parts.io.into_inner().socket;
            ahead = parts.read_buf;
            if ahead.is_empty() {
                let mut first = [0; PREFACE.len()];
                let read = tokio::select! {
                    biased;
                    read = socket.read(&mut first) => read.unwrap_or(0),
                    _ = stopping.changed(), if !stopped => 0,
                    () = sleep_until(shared.progress.idle_until(self.deadlines.keep_alive)) => 0,
                };
                if read == 0 {
                    return;
                }
                shared.progress.received();
                ahead = Bytes::copy_from_slice(&first[..read]);
            } else {
                shared.progress.received_while_busy();
            }
        }
    }

    async fn serve_http2<S>(&self, stream: Stream<S>, shared: Arc<Shared>, mut stopping: Stopping)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = self.http2.serve_connection(TokioIo::new(stream), service(&shared));
        let mut connection = Box::pin(connection);
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        let mut stopped = false;
        // When to cut the connection, after a GOAWAY that its client may have ignored.
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                _ = &mut connection => return,
                _ = stopping.changed(), if !stopped => {
                    stopped = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut timer => match (shared.progress.due(self.deadlines.keep_alive), last) {
                    (Due::Later(next), _) => timer.as_mut().reset(next),
                    (Due::Idle, Some(last)) if last > Instant::now() => timer.as_mut().reset(last),
                    // A client that opened the connection ahead and has asked nothing yet gets a GOAWAY too.
                    (Due::Late, None) if !shared.progress.awaits_head() => return,
                    (Due::Idle | Due::Late, Some(_)) => return,
                    (Due::Idle | Due::Late, None) => {
                        connection.as_mut().graceful_shutdown();
                        let end = Instant::now() + self.deadlines.read;
                        last = Some(end);
                        timer.as_mut().reset(end);
                    }
                },
            }
        }
    }
}

/// Reads until it is known whether the client speaks HTTP/2. Returns how many bytes were read, or `None` if the client has
/// closed the connection.
async fn read_preface(socket: &mut (impl AsyncRead + Unpin), first: &mut [u8; PREFACE.len()]) -> Option<usize> {
    let mut filled = 0;
    while filled < first.len() && PREFACE.starts_with(&first[..filled]) {
        match socket.read(&mut first[filled..]).await {
            Ok(read) if read > 0 => filled += read,
            _ => return None,
        }
    }
    Some(filled)
}

fn service(
    shared: &Arc<Shared>,
) -> impl HttpService<Incoming, ResBody = Answer, Error = Infallible, Future: Send + 'static> + Unpin + use<> {
    let shared = Arc::clone(shared);
    service_fn(move |request: Request<Incoming>| {
        let open = Open::new(Arc::clone(&shared));
        async move {
            let (response, in_flight) = open.shared.api.answer(request).await;
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, open.answered(in_flight))))
        }
    })
}
