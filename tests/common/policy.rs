//! The rules of the tests that use the library.

use sessiond::cookie::{Attributes, SameSite};
use sessiond::session::{MAX_SPAN, OnLimit, Policy};

pub(crate) fn attributes() -> Attributes {
    Attributes {
        name: "connect.sid".into(),
        domain: None,
        path: "/".into(),
        http_only: true,
        secure: true,
        partitioned: false,
        priority: None,
        same_site: Some(SameSite::Lax),
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        idle_timeout: 86_400_000,
        max_idle_timeout: MAX_SPAN,
        lifetime: MAX_SPAN,
        max_lifetime: MAX_SPAN,
        touch_after: 60_000,
        rolling: true,
        resave: false,
        save_uninitialized: false,
        browser_session: false,
        express_writes: false,
        user_pointer: None,
        max_data_bytes: 65_536,
        max_sessions_per_user: None,
        on_limit: OnLimit::EvictOldest,
    }
}
