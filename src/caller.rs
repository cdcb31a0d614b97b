//! Callers: the backends and gateways that call the API, each known by a key of its own. Pure.
//!
//! A key is 256 random bits, handed to the caller once. What is configured is a line `NAME:SCOPE:HASH`, from whose
//! SHA-256 hash the key cannot be found.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What every key begins with, so that people and secret scanners know one when they see it.
const PREFIX: &str = "sessiond_";
const KEY_BYTES: usize = 32;
const HASH_BYTES: usize = 32;
/// How many keys there may be: each is compared with, in every call.
const MAX_KEYS: usize = 100;
const MAX_NAME_BYTES: usize = 64;

/// What a caller may do; each scope includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scope {
    /// Resolve cookies: for gateways, and backends that only read.
    Resolve,
    /// Issue, and everything about the session that a cookie opens.
    Session,
    /// Every session by id, and every user's.
    Admin,
}

/// A key that a caller may have, as it is configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Whose it is. For rotation two keys may have one name.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    hash: [u8; HASH_BYTES],
}

/// Every key that is valid now. None at all: callers need no key.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

impl Scope {
    /// Its name, as it is configured.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Session => "session",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Key {
    /// A fresh key for a caller: what the caller is given, and what is configured.
    ///
    /// # Errors
    /// When the name does not do.
    pub fn generate(name: &str, scope: Scope) -> Result<(SecretString, Self), String> {
        check_name(name)?;
        let mut random = [0; KEY_BYTES];
        getrandom::fill(&mut random).expect("the system has randomness");
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let hash = hash(key.as_bytes());
        Ok((key.into(), Self { name: name.to_owned(), scope, hash }))
    }
}

/// `NAME:SCOPE:HASH`, the hash in hexadecimal. An error repeats nothing: it may be the key itself that is in the wrong place.
impl FromStr for Key {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || "a key is configured as NAME:SCOPE:HASH: `sessiond keygen` prints such a line".to_owned();
        if line.starts_with(PREFIX) {
            return Err(
                "this is the key itself, which is the caller's: give the line that `sessiond keygen` printed with it"
                    .into(),
            );
        }
        let mut parts = line.split(':');
        let (Some(name), Some(scope), Some(hex), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        check_name(name)?;
        let scope = Scope::from_str(scope, false).map_err(|_| "the scope is resolve, session or admin".to_owned())?;
        let mut hash = [0; HASH_BYTES];
        if hex.len() != 2 * HASH_BYTES {
            return Err(format!("the hash has {} characters, and should have {}", hex.len(), 2 * HASH_BYTES));
        }
        if !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self { name: name.to_owned(), scope, hash })
    }
}

/// The line to configure.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.name, self.scope)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}:{})", self.name, self.scope)
    }
}

impl Keys {
    /// Reads lines of `NAME:SCOPE:HASH`.
    ///
    /// # Errors
    /// Says which line is wrong, by its number; repeats none.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(lines) {
            let key: Key = line.parse().map_err(|why| format!("key number {number}: {why}"))?;
            if keys.iter().any(|other| other.hash == key.hash) {
                return Err(format!("key number {number} is there twice"));
            }
            keys.push(key);
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("there are {} keys: {MAX_KEYS} is the most", keys.len()));
        }
        Ok(Self(keys))
    }

    /// Whether callers need no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The key that was presented, if it is one of these. Takes the same time whichever it is.
    #[must_use]
    pub fn find(&self, presented: &[u8]) -> Option<&Key> {
        let presented = hash(presented);
        let (mut matched, mut at) = (Choice::from(0), 0_u64);
        for (position, key) in (0_u64..).zip(&self.0) {
            let equal = key.hash.ct_eq(&presented);
            at.conditional_assign(&position, equal);
            matched |= equal;
        }
        self.0.get(usize::try_from(at).unwrap_or_default()).filter(|_| bool::from(matched))
    }
}

fn hash(key: &[u8]) -> [u8; HASH_BYTES] {
    Sha256::digest(key).into()
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Err(format!("a key's name has 1 to {MAX_NAME_BYTES} letters, digits, dots, dashes and underscores"));
    }
    Ok(())
}

/// The key in an `Authorization` header (RFC 6750, section 2.1).
#[must_use]
pub fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_generated_key_is_found_by_its_line() {
        let (secret, key) = Key::generate("billing", Scope::Session).unwrap();
        let (_, other) = Key::generate("gate", Scope::Resolve).unwrap();
        let lines = [other.to_string(), key.to_string()];
        let keys = Keys::parse(lines.iter().map(String::as_str)).unwrap();
        assert_eq!(keys.find(secret.expose_secret().as_bytes()), Some(&key));
        assert_eq!(keys.find(b""), None);
        assert_eq!(keys.find(key.to_string().as_bytes()), None, "what is configured is no key");
        assert!(!lines[1].contains(secret.expose_secret()) && !format!("{keys:?}").contains(&lines[1][20..]));
        assert_eq!(Keys::default().find(b"anything"), None);
    }

    #[test]
    fn scopes_include_each_other() {
        assert!(Scope::Resolve < Scope::Session && Scope::Session < Scope::Admin);
    }

    #[test]
    fn wrong_lines_are_refused_and_not_repeated() {
        let hash = "0".repeat(64);
        let lines = [
            "sessiond_abc".to_owned(),
            "a:b".into(),
            format!("a:root:{hash}"),
            format!("a b:admin:{hash}"),
            format!(":admin:{hash}"),
            format!("a:admin:{}", "g".repeat(64)),
            format!("a:admin:{}", "ä".repeat(32)),
            format!("a:admin:{}", "0".repeat(63)),
            format!("a:admin:{hash}:"),
        ];
        for line in lines {
            let why = Keys::parse([line.as_str()]).unwrap_err();
            assert!(why.contains("number 1") && !why.contains(&line), "{why}");
        }
        let line = format!("a:admin:{hash}");
        assert!(Keys::parse([line.as_str(), line.as_str()]).unwrap_err().contains("twice"));
        assert!(Keys::parse([line.as_str()]).is_ok());
    }

    #[test]
    fn a_bearer_is_read() {
        assert_eq!(bearer(b"Bearer k"), Some(&b"k"[..]));
        assert_eq!(bearer(b"bearer  k "), Some(&b"k"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert_eq!(bearer(b"Bearer"), None);
    }
}
