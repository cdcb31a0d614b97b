//! The parts of the contract that no handler states: openapi.yaml is made from these and from the handlers.

use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem, Paths};
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, RefOr, Required, Response, ResponseBuilder, Schema, Type};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::App;
use super::error::Problem;
use crate::caller::Scope;
use crate::id::MAX_ID_BYTES;
use crate::session::{MAX_OPERATIONS, reserved_names};

/// The frame of the document; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "sessiond",
        description = "express-session as a service. Hand over the browser's `Cookie` header, get back the user and the session's data. \
                       Pass each `Set-Cookie` header on to the browser as it is."
    ),
    tags(
        (name = "sessions", description = "Issuing, and resolving many at once"),
        (name = "session", description = "The session that the request's cookie opens"),
        (name = "by id", description = "The same calls, for a session that is named by its id"),
        (name = "users", description = "Everything of one user"),
        (name = "ops", description = "For those who run the service: no session data"),
    ),
    modifiers(&Credentials)
)]
pub(super) struct Contract;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_with(Default::default);
        let description = "The browser's cookie, under the name that --cookie-name gives it";
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description("connect.sid", description));
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(cookie));
        let mut key = Http::new(HttpAuthScheme::Bearer);
        key.description = Some(
            "The caller's key, where the service is configured to ask for one; with the scope that is named, or a wider one: \
             resolve < session < admin"
                .into(),
        );
        components.add_security_scheme("key", SecurityScheme::Http(key));
    }
}

type Route = UtoipaMethodRouter<App>;

/// The path and the method of a route.
pub(super) fn names(paths: &Paths) -> (String, String) {
    let (path, item) = paths.paths.iter().next().expect("a route has a path");
    let methods = [
        ("get", &item.get),
        ("put", &item.put),
        ("post", &item.post),
        ("delete", &item.delete),
        ("patch", &item.patch),
    ];
    let method = methods.into_iter().find_map(|(name, operation)| operation.as_ref().map(|_| name));
    (path.clone(), method.expect("a route has a method").to_owned())
}

fn operation(item: &mut PathItem) -> &mut Operation {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch]
        .into_iter()
        .find_map(Option::as_mut)
        .expect("a route has a method")
}

/// Says that a route needs a key of this scope, and how a caller without is refused.
pub(super) fn guarded(scope: Scope, mut route: Route) -> Route {
    for item in route.1.paths.values_mut() {
        let operation = operation(item);
        let others = operation.security.take().unwrap_or_else(|| vec![SecurityRequirement::default()]);
        operation.security = Some(others.into_iter().map(|other| other.add("key", [scope.as_str()])).collect());
        let description = operation.description.take().map(|text| text + "\n\n").unwrap_or_default();
        operation.description = Some(format!("{description}Scope of the caller's key: `{scope}`."));
        let refused = problem("The caller's key is missing, unknown, or has too narrow a scope");
        operation.responses.responses.insert("403".into(), refused.into());
    }
    route
}

/// The same route for a session that the path names by its id.
pub(super) fn by_id(mut route: Route) -> Route {
    let paths = std::mem::take(&mut route.1.paths);
    route.1.paths = paths
        .into_iter()
        .map(|(path, mut item)| {
            let operation = operation(&mut item);
            operation.tags = Some(vec!["by id".into()]);
            operation.security = None;
            operation.operation_id = operation.operation_id.take().map(|name| name + "_by_id");
            operation.summary = operation.summary.take().map(|summary| summary + ", by id");
            let id = ParameterBuilder::new()
                .name("id")
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some("The session's id, percent-encoded"))
                .schema(Some(
                    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(MAX_ID_BYTES)),
                ));
            operation.parameters.get_or_insert_default().insert(0, RefOr::T(id.build()));
            let responses = &mut operation.responses.responses;
            responses.remove("401");
            if let Some(RefOr::T(ended)) = responses.get_mut("204") {
                // Whoever ends a session by its id is not its browser.
                ended.headers.clear();
            }
            responses.insert("404".into(), problem("There is no live session of this id").into());
            (path.replacen("/v1/session", "/v1/sessions/{id}", 1), item)
        })
        .collect();
    route
}

fn problem(description: &str) -> Response {
    let content = Content::new(Some(RefOr::Ref(utoipa::openapi::Ref::from_schema_name(Problem::name()))));
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

/// Any JSON object but for the names that express-session keeps for itself.
fn data() -> ObjectBuilder {
    let names = ObjectBuilder::new().schema_type(Type::String).pattern(Some(not_reserved()));
    ObjectBuilder::new()
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
        .property_names(Some(names.build()))
        .description(Some("A JSON object: at most 64 KiB (configurable) and 64 levels deep, and without the names that express-session keeps for itself"))
}

/// A pattern that every reserved name fails.
fn not_reserved() -> String {
    format!("^(?!({})$)", reserved_names().join("|"))
}

pub(super) fn nullable_data() -> ObjectBuilder {
    data().schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
}

/// A session's data
pub(super) struct Data;

/// A merge patch (RFC 7396)
pub(super) struct MergePatch;

/// A JSON Patch (RFC 6902)
pub(super) struct JsonPatch;

impl PartialSchema for Data {
    fn schema() -> RefOr<Schema> {
        data().examples([serde_json::json!({"theme": "dark", "cart": [3, 5]})]).into()
    }
}

impl PartialSchema for MergePatch {
    fn schema() -> RefOr<Schema> {
        data().examples([serde_json::json!({"theme": "light", "cart": null})]).into()
    }
}

impl PartialSchema for JsonPatch {
    fn schema() -> RefOr<Schema> {
        let pointer = || ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(/([^~/]|~[01])*)*$"));
        let one = |op: &str, others: &[(&str, RefOr<Schema>)]| {
            let mut object = ObjectBuilder::new()
                .property("op", ObjectBuilder::new().schema_type(Type::String).enum_values(Some([op])))
                .property("path", pointer())
                .required("op")
                .required("path");
            for (name, schema) in others {
                object = object.property(*name, schema.clone()).required(*name);
            }
            object
        };
        let value = ("value", ObjectBuilder::new().schema_type(SchemaType::AnyValue).into());
        let from = ("from", pointer().into());
        let operation = OneOfBuilder::new()
            .item(one("add", std::slice::from_ref(&value)))
            .item(one("remove", &[]))
            .item(one("replace", std::slice::from_ref(&value)))
            .item(one("move", std::slice::from_ref(&from)))
            .item(one("copy", std::slice::from_ref(&from)))
            .item(one("test", &[value]));
        ArrayBuilder::new()
            .items(operation)
            .description(Some("What it makes of the data has to be data again: an object, within the same limits"))
            .max_items(Some(MAX_OPERATIONS))
            .examples([serde_json::json!([{"op": "add", "path": "/theme", "value": "light"}])])
            .into()
    }
}

impl ToSchema for Data {}
impl ToSchema for MergePatch {}
impl ToSchema for JsonPatch {}
