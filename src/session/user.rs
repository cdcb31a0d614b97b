//! The user that a session names, and where in the data Express applications keep it.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::Error;
use super::data::{Data, is_reserved};

/// The longest user id, in bytes.
pub const MAX_USER_ID_BYTES: usize = 256;

/// Checks a user id: opaque text of 1 to [`MAX_USER_ID_BYTES`] bytes.
///
/// # Errors
/// [`Error::Invalid`] with the code `invalid-user-id`, at `pointer`.
pub fn check_user_id(user_id: &str, pointer: &str) -> Result<(), Error> {
    if user_id.is_empty() || user_id.len() > MAX_USER_ID_BYTES {
        let detail = format!("a user id has 1 to {MAX_USER_ID_BYTES} bytes, and this has {}", user_id.len());
        return Err(Error::invalid("invalid-user-id", pointer, detail));
    }
    Ok(())
}

/// A JSON Pointer (RFC 6901) to the user's id in the data, such as Passport's `/passport/user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPointer {
    text: String,
    tokens: Vec<String>,
}

impl FromStr for UserPointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err("a JSON Pointer starts with /, as in /passport/user".into());
        };
        let tokens: Vec<_> = path.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
        if tokens.iter().any(String::is_empty) {
            return Err("a part of the pointer is empty; write it like /passport/user".into());
        }
        if is_reserved(&tokens[0]) {
            return Err(format!("express-session keeps the name {:?} for itself", tokens[0]));
        }
        Ok(Self { text: text.to_owned(), tokens })
    }
}

impl UserPointer {
    /// The user's id in `data`: a text or a number there. None when there is neither, or it is no user id.
    #[must_use]
    pub fn get(&self, data: &Data) -> Option<String> {
        // Only the branch that is pointed at is parsed.
        let top: std::collections::HashMap<std::borrow::Cow<'_, str>, &serde_json::value::RawValue> =
            serde_json::from_str(data.as_str()).ok()?;
        let branch: Value = serde_json::from_str(top.get(self.tokens[0].as_str())?.get()).ok()?;
        let found = self.tokens[1..].iter().try_fold(&branch, |value, token| match value {
            Value::Object(map) => map.get(token),
            Value::Array(items) => items.get(token.parse::<usize>().ok()?),
            _ => None,
        })?;
        let user_id = match found {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        check_user_id(&user_id, "").ok().map(|()| user_id)
    }

    /// Puts `user_id` there, making the objects on the way; None takes it away.
    ///
    /// # Errors
    /// [`Error::Invalid`] when something on the way is not an object.
    pub fn set(&self, data: &mut Map<String, Value>, user_id: Option<&str>) -> Result<(), Error> {
        let (last, way) = self.tokens.split_last().expect("a pointer has a token");
        let mut at = data;
        for token in way {
            if user_id.is_none() && !at.contains_key(token) {
                return Ok(());
            }
            let next = at.entry(token.as_str()).or_insert_with(|| Value::Object(Map::new()));
            at = next.as_object_mut().ok_or_else(|| {
                let detail = format!(
                    "the user's id belongs at {} (--user-pointer), but {token:?} holds something that is not an object",
                    self.text
                );
                Error::invalid("user-pointer", "/data", detail)
            })?;
        }
        match user_id {
            Some(user_id) => drop(at.insert(last.clone(), user_id.into())),
            None => drop(at.shift_remove(last)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data(value: &Value) -> Data {
        Data::new(value.as_object().unwrap(), "", 1000).unwrap()
    }

    #[test]
    fn a_user_is_found_where_applications_keep_it() {
        let passport: UserPointer = "/passport/user".parse().unwrap();
        assert_eq!(passport.get(&data(&json!({"n": 1, "passport": {"user": "u1"}}))), Some("u1".into()));
        assert_eq!(passport.get(&data(&json!({"passport": {"user": 7}}))), Some("7".into()));
        for other in [
            json!({}),
            json!({"passport": {}}),
            json!({"passport": {"user": {"id": 1}}}),
            json!({"passport": {"user": ""}}),
            json!({"passport": 1}),
        ] {
            assert_eq!(passport.get(&data(&other)), None, "{other}");
        }
        let odd: UserPointer = "/a~1b/0/~0".parse().unwrap();
        assert_eq!(odd.get(&data(&json!({"a/b": [{"~": "u2"}]}))), Some("u2".into()));
    }

    #[test]
    fn a_user_is_put_where_it_is_found() {
        let passport: UserPointer = "/passport/user".parse().unwrap();
        let mut map = json!({"passport": {"other": 1}}).as_object().unwrap().clone();
        passport.set(&mut map, Some("u1")).unwrap();
        assert_eq!(Value::Object(map.clone()), json!({"passport": {"other": 1, "user": "u1"}}));
        passport.set(&mut map, None).unwrap();
        assert_eq!(Value::Object(map), json!({"passport": {"other": 1}}));
        let mut empty = Map::new();
        passport.set(&mut empty, None).unwrap();
        assert!(empty.is_empty());
        let mut blocked = json!({"passport": 1}).as_object().unwrap().clone();
        assert!(passport.set(&mut blocked, Some("u1")).is_err());
    }

    #[test]
    fn a_pointer_is_checked_at_start() {
        for wrong in ["", "passport/user", "/", "/a//b", "/cookie/user", "/sessiond"] {
            assert!(wrong.parse::<UserPointer>().is_err(), "{wrong}");
        }
    }
}
