//! `/docs`: a page whose every part comes from here. tests/browser looks at it.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;

use crate::app::TestApp;

#[tokio::test]
async fn what_the_page_loads_is_there_and_nothing_else() {
    let app = TestApp::start(&[]).await;
    let page = app.call("GET", "/docs", &[], "").await.expect(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let loaded: Vec<_> = page.body.split('"').filter(|part| part.starts_with("docs/")).collect();
    assert_eq!(loaded.len(), 3, "{}", page.body);
    for path in loaded {
        let request = Request::get(format!("/{path}")).header("host", "localhost").body(Body::empty()).unwrap();
        let (answer, _) = app.api.answer(request).await;
        assert_eq!(answer.status(), 200, "{path}");
        let kind = if path.ends_with(".css") { "text/css" } else { "text/javascript" };
        assert_eq!(answer.headers()["content-type"], kind, "{path}");
        let compressed = answer.headers().contains_key("content-encoding");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.starts_with(&[0x1f, 0x8b]), compressed, "{path}");
    }
    for path in ["/docs/", "/docs/index.html", "/docs/oauth2-redirect.html", "/docs/swagger-ui.css/x", "/docs/%2e%2e"] {
        app.call("GET", path, &[], "").await.problem(404, "not-found");
    }
    app.call("POST", "/docs", &[], "").await.problem(405, "method-not-allowed");
}
