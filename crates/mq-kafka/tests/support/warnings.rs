//! What this crate warned of, and what its client tried again, for whoever asks.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Listens to all threads of this program from now on; once in its life.
pub fn listen() {
    tracing::subscriber::set_global_default(Listener).expect("the only one");
}

/// What was said by each warning whose field has this value.
pub fn told(field: &str, value: &str) -> Vec<String> {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let with = told.iter().filter(|fields| fields.has(field, value));
    with.map(|fields| fields.text("message").to_owned())
        .collect()
}

/// How often the client tried a call of a transaction again since its connection was gone.
pub fn tried_again(call: &str) -> usize {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let of_call = told.iter().filter(|fields| fields.has("what", call));
    let cut = of_call.filter(|fields| fields.text("error").starts_with("network error"));
    cut.count()
}

static TOLD: Mutex<Vec<Fields>> = Mutex::new(Vec::new());

#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn has(&self, name: &str, value: &str) -> bool {
        self.0.iter().any(|(n, v)| *n == name && v == value)
    }

    fn text(&self, name: &str) -> &str {
        let mut fields = self.0.iter();
        fields.find(|(n, _)| *n == name).map_or("", |(_, v)| v)
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("mq_kafka");
        ours && *metadata.level() == Level::WARN || metadata.target() == "krafka::producer::retry"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(fields);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
