//! `/docs`: the contract as a page, for people. Everything that it loads is in this binary.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

use super::error::{Error, Problem, Result};

/// Nothing from elsewhere and nothing inline. The style sheet has its icons in `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// This document, for people
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "ops",
    responses(
        (status = 200, description = "A page", body = String, content_type = "text/html"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("docs/index.html"))).into_response()
}

/// Where the page loads its parts from.
pub(super) const ASSET: &str = "/docs/{asset}";

/// What the page loads.
#[utoipa::path(get, path = ASSET)]
pub(super) async fn asset(Path(name): Path<String>) -> Result {
    match name.as_str() {
        "start.js" => Ok(([(header::CONTENT_TYPE, "text/javascript")], include_str!("docs/start.js")).into_response()),
        "swagger-ui.css" | "swagger-ui-bundle.js" => swagger_ui(&name),
        _ => Err(Error::not_found()),
    }
}

/// A file of Swagger UI. They are kept compressed, and every browser can read them so.
fn swagger_ui(name: &str) -> Result {
    let file = utoipa_swagger_ui::serve(name, Arc::default()).ok().flatten().ok_or_else(Error::internal)?;
    let headers = [(header::CONTENT_TYPE, file.content_type.as_str()), (header::CONTENT_ENCODING, "gzip")];
    Ok((headers, file.bytes).into_response())
}
