//! The parts of the contract that no handler states: openapi.yaml is made from these and from the handlers.

use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{RefOr, Schema, Type};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

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
        (name = "sessions", description = "Issuing"),
        (name = "session", description = "The session that the request's cookie opens"),
        (name = "ops", description = "For those who run the service: no session data"),
    ),
    modifiers(&Cookie)
)]
pub(super) struct Contract;

struct Cookie;

impl Modify for Cookie {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let description = "The browser's cookie, under the name that --cookie-name gives it";
        let scheme = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description("connect.sid", description)));
        openapi.components.get_or_insert_with(Default::default).add_security_scheme("cookie", scheme);
    }
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
