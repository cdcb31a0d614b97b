//! The browser's session on every backend, kept by sessiond. Copy this file into a project; it needs reqwest.
//!
//! ```ignore
//! Router::new()
//!     .route("/", get(home))
//!     .layer(middleware::from_fn_with_state(Sessiond::from_env(), session))
//!
//! async fn home(Extension(session): Extension<Session>) -> Result<Html<String>, Failed> {
//!     session.update(|data| json!({ "views": data["views"].as_i64().unwrap_or(0) + 1 })).await?;
//!     session.login("ada").await?;
//! ```

use std::env;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Where sessiond is, and the key to it.
#[derive(Clone)]
pub struct Sessiond {
    client: Client,
    url: String,
    key: Option<String>,
}

impl Sessiond {
    pub fn from_env() -> Self {
        let client = Client::builder().timeout(Duration::from_secs(2)).build().expect("a client without TLS");
        let url = env::var("SESSIOND_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into());
        Self { client, url, key: env::var("SESSIOND_KEY").ok() }
    }
}

/// The session of one request. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Mutex<Opened>>);

/// What is known of it; nothing while there is none.
#[derive(Clone, Default, Deserialize)]
pub struct Known {
    pub id: Option<String>,
    #[serde(rename = "user_id")]
    pub user: Option<String>,
    #[serde(default)]
    pub data: Value,
}

struct Opened {
    sessiond: Sessiond,
    cookie: Option<HeaderValue>,
    set_cookie: Option<HeaderValue>,
    etag: Option<HeaderValue>,
    client: Value,
    known: Known,
    /// Whether an update found that the session had ended.
    ended: bool,
}

/// Why there is no answer.
pub enum Failed {
    /// It is unknown whether there is a session. Do not treat this as "not logged in".
    Unavailable,
    /// The session ended during this request: by a logout, or by a login in another request, which gave it a new id. The
    /// update is not made. A new session for it would replace the login in the browser. The browser's next request has
    /// the right session.
    Ended,
    /// A mistake of ours.
    Refused(String),
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        match self {
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "The session service is unavailable.")
                    .into_response()
            }
            Self::Ended => {
                (StatusCode::CONFLICT, "The session has ended during this request: try again.").into_response()
            }
            Self::Refused(why) => {
                eprintln!("sessiond: {why}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

impl From<reqwest::Error> for Failed {
    fn from(_: reqwest::Error) -> Self {
        Self::Unavailable
    }
}

/// The middleware: opens the session for the routes, and passes cookies on to the browser.
pub async fn session(State(sessiond): State<Sessiond>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let client = json!({ "user_agent": user_agent.chars().take(1024).collect::<String>() });
    let cookie = headers.get(header::COOKIE).cloned();
    let opened =
        Opened { sessiond, cookie, set_cookie: None, etag: None, client, known: Known::default(), ended: false };
    let session = Session(Arc::new(Mutex::new(opened)));
    let loaded = session.0.lock().await.load().await;
    let mut response = match loaded {
        Ok(()) => {
            request.extensions_mut().insert(session.clone());
            next.run(request).await
        }
        Err(failed) => failed.into_response(),
    };
    if let Some(set_cookie) = session.0.lock().await.set_cookie.take() {
        response.headers_mut().append(header::SET_COOKIE, set_cookie);
    }
    response
}

impl Session {
    pub async fn known(&self) -> Known {
        self.0.lock().await.known.clone()
    }

    /// Changes the data by a merge patch, made from the data as it is; of two requests at once none is lost. Fails with
    /// [`Failed::Ended`] if the session ended after the request began. If there was none then, it issues one.
    pub async fn update(&self, patch: impl Fn(&Value) -> Value) -> Result<Known, Failed> {
        let mut opened = self.0.lock().await;
        if opened.known.id.is_none() && !opened.ended {
            let mut data = patch(&json!({}));
            // A merge patch of nothing: what it would take away is not there.
            if let Value::Object(map) = &mut data {
                map.retain(|_, value| !value.is_null());
            }
            let issued = json!({ "data": data, "client": opened.client });
            opened.call(Method::POST, "/v1/sessions", Some(issued)).await?;
            return Ok(opened.known.clone());
        }
        while opened.known.id.is_some() {
            let body = patch(&opened.known.data);
            match opened.call(Method::PATCH, "/v1/session/data", Some(body)).await? {
                StatusCode::OK => return Ok(opened.known.clone()),
                StatusCode::PRECONDITION_FAILED => opened.load().await?,
                _ => {}
            }
        }
        opened.ended = true;
        // The cookie of an extended session that has ended since.
        opened.set_cookie = None;
        Err(Failed::Ended)
    }

    /// Gives the session a new id and binds the user. Keeps the data of an anonymous session; sessiond drops the data of
    /// another user.
    pub async fn login(&self, user: &str) -> Result<(), Failed> {
        let mut opened = self.0.lock().await;
        let wanted = json!({ "user_id": user, "client": opened.client });
        if opened.known.id.is_some() {
            opened.call(Method::POST, "/v1/session/regenerate", Some(wanted.clone())).await?;
        }
        // There was no session, or it has ended.
        if opened.known.user.as_deref() != Some(user) {
            opened.call(Method::POST, "/v1/sessions", Some(wanted)).await?;
        }
        Ok(())
    }

    pub async fn logout(&self) -> Result<(), Failed> {
        self.0.lock().await.call(Method::DELETE, "/v1/session", None).await.map(|_| ())
    }
}

impl Opened {
    /// Resolves the browser's cookie; without one there is nothing to ask.
    async fn load(&mut self) -> Result<(), Failed> {
        if self.cookie.is_some() {
            self.call(Method::GET, "/v1/session", None).await?;
        }
        Ok(())
    }

    /// Asks for the session that the cookie opens, and takes over what is answered.
    async fn call(&mut self, method: Method, path: &str, body: Option<Value>) -> Result<StatusCode, Failed> {
        let Sessiond { client, url, key } = &self.sessiond;
        let patch = method == Method::PATCH;
        let mut request = client.request(method, format!("{url}{path}"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        if patch {
            request = request.header(header::CONTENT_TYPE, "application/merge-patch+json");
            // What depends on the data holds only for the data that it was made from.
            if let Some(etag) = &self.etag {
                request = request.header(header::IF_MATCH, etag);
            }
        }
        if let Some(body) = body {
            // Its own Content-Type only where there is none.
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Failed::Unavailable);
        }
        if let Some(set_cookie) = answer.headers().get(header::SET_COOKIE) {
            let pair = set_cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            self.cookie = HeaderValue::from_bytes(pair).ok();
            self.set_cookie = Some(set_cookie.clone());
        }
        match status {
            // Another request was quicker.
            StatusCode::PRECONDITION_FAILED => return Ok(status),
            StatusCode::NO_CONTENT | StatusCode::UNAUTHORIZED => self.known = Known::default(),
            _ if status.is_success() => {
                self.etag = answer.headers().get(header::ETAG).cloned();
                self.known = answer.json().await?;
                self.ended = false;
            }
            _ => return Err(Failed::Refused(answer.text().await?)),
        }
        Ok(status)
    }
}
