//! Traces: a request's place in its caller's trace (W3C Trace Context), and its span for a collector.
//!
//! The caller decides what is traced: a request whose `traceparent` is sampled gets a span, and no other costs anything.

use axum::http::HeaderMap;

/// The `traceparent` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent<'h> {
    /// 32 hexadecimal digits.
    pub(crate) trace_id: &'h str,
    /// 16 of them: the caller's span.
    span_id: &'h str,
    sampled: bool,
}

impl<'h> TraceParent<'h> {
    /// The one that comes with a request, if it is whole.
    pub(crate) fn of(headers: &'h HeaderMap) -> Option<Self> {
        Self::parse(headers.get("traceparent")?.to_str().ok()?)
    }

    fn parse(text: &'h str) -> Option<Self> {
        let hex = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = |part: &&str| hex(part) && part.bytes().any(|byte| byte != b'0');
        let mut parts = text.split('-');
        let version = parts.next().filter(|part| part.len() == 2 && hex(part) && *part != "ff")?;
        let trace_id = parts.next().filter(|part| part.len() == 32 && id(part))?;
        let span_id = parts.next().filter(|part| part.len() == 16 && id(part))?;
        let flags = parts.next().filter(|part| part.len() == 2 && hex(part))?;
        // A later version may say more; this one does not.
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, span_id, sampled })
    }
}

#[cfg(feature = "otlp")]
pub use export::Exporter;
#[cfg(feature = "otlp")]
pub(crate) use export::Span;
#[cfg(not(feature = "otlp"))]
pub use none::Exporter;
#[cfg(not(feature = "otlp"))]
pub(crate) use none::Span;

#[cfg(feature = "otlp")]
mod export {
    use opentelemetry::trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    };
    use opentelemetry::{Context, KeyValue, global};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::TraceParent;

    /// Sends spans to a collector, in the background, until it is dropped.
    pub struct Exporter(SdkTracerProvider);

    impl Exporter {
        /// Starts to send to `endpoint`, the base URL of a collector that takes OTLP over HTTP.
        ///
        /// # Errors
        /// When that is no URL.
        pub fn start(endpoint: &str) -> Result<Self, String> {
            let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
            let exporter = SpanExporter::builder().with_http().with_endpoint(url).build();
            // Not what it says: there may be a password in a URL.
            let exporter = exporter.map_err(|_| "this is no URL such as http://127.0.0.1:4318")?;
            let resource = Resource::builder()
                .with_service_name("sessiond")
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build();
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
            global::set_tracer_provider(provider.clone());
            Ok(Self(provider))
        }
    }

    impl Drop for Exporter {
        fn drop(&mut self) {
            // Sends what waits. A collector that is away is no reason to fail.
            if self.0.shutdown().is_err() {
                tracing::warn!("some spans were not sent");
            }
        }
    }

    /// The span of one request.
    pub(crate) struct Span(global::BoxedSpan);

    impl Span {
        /// Begins it, if the caller has sampled its trace.
        pub(crate) fn begin(parent: Option<TraceParent<'_>>, method: &str, route: &str) -> Option<Self> {
            let parent = parent.filter(|parent| parent.sampled)?;
            let remote = SpanContext::new(
                TraceId::from_hex(parent.trace_id).ok()?,
                SpanId::from_hex(parent.span_id).ok()?,
                TraceFlags::SAMPLED,
                true,
                TraceState::default(),
            );
            let context = Context::new().with_remote_span_context(remote);
            let method = method.to_uppercase();
            let span = SpanBuilder::from_name(format!("{method} {route}"))
                .with_kind(SpanKind::Server)
                .with_attributes([
                    KeyValue::new("http.request.method", method),
                    KeyValue::new("http.route", route.to_owned()),
                ])
                .start_with_context(&global::tracer("sessiond"), &context);
            Some(Self(span))
        }

        /// Ends it.
        pub(crate) fn end(mut self, status: u16) {
            self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            if status >= 500 {
                self.0.set_status(Status::error(""));
            }
            self.0.end();
        }
    }
}

#[cfg(not(feature = "otlp"))]
mod none {
    use super::TraceParent;

    /// Nothing is sent by a build without the feature `otlp`.
    pub struct Exporter;

    impl Exporter {
        /// Refuses.
        ///
        /// # Errors
        /// Always.
        pub fn start(_endpoint: &str) -> Result<Self, String> {
            Err("this build sends no spans: build it with `cargo build --release --features otlp`".into())
        }
    }

    pub(crate) enum Span {}

    impl Span {
        pub(crate) fn begin(parent: Option<TraceParent<'_>>, _method: &str, _route: &str) -> Option<Self> {
            let _ = parent.filter(|parent| parent.sampled);
            None
        }

        pub(crate) fn end(self, _status: u16) {
            match self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let trace_id = "0af7651916cd43dd8448eb211c80319c";
        let span_id = "b7ad6b7169203331";
        let sampled = format!("00-{trace_id}-{span_id}-01");
        assert_eq!(TraceParent::parse(&sampled), Some(TraceParent { trace_id, span_id, sampled: true }));
        let later = format!("cc-{trace_id}-{span_id}-02-what-the-future-holds");
        assert_eq!(TraceParent::parse(&later), Some(TraceParent { trace_id, span_id, sampled: false }));
        for wrong in [
            String::new(),
            format!("ff-{trace_id}-{span_id}-01"),
            format!("00-{trace_id}-{span_id}-01-more"),
            format!("00-{trace_id}-{span_id}"),
            format!("00-{}-{span_id}-01", trace_id.to_uppercase()),
            format!("00-{}-{span_id}-01", "0".repeat(32)),
            format!("00-{trace_id}-{}-01", "0".repeat(16)),
            format!("00-{trace_id}0-{span_id}-01"),
        ] {
            assert_eq!(TraceParent::parse(&wrong), None, "{wrong}");
        }
    }
}
