//! Changes to a session's data: whole, by merge patch (RFC 7396) or by JSON Patch (RFC 6902).

use json_patch::PatchOperation;
use serde_json::{Map, Value};

use super::Error;
use super::data::{MAX_DEPTH, depth};

/// How many operations one JSON Patch may have.
pub const MAX_OPERATIONS: usize = 1000;

/// How many times the largest data one JSON Patch may copy and move.
const MAX_COPIED: usize = 4;

/// What an update does to the data.
#[derive(Debug, Clone)]
pub enum Change {
    /// Puts this object in place of the data.
    Replace(Map<String, Value>),
    /// RFC 7396: objects merge, null deletes, everything else replaces.
    Merge(Value),
    /// RFC 6902: all operations or none.
    Patch(Vec<PatchOperation>),
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

/// One operation at a time, each looked at before it is done: `copy` can double the size and the depth of the document
/// with every step, and deep documents overflow the stack of whatever walks them.
fn apply_patch(
    patch: &[PatchOperation],
    data: Map<String, Value>,
    max_bytes: usize,
) -> Result<Map<String, Value>, Error> {
    if patch.len() > MAX_OPERATIONS {
        let detail = format!("a patch may have {MAX_OPERATIONS} operations, and this has {}", patch.len());
        return Err(Error::invalid("patch-too-long", "", detail));
    }
    let mut document = Value::Object(data);
    let mut budget = MAX_COPIED * max_bytes;
    for (position, operation) in patch.iter().enumerate() {
        let (below, added) = match operation {
            PatchOperation::Add(add) => (add.path.count(), Some(&add.value)),
            PatchOperation::Replace(replace) => (replace.path.count(), Some(&replace.value)),
            PatchOperation::Copy(copy) => (copy.path.count(), document.pointer(copy.from.as_str())),
            PatchOperation::Move(of) => (of.path.count(), document.pointer(of.from.as_str())),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => (0, None),
        };
        if added.is_some_and(|value| below + depth(value) > MAX_DEPTH) {
            let detail = format!("data may nest {MAX_DEPTH} levels deep, and operation {position} makes it deeper");
            return Err(Error::invalid("data-too-deep", format!("/{position}"), detail));
        }
        if let (PatchOperation::Copy(_) | PatchOperation::Move(_), Some(value)) = (operation, added) {
            budget = budget.checked_sub(weight(value)).ok_or_else(|| {
                let detail = format!(
                    "data may take {max_bytes} bytes, and a patch may copy and move {MAX_COPIED} times as much"
                );
                Error::invalid("data-too-large", format!("/{position}"), detail)
            })?;
        }
        let conflict = |why: &dyn std::fmt::Display| {
            Error::PatchConflict(format!("operation {position} ({}) does not fit the data: {why}", operation.path()))
        };
        match operation {
            PatchOperation::Test(test) => match document.pointer(test.path.as_str()) {
                Some(value) if equal(value, &test.value) => {}
                Some(_) => return Err(conflict(&"the value there is another")),
                None => return Err(conflict(&"there is no value there")),
            },
            _ => json_patch::patch(&mut document, std::slice::from_ref(operation))
                .map_err(|error| conflict(&error.kind))?,
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

/// Equal as RFC 6902 (section 4.6) has it: numbers by value, so 1 is 1.0; to the crate they are not.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || (one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => one == other,
    }
}

/// About the value's size in JSON, in bytes, and what it costs to copy it.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| weight(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, item)| key.len() + weight(item) + 4).sum::<usize>() + 2,
        _ => 4,
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
            {"op": "test", "path": "/n", "value": 1.0},
            {"op": "test", "path": "/a", "value": {"b": [1e0, 2]}},
            {"op": "replace", "path": "/n", "value": 2},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "move", "from": "/a/b/0", "path": "/first"},
            {"op": "copy", "from": "/first", "path": "/again"},
        ]));
        let changed = Value::Object(change.apply(data(), 1000).unwrap());
        assert_eq!(changed, json!({"a": {"b": [2, 3]}, "n": 2, "first": 1, "again": 1}));
        for operations in [
            json!([{"op": "test", "path": "/n", "value": 2}]),
            json!([{"op": "test", "path": "/a", "value": {"b": [1]}}]),
            json!([{"op": "test", "path": "/none", "value": null}]),
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
        // Nests the document into itself, ever deeper.
        let mut path = "/a/b".to_owned();
        let deeper = Value::Array(
            (0..20)
                .map(|_| {
                    let copy = json!({"op": "copy", "from": "/a/b", "path": format!("{path}/-")});
                    path += "/0";
                    copy
                })
                .collect(),
        );
        let nested = json!({"a": {"b": [[]]}}).as_object().unwrap().clone();
        assert!(matches!(patch(deeper).apply(nested, 65_536), Err(Error::Invalid { .. } | Error::PatchConflict(_))));
        let mut path = "/a".to_owned();
        let adds: Vec<Value> = (0..200)
            .map(|_| {
                path += "/a";
                json!({"op": "add", "path": path, "value": {"a": {}}})
            })
            .collect();
        let nested = json!({"a": {}}).as_object().unwrap().clone();
        assert!(matches!(patch(adds.into()).apply(nested, 65_536), Err(Error::Invalid { code: "data-too-deep", .. })));
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
