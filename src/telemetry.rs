//! What the service tells of itself: logs, metrics, traces. None of them has a cookie, a secret or a key in it.

mod logs;
mod metrics;
#[cfg(target_os = "linux")]
mod process;
mod traces;

pub(crate) use logs::start_plain;
pub use logs::{Log, start};
pub use metrics::Metrics;
pub(crate) use metrics::{CallMetrics, Cookies, RouteMetrics};
pub use traces::Exporter;
pub(crate) use traces::{Span, TraceParent};
