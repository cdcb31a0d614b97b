//! Why a verb was not done.

use crate::store;

/// Why a verb was not done. "There is no such session" is not among these: the verbs answer that with None.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store failed; nothing is known about the session.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What was asked for breaks a rule.
    #[error("{pointer}: {detail}")]
    Invalid {
        /// Which rule, in a word: `reserved-name`, `data-too-large`, ...
        code: &'static str,
        /// Where in the request's body (RFC 6901); empty for the whole of it.
        pointer: String,
        /// What is wrong and what would do.
        detail: String,
    },
    /// `If-Match` names another state than the session's (RFC 9110, section 13.1.1).
    #[error("the session has changed since")]
    PreconditionFailed,
    /// A JSON Patch does not fit the data that is stored (RFC 5789, section 2.2).
    #[error("{0}")]
    PatchConflict(String),
    /// The stored record is not one that express-session or this service wrote.
    #[error("{0}")]
    Unreadable(String),
    /// The user has as many sessions as they may have.
    #[error("the user has {limit} sessions, and may have no more")]
    TooManySessions {
        /// How many they may have.
        limit: usize,
    },
    /// What was asked for at once is more than one answer may hold.
    #[error("the sessions take more than {limit} bytes together")]
    TooMuch {
        /// How many bytes it may hold.
        limit: usize,
    },
    /// Too many writers at once: this call lost every race, or its turn did not come in time. It wrote nothing.
    #[error("too many writers at once")]
    Contention,
}

impl Error {
    pub(crate) fn invalid(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { code, pointer: pointer.into(), detail: detail.into() }
    }
}
