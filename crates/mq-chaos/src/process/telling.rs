//! What the crates under test tell: warnings go to the log of the process, lost connections and alarms are counted.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use mq_amqp::{AmqpEvent, AmqpEvents};
use mq_chaos::containers::now;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::Stage;
use crate::Result;

/// From now on, in this process.
pub(super) fn start() -> Result {
    Ok(tracing::subscriber::set_global_default(Telling)?)
}

/// Counts what happens to the connections of this process.
pub(super) fn count(mut events: AmqpEvents, stage: &Arc<Stage>) {
    let stage = Arc::clone(stage);
    tokio::spawn(async move {
        let counters = &stage.counters;
        while let Some(event) = events.next().await {
            match event {
                AmqpEvent::Blocked { .. } => counters.blocked_at.store(now(), Relaxed),
                AmqpEvent::Unblocked { .. } => counters.blocked_at.store(0, Relaxed),
                AmqpEvent::Disconnected { .. } => {
                    counters.connections_lost.fetch_add(1, Relaxed);
                }
                _ => {}
            }
        }
    });
}

struct Telling;

impl Subscriber for Telling {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && metadata.target().starts_with("mq_")
            && *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let (level, target) = (event.metadata().level(), event.metadata().target());
        eprintln!(
            "{} {level} {target}: {}{}",
            now(),
            line.message,
            line.fields
        );
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // No span is enabled.
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// An event as text.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
