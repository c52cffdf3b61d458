//! The hook over OpenTelemetry, as a program would have it, and what its spans are collected with.

use std::sync::{Arc, OnceLock};

use mq_core::{HeaderValue, Headers, trace::Propagator};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider, SpanData},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, registry};

// guide: hook
/// W3C Trace Context by OpenTelemetry.
#[derive(Default)]
pub(crate) struct W3c(TraceContextPropagator);

impl Propagator for W3c {
    fn inject(&self, span: &Span, headers: &mut Headers) {
        self.0.inject_context(&span.context(), &mut Writer(headers));
    }

    fn parent(&self, span: &Span, headers: &Headers) {
        // Without the layer, or with a context that nobody can read, the span stays a root.
        let _ = span.set_parent(self.context(headers));
    }

    fn link(&self, span: &Span, headers: &Headers) {
        span.add_link(self.context(headers).span().span_context().clone());
    }
}

impl W3c {
    fn context(&self, headers: &Headers) -> Context {
        self.0
            .extract_with_context(&Context::new(), &Reader(headers))
    }
}

struct Writer<'a>(&'a mut Headers);

impl Injector for Writer<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says nothing.
        if !value.is_empty() {
            self.0.insert(key.to_owned(), value);
        }
    }
}

struct Reader<'a>(&'a Headers);

impl Extractor for Reader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(HeaderValue::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}
// guide: end

pub(crate) fn w3c() -> Arc<dyn Propagator> {
    Arc::new(W3c::default())
}

/// The spans of this process that have ended.
pub(crate) fn finished() -> Vec<SpanData> {
    ended(exporter())
}

/// Before anything makes a span.
pub(crate) fn collect() {
    exporter();
}

/// Runs something on a thread of its own, whose spans pass a filter of their own; returns those.
pub(crate) fn apart<T: Send + 'static>(
    filter: Targets,
    run: impl Future<Output = T> + Send + 'static,
) -> (T, Vec<SpanData>) {
    let exporter = InMemorySpanExporter::default();
    let subscriber = subscriber(&exporter, filter);
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        tracing::subscriber::with_default(subscriber, || {
            // With its subscriber the exporter forgets them.
            (runtime.block_on(run), ended(&exporter))
        })
    });
    thread.join().expect("no panic")
}

fn ended(exporter: &InMemorySpanExporter) -> Vec<SpanData> {
    let spans = exporter.get_finished_spans();
    spans.expect("the exporter is never shut down")
}

fn exporter() -> &'static InMemorySpanExporter {
    static EXPORTER: OnceLock<InMemorySpanExporter> = OnceLock::new();
    EXPORTER.get_or_init(|| {
        let exporter = InMemorySpanExporter::default();
        // The clients below make spans too.
        let ours = ["mq_core", "mq_amqp", "mq_kafka"];
        let ours = ours.map(|target| (target, tracing::Level::DEBUG));
        let subscriber = subscriber(&exporter, Targets::new().with_targets(ours));
        tracing::subscriber::set_global_default(subscriber).expect("the only one");
        exporter
    })
}

fn subscriber(
    exporter: &InMemorySpanExporter,
    filter: Targets,
) -> impl Subscriber + Send + Sync + 'static {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("test"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false);
    registry().with(layer.with_filter(filter))
}
