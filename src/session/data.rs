//! A session's data: a JSON object that express-session can hold too.

use serde_json::{Map, Value};

use super::Error;

/// How deep data may nest; the object itself is depth 1.
pub const MAX_DEPTH: usize = 64;

/// Names that express-session's Session object holds already: it drops such keys when it loads a record.
/// `cookie` and `sessiond` hold the rest of the record.
const RESERVED: [&str; 22] = [
    "cookie",
    "sessiond",
    "id",
    "req",
    "touch",
    "save",
    "reload",
    "destroy",
    "regenerate",
    "resetMaxAge",
    "__defineGetter__",
    "__defineSetter__",
    "__lookupGetter__",
    "__lookupSetter__",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
    "toString",
    "valueOf",
];

/// The names that may not be top-level keys of the data.
#[must_use]
pub fn reserved_names() -> &'static [&'static str] {
    &RESERVED
}

/// Whether `name` may not be a top-level key of the data.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The JSON text of a session's data: always an object. Kept as text, because most calls only pass it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data(String);

impl Data {
    /// Text that is known to be a JSON object.
    pub(super) fn from_object_text(text: String) -> Self {
        debug_assert!(text.starts_with('{') && text.ends_with('}'));
        Self(text)
    }

    /// Checks `map` against the rules for data. `pointer` is where it stands in the request.
    ///
    /// # Errors
    /// [`Error::Invalid`]: `reserved-name`, `data-too-deep` or `data-too-large` (over `max_bytes`, as stored).
    pub fn new(map: &Map<String, Value>, pointer: &str, max_bytes: usize) -> Result<Self, Error> {
        if let Some(name) = map.keys().find(|name| is_reserved(name)) {
            let detail = format!("{name:?} is a name that express-session keeps for itself: choose another key");
            return Err(Error::invalid("reserved-name", format!("{pointer}/{name}"), detail));
        }
        if map.values().any(|value| depth(value) >= MAX_DEPTH) {
            let detail = format!("data may nest {MAX_DEPTH} levels deep, and this is deeper");
            return Err(Error::invalid("data-too-deep", pointer, detail));
        }
        let text = serde_json::to_string(map).unwrap_or_default();
        if text.len() > max_bytes {
            let detail = format!("data may take {max_bytes} bytes, and would take {}", text.len());
            return Err(Error::invalid("data-too-large", pointer, detail));
        }
        Ok(Self(text))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The keys and values, to change them.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when another writer put in what JSON libraries do not agree on (a lone surrogate, 1e999).
    pub fn to_map(&self) -> Result<Map<String, Value>, Error> {
        serde_json::from_str(&self.0).map_err(|error| {
            Error::Unreadable(format!(
                "the stored data cannot be changed: byte {} is not JSON to everybody",
                error.column()
            ))
        })
    }
}

/// 0 for a scalar, else one more than what is inside.
pub(super) fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => return 0,
    };
    deepest.unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: &Value, max_bytes: usize) -> Result<Data, Error> {
        Data::new(value.as_object().unwrap(), "/data", max_bytes)
    }

    fn code(value: &Value, max_bytes: usize) -> (&'static str, String) {
        match check(value, max_bytes).unwrap_err() {
            Error::Invalid { code, pointer, .. } => (code, pointer),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn names_that_express_would_lose_are_refused() {
        for name in RESERVED {
            assert_eq!(code(&json!({ name: 1 }), 100), ("reserved-name", format!("/data/{name}")));
        }
        assert!(check(&json!({"nested": {"cookie": 1, "toString": 2}, "Cookie": 3}), 100).is_ok());
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({ "a": inner }));
        assert!(check(&nested(MAX_DEPTH), 10_000).is_ok());
        assert_eq!(code(&nested(MAX_DEPTH + 1), 10_000).0, "data-too-deep");
        let array = (1..MAX_DEPTH).fold(json!([]), |inner, _| json!([inner]));
        assert_eq!(code(&json!({ "a": array }), 10_000).0, "data-too-deep");
        assert!(check(&json!({"a": "x"}), 9).is_ok());
        assert_eq!(code(&json!({"a": "x"}), 8).0, "data-too-large");
    }
}
