//! A caller's precondition on the state of a session: `If-Match` (RFC 9110, section 13.1.1).

use super::Error;

/// The states in which a caller wants a session to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Any state.
    #[default]
    Any,
    /// One of these entity tags, quotes included. Ours are strong, so a weak one never matches.
    Tags(Vec<String>),
}

impl Precondition {
    /// Checks the entity tag of a session's current state. `etag` is called only if it is needed.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if the tag is none of those that the caller named.
    pub(super) fn check(&self, etag: impl FnOnce() -> String) -> Result<(), Error> {
        match self {
            Self::Any => Ok(()),
            Self::Tags(tags) if tags.contains(&etag()) => Ok(()),
            Self::Tags(_) => Err(Error::PreconditionFailed),
        }
    }
}
