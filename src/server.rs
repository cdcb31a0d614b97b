//! Serves the API: our own accept loop, because `axum::serve` has no deadline for a request's head.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge (h2c), over TCP or a unix socket.

mod answer;
mod connection;
mod progress;
mod stream;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use self::connection::Protocols;
use self::progress::Deadlines;
use crate::api::Api;
use crate::config::{Listen, Server};
use crate::supervise::Task;
use crate::telemetry::Metrics;

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

/// Serves `api` on `listener` until `shutdown` ends, then lets the requests in progress end, within the drain timeout.
/// Open connections are counted in `metrics`.
pub async fn serve(
    listener: Listener,
    api: Api,
    config: &Server,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()>,
) {
    let read = Duration::from_millis(config.read_timeout.unsigned_abs());
    let keep_alive = Duration::from_millis(config.keep_alive_timeout.unsigned_abs());
    let (stop, stopping) = watch::channel(false);
    let connections = Connections {
        protocols: Arc::new(Protocols::new(Deadlines { read, keep_alive })),
        api,
        free: Arc::new(Semaphore::new(descriptors(config.max_connections))),
        open: metrics.connections.clone(),
        tasks: TaskTracker::new(),
        stopping,
    };
    let accepting = Task::new("accept", metrics);
    tokio::select! {
        () = shutdown => {}
        () = accepting.run(|| connections.accept(&listener)) => {}
    }
    drop(listener);
    stop.send_replace(true);
    connections.tasks.close();
    let drain = Duration::from_millis(config.drain_timeout.unsigned_abs());
    if timeout(drain, connections.tasks.wait()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

/// The open connections, and what each of them needs.
struct Connections {
    protocols: Arc<Protocols>,
    api: Api,
    free: Arc<Semaphore>,
    open: Gauge,
    tasks: TaskTracker,
    stopping: watch::Receiver<bool>,
}

/// Counts a connection as open until it is dropped.
struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Connections {
    /// Accepts connections, and spawns a task for each.
    async fn accept(&self, listener: &Listener) {
        let mut refused = false;
        loop {
            let permit = Arc::clone(&self.free).acquire_owned().await;
            match listener.accept().await {
                Ok(stream) => {
                    refused = false;
                    self.open.inc();
                    let open = Open(self.open.clone());
                    let (protocols, stopping) = (Arc::clone(&self.protocols), self.stopping.clone());
                    // One of its own: those who share a count of references wait for each other.
                    let api = Arc::new(self.api.clone());
                    self.tasks.spawn(async move {
                        match stream {
                            Stream::Tcp(stream) => protocols.serve(stream, api, stopping).await,
                            Stream::Unix(stream) => protocols.serve(stream, api, stopping).await,
                        }
                        drop((open, permit));
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: those that are open go on, and some will close.
                    if !std::mem::replace(&mut refused, true) {
                        tracing::warn!(%error, "accept failed; retrying");
                    }
                    sleep(Duration::from_millis(100)).await;
                }
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
