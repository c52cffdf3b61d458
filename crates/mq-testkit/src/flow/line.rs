//! One line of a sequence diagram for one step.

use std::fmt::Write;

use mq_core::{Subscription, SubscriptionKind, flow::FlowKind};

use super::{FlowStep, names::Names, text::label};

/// A line: who says what to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The participants' numbers; one alone for a note.
    from: usize,
    to: Option<(&'static str, usize)>,
    before: String,
    /// The number of the message that it is about.
    pub(super) message: Option<usize>,
    /// What differs from message to message, such as an offset.
    place: String,
    after: String,
}

impl Line {
    /// The line of a step; `None` if there is nothing to draw.
    pub(super) fn of(step: &FlowStep, names: &mut Names) -> Self {
        let client = names.client(&step.client);
        let message = step.id.as_ref().map(|id| names.message(id));
        let word = (step.words.step)(step.kind);
        let other = match (&step.destination, &step.source) {
            // A copy in a dead-letter home was published, which is a line of its own.
            _ if step.kind == FlowKind::DeadLettered => None,
            (Some(to), _) => Some(names.destination(step, to)),
            (None, Some(source)) => Some(names.source(step, source)),
            (None, None) => None,
        };
        let arrow = |from, head, to| (from, Some((head, to)));
        let (from, to) = match (other.filter(|_| word.is_some()), step.kind) {
            (Some(other), FlowKind::Confirmed | FlowKind::Assigned) => arrow(other, "-->>", client),
            (Some(other), FlowKind::Unroutable | FlowKind::Rejected | FlowKind::Lost) => {
                arrow(other, "--x", client)
            }
            (Some(other), FlowKind::Delivered | FlowKind::Revoked) => arrow(other, "->>", client),
            (Some(other), _) => arrow(client, "->>", other),
            (None, _) => (client, None),
        };
        Self {
            from,
            to,
            before: word.map_or_else(String::new, label),
            message,
            place: place(step),
            after: after(step, names, word.is_some()),
        }
    }

    /// True if the other line says the same of another message.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.from == other.from
            && self.to == other.to
            && self.before == other.before
            && self.after == other.after
            && self.message.is_some() == other.message.is_some()
            && self.place.is_empty() == other.place.is_empty()
    }

    /// The participants that it names.
    pub(super) fn participants(&self) -> impl Iterator<Item = usize> {
        [Some(self.from), self.to.map(|(_, to)| to)]
            .into_iter()
            .flatten()
    }

    /// Writes it in Mermaid's words.
    pub(super) fn write(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = match self.to {
            Some((head, to)) => write!(out, "p{}{head}p{to}:", self.from),
            None => write!(out, "Note over p{}:", self.from),
        };
        let message = self.message.map(|number| format!("m{number}"));
        let message = message.unwrap_or_default();
        for part in [&self.before, &message, &self.place, &self.after] {
            if !part.is_empty() {
                out.push(' ');
                out.push_str(part);
            }
        }
        out.push('\n');
    }
}

/// The numbers that the broker gave.
fn place(step: &FlowStep) -> String {
    match (step.position, step.delivery, step.kind) {
        (Some(at), _, FlowKind::Assigned) => {
            format!("partition {} from offset {}", at.partition, at.offset)
        }
        (Some(at), _, FlowKind::Committed) => {
            format!("{} of partition {}", at.offset, at.partition)
        }
        (Some(at), _, FlowKind::Revoked | FlowKind::Lost) => format!("partition {}", at.partition),
        (Some(at), _, FlowKind::Confirmed | FlowKind::Delivered) => {
            format!("at partition {} offset {}", at.partition, at.offset)
        }
        (_, Some(number), _) if (step.words.step)(step.kind).is_some() => {
            format!("(delivery {number})")
        }
        _ => String::new(),
    }
}

/// What is said behind the message's name.
fn after(step: &FlowStep, names: &Names, said: bool) -> String {
    let group = |source: &Subscription| match (source.kind(), step.words.subscription) {
        (SubscriptionKind::Durable { .. } | SubscriptionKind::Queue { .. }, None) => {
            format!("group {}", names.shown(source.name()))
        }
        _ => String::new(),
    };
    let text = match step.kind {
        FlowKind::Handled => format!("handled, {}", step.decision.unwrap_or("decided")),
        FlowKind::DeadLettered => match &step.destination {
            Some(home) => format!("is dead-lettered in {}", names.shown(home.name())),
            None => "is dead-lettered".to_owned(),
        },
        FlowKind::Delivered => match step.attempt {
            Some(attempt) if attempt > 1 => format!("attempt {attempt}"),
            _ => String::new(),
        },
        FlowKind::Unknown => "unknown, no answer came".to_owned(),
        FlowKind::Acked if !said => "is done".to_owned(),
        FlowKind::Requeued if !said => "failed, again".to_owned(),
        FlowKind::Released if !said => "is given back".to_owned(),
        FlowKind::Opened | FlowKind::Committed => {
            step.source.as_ref().map_or_else(String::new, group)
        }
        kind if !said => kind.as_str().to_owned(),
        _ => String::new(),
    };
    match text.is_empty() {
        true => text,
        false => label(&text),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use mq_core::flow::{Flow, FlowSink, Vocabulary};

    /// The flow of a client whose broker says everything by the name of the step.
    pub(in super::super) fn flow(client: &str, sink: &Arc<impl FlowSink>) -> Flow {
        const WORDS: Vocabulary = Vocabulary {
            broker: "none",
            queue: "queue",
            topic: "topic",
            subscription: Some("subscription"),
            step: |kind| Some(kind.as_str()),
        };
        let sink = Arc::clone(sink) as Arc<dyn FlowSink>;
        Flow::new(client, &WORDS, sink)
    }
}
