//! What the service tells of itself: logs and metrics. Neither has a cookie, a secret, a key or an id in it.

mod logs;
mod metrics;

pub use logs::start;
pub use metrics::Metrics;
pub(crate) use metrics::{CallMetrics, Cookies, RouteMetrics};
