//! Short names in the order of appearance, so that equal runs are drawn alike.

use std::collections::HashMap;

use mq_core::{Destination, DestinationKind, MessageId, Subscription, SubscriptionKind};

use super::{FlowStep, text::label};

/// Messages and participants by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    messages: HashMap<MessageId, usize>,
    participants: HashMap<String, usize>,
    labels: Vec<String>,
    /// What is left out of every name.
    hidden: Vec<String>,
}

impl Names {
    pub(super) fn new(hidden: &[String]) -> Self {
        Self {
            hidden: hidden.to_vec(),
            ..Self::default()
        }
    }

    /// The number of a message, from 1.
    pub(super) fn message(&mut self, id: &MessageId) -> usize {
        let next = self.messages.len() + 1;
        *self.messages.entry(id.clone()).or_insert(next)
    }

    /// The number of a client's participant, from 1.
    pub(super) fn client(&mut self, name: &str) -> usize {
        let name = self.shown(name);
        self.participant(format!("client {name}"), &name)
    }

    /// The number of the participant that a message is published to.
    pub(super) fn destination(&mut self, step: &FlowStep, to: &Destination) -> usize {
        let kind = match to.kind() {
            DestinationKind::Queue => step.words.queue,
            DestinationKind::Topic => step.words.topic,
        };
        self.thing(kind, to.name())
    }

    /// The number of the participant that a consumer reads.
    pub(super) fn source(&mut self, step: &FlowStep, source: &Subscription) -> usize {
        let words = step.words;
        match (source.kind(), words.subscription) {
            (SubscriptionKind::Queue { queue }, _) => self.thing(words.queue, queue),
            (SubscriptionKind::Durable { .. }, Some(kind)) => self.thing(kind, source.name()),
            (SubscriptionKind::Ephemeral { topic }, Some(kind)) => {
                self.thing(&format!("ephemeral {kind}"), &format!("of {topic}"))
            }
            (
                SubscriptionKind::Durable { topic, .. } | SubscriptionKind::Ephemeral { topic },
                None,
            ) => self.thing(words.topic, topic),
        }
    }

    /// A name without what is hidden.
    pub(super) fn shown(&self, name: &str) -> String {
        let hide = |name: String, hidden: &String| name.replace(hidden.as_str(), "");
        self.hidden.iter().fold(name.to_owned(), hide)
    }

    /// The label of each participant, by number.
    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    fn thing(&mut self, kind: &str, name: &str) -> usize {
        let name = self.shown(name);
        self.participant(format!("{kind}\n{name}"), &format!("{kind} {name}"))
    }

    fn participant(&mut self, key: String, shown: &str) -> usize {
        let next = self.participants.len() + 1;
        let number = *self.participants.entry(key).or_insert(next);
        if number == next {
            self.labels.push(label(shown));
        }
        number
    }
}
