//! A third backend, in Rust: the same session, the same user.

mod session;

use std::env;

use axum::extract::Form;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use serde::Deserialize;
use serde_json::json;

use session::{Failed, Known, Session, Sessiond};

#[derive(Deserialize)]
struct Login {
    user: String,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(home))
        .route("/account", get(account))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .layer(middleware::from_fn_with_state(Sessiond::from_env(), session::session));
    let var = |name, default: &str| env::var(name).unwrap_or_else(|_| default.into());
    let listener =
        tokio::net::TcpListener::bind(format!("{}:{}", var("HOST", "127.0.0.1"), var("PORT", "3003"))).await?;
    println!("axum listens on http://localhost:{}", listener.local_addr()?.port());
    axum::serve(listener, app).await
}

async fn home(Extension(session): Extension<Session>) -> Result<Html<String>, Failed> {
    let known = session.update(|data| json!({ "views": data["views"].as_i64().unwrap_or(0) + 1 })).await?;
    let views = known.data["views"].clone();
    Ok(page(&known, &format!("<p>Page views, on all backends together: <b id=\"views\">{views}</b></p>")))
}

async fn account(Extension(session): Extension<Session>) -> Html<String> {
    page(&session.known().await, "")
}

/// Whoever gives a name is believed: this is about sessions, not passwords.
async fn login(Extension(session): Extension<Session>, Form(login): Form<Login>) -> Result<Redirect, Failed> {
    session.login(&login.user).await?;
    Ok(Redirect::to("/account"))
}

async fn logout(Extension(session): Extension<Session>) -> Result<Redirect, Failed> {
    session.logout().await?;
    Ok(Redirect::to("/account"))
}

fn page(known: &Known, more: &str) -> Html<String> {
    let text = |text: &Option<String>, none: &str| escape(text.as_deref().unwrap_or(none));
    let (id, user) = (text(&known.id, "none"), text(&known.user, "nobody"));
    Html(format!(
        r#"<!doctype html><meta charset="utf-8"><title>axum</title>
<h1>axum</h1>
<p>Session: <code id="session">{id}</code>, user: <b id="user">{user}</b></p>
{more}
<form method="post" action="/login"><input name="user" aria-label="name"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
<p><a href="/">home</a> <a href="/account">account</a></p>"#
    ))
}

fn escape(text: &str) -> String {
    let escaped = |char: char| match char {
        '&' | '<' | '>' | '"' | '\'' => format!("&#{};", u32::from(char)),
        char => char.to_string(),
    };
    text.chars().map(escaped).collect()
}
