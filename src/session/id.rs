//! The session's name.

use std::fmt;

use uuid::Uuid;

use crate::cookie::is_id;

/// A session's id: 1 to [`MAX_ID_BYTES`](crate::cookie::MAX_ID_BYTES) bytes without control characters. It names a session and opens
/// nothing; the credential is the signed cookie. Ours are UUID v4; ids that Express made are taken as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// A fresh id: 122 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().hyphenated().to_string())
    }

    /// None when the text is empty, too long or has a control character.
    #[must_use]
    pub fn parse(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        is_id(&text).then_some(Self(text))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::MAX_ID_BYTES;

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
