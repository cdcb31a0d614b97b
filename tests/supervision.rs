//! A panic in a background task: it is restarted, and the service is not ready meanwhile. The panics come from what the
//! tasks log, as they did when standard error could not be written: the test's subscriber panics at a line of its choice.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/redis_server.rs"]
mod redis_server;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use clap::Parser;
use http_body_util::BodyExt;
use sessiond::api::{Api, App};
use sessiond::clock::{BootInstant, Clock};
use sessiond::config::{Config, Server};
use sessiond::server::{self, Listener};
use sessiond::session::Sessions;
use sessiond::store::{self, Keyspace, Watcher};
use sessiond::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::time::{error::Elapsed, sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use redis_server::RedisServer;

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Panics at the next event of ours whose message begins so.
static ARMED: Mutex<Option<&str>> = Mutex::new(None);

/// One test at a time: they share the subscriber, and the limit of open files.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn arm(message: &'static str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Panics).unwrap());
    *ARMED.lock().unwrap() = Some(message);
}

struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("sessiond")
    }

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let hit = {
            let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
            armed.take_if(|armed| message.0.starts_with(*armed)).is_some()
        };
        assert!(!hit, "this is meant");
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

async fn until(condition: impl Fn() -> bool) -> Result<(), Elapsed> {
    timeout(PATIENCE, async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

struct Service {
    api: Arc<Api>,
    server: Server,
    metrics: Arc<Metrics>,
}

impl Service {
    async fn on(store: &str) -> Self {
        let secret = "a secret for tests of 32 bytes or more";
        let config = Flags::try_parse_from(["sessiond", "--store", store, "--secret", secret]).unwrap().config;
        let (checked, metrics) = (config.check().unwrap(), Arc::new(Metrics::new()));
        let store = store::open_supervised(&checked.store, &checked.keyspace, &metrics).await.unwrap();
        let attributes = checked.attributes.clone();
        let sessions = Sessions::new(store, checked.policy.clone(), attributes, Clock::system(), Arc::clone(&metrics));
        let app = App::new(sessions, &checked, &config.server);
        Self { api: Arc::new(Api::new(&app, true)), server: config.server, metrics }
    }

    async fn ready(&self) -> String {
        let request = Request::get("/readyz").header("host", "localhost").body(Body::empty()).unwrap();
        let (response, _in_flight) = self.api.answer(request).await;
        let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
        format!("{status} {}", String::from_utf8_lossy(&body))
    }

    /// Waits until `/readyz` answers so.
    async fn until_ready_is(&self, expected: &str) {
        let answered = async {
            while !self.ready().await.contains(expected) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, answered).await.is_ok(), "not {expected}: {}", self.ready().await);
    }

    fn has(&self, sample: &str) -> bool {
        self.metrics.text().lines().any(|line| line == sample)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_that_keeps_the_connection_to_redis_is_restarted() {
    let _alone = ALONE.lock().await;
    let mut redis = RedisServer::start();
    let service = Service::on(&redis.url()).await;
    service.until_ready_is("200 OK").await;
    assert!(service.has("sessiond_task_restarts_total{task=\"redis-connection\"} 0"));
    arm("Redis is away");
    redis.kill();
    service.until_ready_is("\"code\":\"task-down\"").await;
    assert!(service.has("sessiond_task_restarts_total{task=\"redis-connection\"} 1"));
    assert!(service.has("sessiond_tasks_down 1"));
    // The task is up, and Redis is not.
    service.until_ready_is("\"code\":\"store-unavailable\"").await;
    redis.restart();
    service.until_ready_is("200 OK").await;
    assert!(service.has("sessiond_tasks_down 0"));
}

/// Readiness depends on the tasks only when one panics: an outage alone is the store's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_redis_takes_no_task_down() {
    let _alone = ALONE.lock().await;
    let mut redis = RedisServer::start();
    let service = Service::on(&redis.url()).await;
    redis.kill();
    service.until_ready_is("\"code\":\"store-unavailable\"").await;
    redis.restart();
    service.until_ready_is("200 OK").await;
    assert!(service.has("sessiond_task_restarts_total{task=\"redis-connection\"} 0"));
}

/// A near-cache that panics once when it is told that it is up to date.
#[derive(Default)]
struct Fragile {
    doubts: AtomicUsize,
    proofs: AtomicUsize,
}

impl Watcher for Fragile {
    fn changed(&self, _: &str) {}

    fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
    }

    fn current(&self, _: BootInstant) {
        if self.proofs.fetch_add(1, Ordering::SeqCst) == 0 {
            // What came before is not what is looked at.
            self.doubts.store(0, Ordering::SeqCst);
            panic!("this is meant");
        }
    }

    fn max_staleness(&self) -> Duration {
        Duration::from_millis(100)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tracker_is_restarted_and_the_near_cache_doubts_at_once() {
    let _alone = ALONE.lock().await;
    let redis = RedisServer::start();
    let metrics = Arc::new(Metrics::new());
    let url = redis.url().parse().unwrap();
    let store = store::open_supervised(&url, &Keyspace::default(), &metrics).await.unwrap();
    let watcher = Arc::new(Fragile::default());
    store.watch(Arc::clone(&watcher) as _);
    let restarts = "sessiond_task_restarts_total{task=\"redis-tracker\"} 1";
    until(|| metrics.text().contains(restarts)).await.expect("the tracker panicked");
    assert!(watcher.doubts.load(Ordering::SeqCst) > 0, "before the restart");
    until(|| watcher.proofs.load(Ordering::SeqCst) > 2).await.expect("it follows Redis again");
}

/// Restores the limit of open files when it is dropped.
struct NoFiles {
    before: (u64, u64),
}

impl NoFiles {
    /// No more files can be opened, and no connections accepted.
    fn new() -> Self {
        let before = rlimit::Resource::NOFILE.get().unwrap();
        rlimit::Resource::NOFILE.set(3, before.1).unwrap();
        Self { before }
    }
}

impl Drop for NoFiles {
    fn drop(&mut self) {
        rlimit::Resource::NOFILE.set(self.before.0, self.before.1).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accept_loop_is_restarted_and_keeps_its_listener() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let service = Service::on(&format!("sqlite:{}", folder.path().join("test.db").display())).await;
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap().to_string().parse().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (api, config, metrics) = (Api::clone(&service.api), service.server.clone(), Arc::clone(&service.metrics));
    let serving = tokio::spawn(async move {
        server::serve(listener, api, &config, &metrics, async { drop(stopped.await) }).await;
    });
    // The server sets its own limit of open files before it accepts.
    until(|| service.has("sessiond_task_restarts_total{task=\"accept\"} 0")).await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    arm("accept failed");
    let no_files = NoFiles::new();
    let mut client = client.connect(address).await.unwrap();
    let panicked = until(|| service.has("sessiond_tasks_down 1")).await;
    drop(no_files);
    panicked.expect("the accept loop panicked");
    assert!(service.ready().await.contains("\"code\":\"task-down\""));
    // The connection was waiting in the listener.
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    service.until_ready_is("200 OK").await;
    stop.send(()).unwrap();
    timeout(PATIENCE, serving).await.expect("it stops").unwrap();
}
