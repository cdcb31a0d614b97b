use std::collections::BTreeSet;

use secrecy::ExposeSecret;
use sessiond::caller::{Key, Scope};

use crate::app::{Answer, TestApp};

/// Every call, and the scope that it needs.
pub(crate) const CALLS: [(&str, &str, Option<Scope>); 21] = [
    ("post", "/v1/sessions", Some(Scope::Session)),
    ("post", "/v1/sessions/resolve", Some(Scope::Resolve)),
    ("get", "/v1/session", Some(Scope::Resolve)),
    ("delete", "/v1/session", Some(Scope::Session)),
    ("patch", "/v1/session/data", Some(Scope::Session)),
    ("put", "/v1/session/data", Some(Scope::Session)),
    ("post", "/v1/session/touch", Some(Scope::Session)),
    ("post", "/v1/session/regenerate", Some(Scope::Session)),
    ("get", "/v1/sessions/{id}", Some(Scope::Admin)),
    ("delete", "/v1/sessions/{id}", Some(Scope::Admin)),
    ("patch", "/v1/sessions/{id}/data", Some(Scope::Admin)),
    ("put", "/v1/sessions/{id}/data", Some(Scope::Admin)),
    ("post", "/v1/sessions/{id}/touch", Some(Scope::Admin)),
    ("post", "/v1/sessions/{id}/regenerate", Some(Scope::Admin)),
    ("get", "/v1/users/{user_id}/sessions", Some(Scope::Admin)),
    ("delete", "/v1/users/{user_id}/sessions", Some(Scope::Admin)),
    ("get", "/livez", None),
    ("get", "/readyz", None),
    ("get", "/metrics", None),
    ("get", "/openapi.yaml", None),
    ("get", "/docs", None),
];

const SCOPES: [Scope; 3] = [Scope::Resolve, Scope::Session, Scope::Admin];

fn key(name: &str, scope: Scope) -> (String, String) {
    let (key, line) = Key::generate(name, scope).unwrap();
    (format!("authorization: Bearer {}", key.expose_secret()), line.to_string())
}

/// A session to call about, issued with an admin's key; and the call, as it succeeds when the key does.
pub(crate) async fn call(app: &TestApp, admin: &str, method: &str, path: &str, key: &[&str]) -> Answer {
    let json = "content-type: application/json";
    let issued = app.call("POST", "/v1/sessions", &[json, admin], r#"{"user_id":"ada","data":{"n":1}}"#).await;
    let (id, cookie) = (issued.json()["id"].as_str().unwrap().to_owned(), issued.expect(201).cookie());
    let path = path.replace("{id}", &id).replace("{user_id}", "ada");
    let (content_type, body) = match method {
        "patch" => ("content-type: application/merge-patch+json", "{}".to_owned()),
        _ if path.ends_with("/resolve") => (json, format!(r#"{{"cookies":["{}"]}}"#, &cookie["cookie: ".len()..])),
        "post" | "put" => (json, "{}".to_owned()),
        _ => (json, String::new()),
    };
    let headers = [&[content_type, cookie.as_str()], key].concat();
    app.call(&method.to_uppercase(), &path, &headers, &body).await
}

#[tokio::test]
async fn every_call_needs_its_scope() {
    let keys = SCOPES.map(|scope| key(scope.as_str(), scope));
    let flags: Vec<&str> = keys.iter().flat_map(|(_, line)| ["--api-key", line]).collect();
    let app = TestApp::start(&flags).await;
    let admin = keys[2].0.as_str();
    for (method, path, needed) in CALLS {
        for (scope, (header, line)) in SCOPES.iter().zip(&keys) {
            let answer = call(&app, admin, method, path, &[header]).await;
            if needed.is_none_or(|needed| *scope >= needed) {
                assert!(answer.status.is_success(), "{method} {path} with {scope}: {answer:?}");
            } else {
                let answer = answer.problem(403, "missing-scope");
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(
                    detail.contains(&needed.unwrap().to_string()) && detail.contains(&scope.to_string()),
                    "{detail}"
                );
                assert!(!answer.body.contains(&header[22..]) && !answer.body.contains(line));
            }
        }
        for (header, code) in [
            ("x: y", "missing-api-key"),
            ("authorization: Basic YTpi", "missing-api-key"),
            ("authorization: Bearer", "missing-api-key"),
            ("authorization: Bearer sessiond_not_one_of_ours", "unknown-api-key"),
            (&format!("authorization: Bearer {}", keys[2].1), "unknown-api-key"),
            (&admin[..admin.len() - 1], "unknown-api-key"),
        ] {
            let answer = call(&app, admin, method, path, &[header]).await;
            match needed {
                Some(_) => drop(answer.problem(403, code)),
                None => assert!(answer.status.is_success(), "{method} {path}: {answer:?}"),
            }
        }
    }
}

/// The table above has every call of the contract, and the contract says the same of each.
#[test]
fn the_contract_names_the_scope_of_every_call() {
    let contract = include_str!("../../openapi.yaml");
    let (mut stated, mut path, mut method) = (BTreeSet::new(), "", "");
    let mut in_paths = false;
    for line in contract.lines().filter(|line| !line.is_empty()) {
        match line.len() - line.trim_start().len() {
            0 => in_paths = line == "paths:",
            2 if in_paths => path = line.trim().trim_end_matches(':'),
            4 if in_paths => {
                method = line.trim().trim_end_matches(':');
                stated.insert((method, path, None));
            }
            8 | 10 if in_paths && line.trim().starts_with("- ") => {
                if let Some(scope) = SCOPES.into_iter().find(|scope| line.trim() == format!("- {scope}")) {
                    stated.remove(&(method, path, None));
                    stated.insert((method, path, Some(scope)));
                }
            }
            _ => {}
        }
    }

    assert_eq!(stated, BTreeSet::from(CALLS));
}

#[tokio::test]
async fn without_keys_nobody_needs_one() {
    let app = TestApp::start(&[]).await;
    let cookie = app.cookie().await;
    app.resolve(&cookie).await.expect(200);
    app.call("GET", "/v1/session", &[&cookie, "authorization: Bearer whatever"], "").await.expect(200);
}

#[tokio::test]
async fn two_keys_of_one_name_are_valid_at_once() {
    let (old, new) = (key("shop", Scope::Session), key("shop", Scope::Session));
    let app = TestApp::start(&["--api-key", &format!("{},{}", old.1, new.1)]).await;
    for header in [old.0, new.0] {
        app.call("GET", "/v1/session", &[&header], "").await.problem(401, "no-session");
    }
}
