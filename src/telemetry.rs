//! Metrics, in the text format of OpenMetrics 1.0. Labels are bounded: routes, statuses and kinds, never an id, a user or
//! a caller. Callers keep the handles, so that no request looks a metric up by its labels.
//!
//! docs/metrics.md lists them all.

#[cfg(target_os = "linux")]
mod process;

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

type Labels = Vec<(&'static str, Cow<'static, str>)>;
type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Everything that is counted in this process.
pub struct Metrics {
    registry: Registry,
    requests: Counters,
    request_duration: Histograms,
    store_calls: Counters,
    store_call_duration: Histograms,
    pub(crate) requests_in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) issued: Counter,
    pub(crate) regenerated: Counter,
    pub(crate) revoked: Revoked,
    pub(crate) expired: Counter,
    pub(crate) cookies: Cookies,
    pub(crate) touches: Touches,
    pub(crate) lookups: Lookups,
    pub(crate) log_lines_lost: Counter,
    task_restarts: Counters,
    pub(crate) tasks_down: Gauge,
}

/// Sessions revoked, by what it was that revoked them.
pub(crate) struct Revoked {
    /// A call that named the session.
    pub(crate) by_session: Counter,
    /// A call that named the user.
    pub(crate) by_user: Counter,
    /// A newer session of a user who may have only so many.
    pub(crate) by_limit: Counter,
}

/// Cookies of our name, by their signature.
pub(crate) struct Cookies {
    /// Signed by the secret that signs now.
    pub(crate) first: Counter,
    /// Signed by another secret: while these come, it is still needed.
    pub(crate) older: Counter,
    /// Not signed by us.
    pub(crate) bad: Counter,
}

/// Resolves of live sessions, by what they did to the expiry.
pub(crate) struct Touches {
    pub(crate) written: Counter,
    pub(crate) skipped: Counter,
    pub(crate) failed: Counter,
}

/// Resolves by cookie where there is a near-cache, by what it had.
pub(crate) struct Lookups {
    /// The answer.
    pub(crate) hit: Counter,
    /// Nothing that could be given out.
    pub(crate) missed: Counter,
    /// It was not asked: the caller wanted the store's word, or a touch.
    pub(crate) bypassed: Counter,
}

/// The handles of one route.
pub(crate) struct RouteMetrics {
    labels: Labels,
    requests: Counters,
    ok: Counter,
    duration: Histogram,
}

/// The handles of one kind of call to the store.
pub(crate) struct CallMetrics {
    pub(crate) ok: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) unexpected: Counter,
    pub(crate) duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// With everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut all = Registry::default();
        #[cfg(target_os = "linux")]
        all.register_collector(Box::new(process::Process));
        let registry = all.sub_registry_with_prefix("sessiond");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        let mut counters = |name: &str, help: &str| register(registry, name, help, Counters::default());
        let requests = counters("requests", "Requests answered");
        let store_calls = counters("store_calls", "Calls to the store");
        let revoked = counters("sessions_revoked", "Sessions revoked, by what it was that revoked them");
        let cookies = counters("cookies", "Session cookies received, by their signature");
        let touches = counters("touches", "Resolves of live sessions, by what they did to the expiry");
        let lookups = counters("cache_lookups", "Resolves where there is a near-cache, by what it had");
        let task_restarts = counters("task_restarts", "Restarts of background tasks that panicked");
        let mut counter = |name: &str, help: &str| register(registry, name, help, Counter::default());
        let issued = counter("sessions_issued", "Sessions issued");
        let regenerated = counter("sessions_regenerated", "Sessions given a new id");
        let expired = counter("sessions_expired", "Expired sessions purged; Redis does it by itself, and counts them");
        let log_lines_lost = counter("log_lines_lost", "Lines of the log that were not written");
        let mut gauge = |name: &str, help: &str| register(registry, name, help, Gauge::default());
        let requests_in_flight = gauge("requests_in_flight", "Requests in progress");
        let connections = gauge("connections", "Connections open now");
        let tasks_down = gauge("tasks_down", "Background tasks that panicked and are not up again");
        let mut durations = |name: &str, help: &str, durations: fn() -> Histogram| {
            let family = Histograms::new_with_constructor(durations);
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let request_duration = durations("request_duration", "From a request's head to its answer's", || {
            Histogram::new([0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5])
        });
        let store_call_duration = durations("store_call_duration", "How long a call to the store took", || {
            Histogram::new([0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5])
        });
        let one_of =
            |family: &Counters, label, value: &'static str| family.get_or_create_owned(&vec![(label, value.into())]);
        Self {
            revoked: Revoked {
                by_session: one_of(&revoked, "by", "session"),
                by_user: one_of(&revoked, "by", "user"),
                by_limit: one_of(&revoked, "by", "limit"),
            },
            cookies: Cookies {
                first: one_of(&cookies, "secret", "first"),
                older: one_of(&cookies, "secret", "older"),
                bad: one_of(&cookies, "secret", "none"),
            },
            touches: Touches {
                written: one_of(&touches, "outcome", "written"),
                skipped: one_of(&touches, "outcome", "skipped"),
                failed: one_of(&touches, "outcome", "failed"),
            },
            lookups: Lookups {
                hit: one_of(&lookups, "outcome", "hit"),
                missed: one_of(&lookups, "outcome", "missed"),
                bypassed: one_of(&lookups, "outcome", "bypassed"),
            },
            registry: all,
            requests,
            request_duration,
            store_calls,
            store_call_duration,
            requests_in_flight,
            connections,
            issued,
            regenerated,
            expired,
            log_lines_lost,
            task_restarts,
            tasks_down,
        }
    }

    /// All of them as text, ready for a scraper.
    ///
    /// # Panics
    /// Never: writing to a `String` does not fail.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(32 * 1024);
        text::encode(&mut text, &self.registry).expect("a String takes all that is written to it");
        text
    }

    pub(crate) fn route(&self, method: String, route: String) -> RouteMetrics {
        let labels: Labels = vec![("method", method.into()), ("route", route.into())];
        RouteMetrics {
            duration: self.request_duration.get_or_create_owned(&labels),
            ok: self.requests.get_or_create_owned(&with(&labels, "status", "200")),
            requests: self.requests.clone(),
            labels,
        }
    }

    pub(crate) fn task_restarts(&self, task: &'static str) -> Counter {
        self.task_restarts.get_or_create_owned(&vec![("task", task.into())])
    }

    pub(crate) fn store_call(&self, call: &'static str) -> CallMetrics {
        let labels: Labels = vec![("call", call.into())];
        let outcome = |outcome| self.store_calls.get_or_create_owned(&with(&labels, "outcome", outcome));
        CallMetrics {
            ok: outcome("ok"),
            unavailable: outcome("unavailable"),
            unexpected: outcome("unexpected"),
            duration: self.store_call_duration.get_or_create_owned(&labels),
        }
    }
}

impl RouteMetrics {
    /// Notes an answer.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        match status {
            200 => self.ok.inc(),
            _ => self.requests.get_or_create(&with(&self.labels, "status", status.to_string())).inc(),
        };
    }

    /// In lower case.
    pub(crate) fn method(&self) -> &str {
        &self.labels[0].1
    }

    /// The route's pattern, as in `/v1/sessions/{id}`.
    pub(crate) fn route(&self) -> &str {
        &self.labels[1].1
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn with(labels: &Labels, label: &'static str, value: impl Into<Cow<'static, str>>) -> Labels {
    let mut labels = labels.clone();
    labels.push((label, value.into()));
    labels
}
