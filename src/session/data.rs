//! A session's data: a JSON object that express-session can hold too.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
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
#[derive(Debug, Clone)]
pub struct Data(Box<RawValue>);

impl Data {
    /// Puts together what was read key by key; the values are copied as they stand.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn from_entries(entries: &[(Cow<'_, str>, &RawValue)]) -> serde_json::Result<Self> {
        struct Entries<'a>(&'a [(Cow<'a, str>, &'a RawValue)]);

        impl Serialize for Entries<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
            }
        }

        to_raw_value(&Entries(entries)).map(Self)
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
        let text = to_raw_value(map).map_err(|error| Error::Unreadable(error.to_string()))?;
        let length = text.get().len();
        if length > max_bytes {
            let detail = format!("data may take {max_bytes} bytes, and would take {length}");
            return Err(Error::invalid("data-too-large", pointer, detail));
        }
        Ok(Self(text))
    }

    /// Data with nothing in it.
    pub(super) fn empty() -> Self {
        Self(RawValue::from_string("{}".into()).expect("this is JSON"))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The same, to be put into other JSON as it is.
    #[must_use]
    pub fn as_raw(&self) -> &RawValue {
        &self.0
    }

    /// The keys and values, to change them; without reserved names that another writer left, which an Express drops too
    /// when it loads the record.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when another writer put in what JSON libraries do not agree on (a lone surrogate, 1e999).
    pub fn to_map(&self) -> Result<Map<String, Value>, Error> {
        let mut map: Map<String, Value> = serde_json::from_str(self.as_str()).map_err(|error| {
            Error::Unreadable(format!(
                "the stored data cannot be changed: byte {} is not JSON to everybody",
                error.column()
            ))
        })?;
        map.retain(|name, _| !is_reserved(name));
        Ok(map)
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
