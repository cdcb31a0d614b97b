//! Serves the API: our own accept loop, because `axum::serve` has no deadline for a request's head.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge (h2c), over TCP or a unix socket.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use crate::api::Api;
use crate::config::{Listen, Server};
use crate::supervise::Task;
use crate::telemetry::Metrics;

/// What a request's head may take: more is answered 431 by hyper, without a body.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Requests that one HTTP/2 connection may have in work.
const MAX_STREAMS: u32 = 128;
/// How often an HTTP/2 connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// IP:PORT.
    Tcp(TcpListener),
    /// unix:PATH; the file goes when this does.
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file at the end.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds `listen`. A socket file that nobody listens on any more is replaced; its mode is 0660.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Where it listens, with the port that was given for port 0.
    #[must_use]
    pub fn address(&self) -> Option<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Self::Unix(_, file) => Some(Listen::Unix(file.0.clone())),
        }
    }
}

async fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let why = "there is a file that is no socket: remove it, or give another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "something else is there"));
    }
    fs::remove_file(path)
}

/// Serves `api` on `listener` until `shutdown` ends, then lets the requests in work end, within the drain timeout.
/// Open connections are counted in `metrics`.
pub async fn serve(
    listener: Listener,
    api: Api,
    config: &Server,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()>,
) {
    let head_timeout = Duration::from_millis(config.read_timeout.unsigned_abs());
    let keep_alive = Duration::from_millis(config.keep_alive_timeout.unsigned_abs());
    let connection = Connection { builder: builder(head_timeout, keep_alive), api, head_timeout };
    let free = Arc::new(Semaphore::new(descriptors(config.max_connections)));
    let graceful = GracefulShutdown::new();
    let accepting = Task::new("accept", metrics);
    tokio::select! {
        () = shutdown => {}
        () = accepting.run(|| accept(&listener, &connection, &free, &graceful, &metrics.connections)) => {}
    }
    drop(listener);
    let drain = Duration::from_millis(config.drain_timeout.unsigned_abs());
    if timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

/// Accepts connections, and spawns a task for each.
async fn accept(
    listener: &Listener,
    connection: &Connection,
    free: &Arc<Semaphore>,
    graceful: &GracefulShutdown,
    open: &Gauge,
) {
    let mut refused = false;
    loop {
        let permit = Arc::clone(free).acquire_owned().await;
        match listener.accept().await {
            Ok(stream) => {
                refused = false;
                let (connection, watcher, open) = (connection.clone(), graceful.watcher(), open.clone());
                open.inc();
                tokio::spawn(async move {
                    match stream {
                        Stream::Tcp(stream) => connection.run(stream, watcher).await,
                        Stream::Unix(stream) => connection.run(stream, watcher).await,
                    }
                    open.dec();
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: those that are open go on, and some will close.
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "connections cannot be accepted; trying on");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// How many connections there can be: each takes a file descriptor, and the store and the logs need some too.
fn descriptors(max_connections: usize) -> usize {
    const OTHERS: u64 = 64;
    let wanted = max_connections as u64 + OTHERS;
    let allowed = rlimit::increase_nofile_limit(wanted).unwrap_or(wanted);
    if allowed >= wanted {
        return max_connections;
    }
    let possible = usize::try_from(allowed.saturating_sub(OTHERS).max(1)).unwrap_or(max_connections);
    tracing::warn!(
        possible,
        max_connections,
        "fewer connections are possible than --max-connections: raise the limit of open files (ulimit -n)"
    );
    possible
}

fn builder(head_timeout: Duration, keep_alive: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(keep_alive)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(head_timeout);
    builder
}

#[derive(Clone)]
struct Connection {
    builder: Builder<TokioExecutor>,
    api: Api,
    head_timeout: Duration,
}

impl Connection {
    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, watcher: Watcher) {
        // hyper's deadline for a head runs from the end of the request before, so it is as long as a connection may idle.
        // The first request has this one, which also holds for whoever sends nothing at all.
        let used = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&used);
        // One of its own: those who share a count of references wait for each other.
        let api = Arc::new(self.api);
        let service = service_fn(move |request: Request<Incoming>| {
            mark.store(true, Ordering::Relaxed);
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        // Whoever does not read what was asked for is let go.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.head_timeout));
        let served = watcher.watch(self.builder.serve_connection(TokioIo::new(Box::pin(stream)), service).into_owned());
        let unused = async {
            sleep(self.head_timeout).await;
            if used.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // A connection that breaks is the client's business.
            _ = served => {}
            () = unused => {}
        }
    }
}
