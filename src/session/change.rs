//! Changes to a session's data: whole, by merge patch (RFC 7396) or by JSON Patch (RFC 6902).

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value};

use super::Error;

/// How many operations one JSON Patch may have.
pub const MAX_OPERATIONS: usize = 1000;

/// What an update does to the data.
#[derive(Debug, Clone)]
pub enum Change {
    /// Puts this object in place of the data.
    Replace(Map<String, Value>),
    /// RFC 7396: objects merge, null deletes, everything else replaces.
    Merge(Value),
    /// RFC 6902: all operations or none.
    Patch(Patch),
}

impl Change {
    /// The data after this change.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the outcome is not an object, or passes `max_bytes` on the way;
    /// [`Error::PatchConflict`] when an operation does not fit the data.
    pub fn apply(&self, data: Map<String, Value>, max_bytes: usize) -> Result<Map<String, Value>, Error> {
        match self {
            Self::Replace(new) => Ok(new.clone()),
            Self::Merge(patch) => {
                let mut document = Value::Object(data);
                json_patch::merge(&mut document, patch);
                object(document)
            }
            Self::Patch(patch) => apply_patch(patch, data, max_bytes),
        }
    }
}

/// One operation at a time: `copy` can double the document at each step, so its size is looked at in between.
fn apply_patch(patch: &Patch, data: Map<String, Value>, max_bytes: usize) -> Result<Map<String, Value>, Error> {
    if patch.len() > MAX_OPERATIONS {
        let detail = format!("a patch may have {MAX_OPERATIONS} operations, and this has {}", patch.len());
        return Err(Error::invalid("patch-too-long", "", detail));
    }
    let mut document = Value::Object(data);
    for (position, operation) in patch.iter().enumerate() {
        json_patch::patch(&mut document, std::slice::from_ref(operation)).map_err(|error| {
            let why = error.kind;
            Error::PatchConflict(format!("operation {position} ({}) does not fit the data: {why}", operation.path()))
        })?;
        if matches!(operation, PatchOperation::Copy(_)) && weight(&document, max_bytes) > max_bytes {
            let detail = format!("data may take {max_bytes} bytes, and operation {position} makes it larger");
            return Err(Error::invalid("data-too-large", format!("/{position}"), detail));
        }
    }
    object(document).map_err(|_| Error::PatchConflict(NOT_AN_OBJECT.into()))
}

const NOT_AN_OBJECT: &str = "a session's data is a JSON object, and this would make it something else";

fn object(document: Value) -> Result<Map<String, Value>, Error> {
    match document {
        Value::Object(map) => Ok(map),
        _ => Err(Error::invalid("data-not-an-object", "", NOT_AN_OBJECT)),
    }
}

/// A lower bound of the document's size in JSON, in bytes; counting stops a little past `enough`.
fn weight(value: &Value, enough: usize) -> usize {
    let inside = |sizes: &mut dyn Iterator<Item = usize>| {
        let mut total = 2;
        for size in sizes {
            total += size;
            if total > enough {
                break;
            }
        }
        total
    };
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => inside(&mut items.iter().map(|item| weight(item, enough) + 1)),
        Value::Object(map) => inside(&mut map.iter().map(|(key, item)| key.len() + 3 + weight(item, enough))),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// RFC 7396, appendix A: every case.
    #[test]
    fn merge_patch_follows_the_rfc() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (original, patch, result) in cases {
            // Data is always an object, so the RFC's other documents are tried one level down.
            let wrapped =
                Change::Merge(json!({ "w": patch })).apply(Map::from_iter([("w".into(), original.clone())]), 1000);
            let expected = if result.is_null() { json!({}) } else { json!({ "w": result }) };
            assert_eq!(Value::Object(wrapped.unwrap()), expected);
            if let Value::Object(data) = original {
                let applied = Change::Merge(patch).apply(data, 1000);
                match result {
                    Value::Object(result) => assert_eq!(applied.unwrap(), result),
                    _ => assert!(matches!(applied, Err(Error::Invalid { code: "data-not-an-object", .. }))),
                }
            }
        }
    }

    fn patch(operations: Value) -> Change {
        Change::Patch(serde_json::from_value(operations).unwrap())
    }

    fn data() -> Map<String, Value> {
        json!({"a": {"b": [1, 2]}, "n": 1}).as_object().unwrap().clone()
    }

    #[test]
    fn json_patch_is_all_or_nothing() {
        let change = patch(json!([
            {"op": "test", "path": "/n", "value": 1},
            {"op": "replace", "path": "/n", "value": 2},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "move", "from": "/a/b/0", "path": "/first"},
            {"op": "copy", "from": "/first", "path": "/again"},
        ]));
        let changed = Value::Object(change.apply(data(), 1000).unwrap());
        assert_eq!(changed, json!({"a": {"b": [2, 3]}, "n": 2, "first": 1, "again": 1}));
        for operations in [
            json!([{"op": "test", "path": "/n", "value": 2}]),
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "add", "path": "/a/b/7", "value": 0}]),
        ] {
            assert!(matches!(patch(operations).apply(data(), 1000), Err(Error::PatchConflict(_))));
        }
        let not_object = patch(json!([{"op": "replace", "path": "", "value": 1}]));
        assert!(matches!(not_object.apply(data(), 1000), Err(Error::PatchConflict(_))));
    }

    #[test]
    fn copies_cannot_blow_the_data_up() {
        let double = json!({"op": "copy", "from": "/a/b", "path": "/a/b/-"});
        let change = patch(Value::Array(vec![double; 60]));
        assert!(matches!(change.apply(data(), 65_536), Err(Error::Invalid { code: "data-too-large", .. })));
        let long = patch(Value::Array(vec![json!({"op": "test", "path": "/n", "value": 1}); MAX_OPERATIONS + 1]));
        assert!(matches!(long.apply(data(), 1000), Err(Error::Invalid { code: "patch-too-long", .. })));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_merge_patch_applied_twice_does_no_more(data in json(), patch in json()) {
            prop_assume!(data.is_object() && patch.is_object());
            let change = Change::Merge(patch);
            let once = change.apply(data.as_object().unwrap().clone(), 1000).unwrap();
            prop_assert_eq!(change.apply(once.clone(), 1000).unwrap(), once);
        }
    }
}
