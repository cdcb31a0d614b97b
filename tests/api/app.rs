//! The service under test, with its clock in the test's hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use clap::Parser;
use http_body_util::BodyExt;
use serde_json::Value;
use sessiond::api::{Api, App};
use sessiond::clock::{BootInstant, Clock};
use sessiond::config::Config;
use sessiond::cookie::Signer;
use sessiond::session::{Id, Sessions};
use sessiond::store;

use crate::redis_server::RedisServer;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

pub(crate) struct TestApp {
    pub(crate) api: Arc<Api>,
    pub(crate) sessions: Sessions,
    pub(crate) signer: Signer,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) store_url: String,
    /// By how many ms the wall clock is ahead of the machine's.
    ahead: Arc<AtomicI64>,
    /// How many ms have passed that did not.
    passed: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl TestApp {
    /// On SQLite, with these flags.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        Self::on(url, None, folder, flags).await
    }

    /// On a Redis of its own.
    pub(crate) async fn start_on_redis(flags: &[&str]) -> Self {
        let server = RedisServer::start();
        Self::on(server.url(), Some(server), tempfile::tempdir().unwrap(), flags).await
    }

    /// Another service on the same store.
    pub(crate) async fn beside(other: &Self, flags: &[&str]) -> Self {
        Self::on(other.store_url.clone(), None, tempfile::tempdir().unwrap(), flags).await
    }

    async fn on(url: String, redis: Option<RedisServer>, folder: tempfile::TempDir, flags: &[&str]) -> Self {
        let secret: &[&str] =
            if flags.contains(&"--secret") { &[] } else { &["--secret", "a secret for tests of 32 bytes or more"] };
        let flags = [&["sessiond", "--store", &url], secret, flags].concat();
        let config = Flags::try_parse_from(flags).unwrap().config;
        let checked = config.check().unwrap();
        let store = store::open(&checked.store, &checked.keyspace).await.unwrap();
        let (ahead, passed) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)));
        let system = Clock::system();
        let now = {
            let ahead = Arc::clone(&ahead);
            move || system.now() + ahead.load(Ordering::Relaxed)
        };
        let instant = {
            let passed = Arc::clone(&passed);
            move || BootInstant::now() + Duration::from_millis(passed.load(Ordering::Relaxed))
        };
        let clock = Clock::new(now, instant);
        let sessions = Sessions::new(store, checked.policy.clone(), checked.attributes.clone(), clock, Arc::default());
        let api = Arc::new(Api::new(&App::new(sessions.clone(), &checked, &config.server), true));
        let signer = Signer::new(&checked.secrets);
        Self { api, sessions, signer, redis, store_url: url, ahead, passed, _folder: folder }
    }

    /// Lets time pass: moves the clocks, and everything that Redis will expire with them.
    pub(crate) fn pass(&self, ms: i64) {
        self.step(ms);
        self.passed.fetch_add(u64::try_from(ms).unwrap(), Ordering::Relaxed);
        if let Some(server) = &self.redis {
            let mut connection = server.connection();
            let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
            for key in keys {
                let ttl: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
                redis::cmd("PEXPIRE").arg(&key).arg(ttl - ms).exec(&mut connection).unwrap();
            }
        }
    }

    /// Sets the wall clock forward or back; no time passes.
    pub(crate) fn step(&self, ms: i64) {
        self.ahead.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sends it to localhost, if it does not say where.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        request.headers_mut().entry("host").or_insert(HeaderValue::from_static("localhost"));
        let (response, _in_flight) = self.api.answer(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// `headers`: "name: value" each.
    pub(crate) async fn call(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(crate) async fn issue(&self, body: &str) -> Answer {
        self.call("POST", "/v1/sessions", &["content-type: application/json"], body).await
    }

    /// Issues a session for `ada` with `{"n":1}`; gives back its Cookie header.
    pub(crate) async fn cookie(&self) -> String {
        self.issue(r#"{"user_id":"ada","data":{"n":1}}"#).await.expect(201).cookie()
    }

    pub(crate) async fn resolve(&self, cookie: &str) -> Answer {
        self.call("GET", "/v1/session", &[cookie], "").await
    }

    pub(crate) async fn look(&self, cookie: &str) -> Answer {
        self.call("GET", "/v1/session?touch=never", &[cookie], "").await
    }

    pub(crate) async fn merge(&self, cookie: &str, patch: &str) -> Answer {
        self.call("PATCH", "/v1/session/data", &[cookie, "content-type: application/merge-patch+json"], patch).await
    }

    pub(crate) async fn patch(&self, cookie: &str, patch: &str) -> Answer {
        self.call("PATCH", "/v1/session/data", &[cookie, "content-type: application/json-patch+json"], patch).await
    }

    pub(crate) async fn replace(&self, cookie: &str, data: &str) -> Answer {
        self.call("PUT", "/v1/session/data", &[cookie, "content-type: application/json"], data).await
    }

    pub(crate) async fn touch(&self, cookie: &str) -> Answer {
        self.call("POST", "/v1/session/touch", &[cookie], "").await
    }

    pub(crate) async fn regenerate(&self, cookie: &str, body: &str) -> Answer {
        self.call("POST", "/v1/session/regenerate", &[cookie, "content-type: application/json"], body).await
    }

    pub(crate) async fn revoke(&self, cookie: &str) -> Answer {
        self.call("DELETE", "/v1/session", &[cookie], "").await
    }

    /// The Cookie header for an id, signed as the service signs.
    pub(crate) fn signed(&self, id: &Id) -> String {
        format!("cookie: connect.sid={}", self.signer.sign(id.as_str()))
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn set_cookie(&self) -> &str {
        self.header("set-cookie").expect("a Set-Cookie header")
    }

    /// The Cookie header that a browser would send from now on.
    #[track_caller]
    pub(crate) fn cookie(&self) -> String {
        format!("cookie: {}", self.set_cookie().split(';').next().unwrap())
    }

    #[track_caller]
    pub(crate) fn etag(&self) -> String {
        self.header("etag").expect("an ETag header").to_owned()
    }

    /// Is a problem (RFC 9457) with this status and code.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string() && problem["detail"].as_str().unwrap().len() > 10, "{problem}");
        self.expect(status)
    }

    /// A problem that names a place in the body.
    #[track_caller]
    pub(crate) fn problem_at(self, status: u16, code: &str, pointer: &str) -> Self {
        assert_eq!(self.json()["pointer"], pointer, "{}", self.body);
        self.problem(status, code)
    }
}
