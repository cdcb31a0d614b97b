//! The session's id, parsed once.

use std::fmt;

use uuid::Uuid;

/// The longest id that is accepted or written, in bytes. Ours have 36 bytes; Express's have 32.
pub const MAX_ID_BYTES: usize = 256;

/// A session's id: 1 to [`MAX_ID_BYTES`] bytes without control characters.
///
/// It names a session and opens nothing; the credential is the signed cookie. Ours are UUID v4. Ids that Express made are
/// accepted as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// Returns a new id: 122 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().hyphenated().to_string())
    }

    /// Returns `None` if the text is empty, too long, or has a control character.
    #[must_use]
    pub fn parse(text: impl Into<String> + AsRef<str>) -> Option<Self> {
        is_valid(text.as_ref()).then(|| Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_valid(text: &str) -> bool {
    let is_control = if text.is_ascii() {
        // Most ids are ASCII: their bytes need not be decoded.
        text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    };
    (1..=MAX_ID_BYTES).contains(&text.len()) && !is_control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded() {
        assert!(Id::parse("2ZxoG-lhTWsQgMKY2HSPYdMLI1Pe6pzi").is_some());
        assert!(Id::parse("x".repeat(MAX_ID_BYTES)).is_some());
        assert!(Id::parse("x".repeat(MAX_ID_BYTES + 1)).is_none());
        assert!(Id::parse("").is_none());
        assert!(Id::parse("a\0b").is_none());
        assert_eq!(Id::random().as_str().len(), 36);
        assert_ne!(Id::random(), Id::random());
    }
}
