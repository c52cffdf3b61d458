//! The kinds of exchange that a topic can be.

use std::{collections::HashMap, fmt};

/// Which kind of exchange a topic is (AMQP 0-9-1, section 3.1.3).
///
/// Named for a topic by [`AmqpBuilder::exchange`](crate::AmqpBuilder::exchange).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// Routes by patterns. Takes every filter.
    #[default]
    Topic,
    /// Routes by the whole routing key. Takes [`Filter::Exact`](mq_core::Filter::Exact) alone.
    Direct,
    /// Gives every message to every subscription, whatever its routing key. Takes
    /// [`Filter::All`](mq_core::Filter::All) and filters by headers.
    Fanout,
}

/// The kind of each topic that is no topic exchange.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kinds(HashMap<String, ExchangeKind>);

impl Kinds {
    pub(crate) fn set(&mut self, topic: String, kind: ExchangeKind) {
        self.0.insert(topic, kind);
    }

    pub(crate) fn of(&self, topic: &str) -> ExchangeKind {
        self.0.get(topic).copied().unwrap_or_default()
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl From<ExchangeKind> for lapin::ExchangeKind {
    fn from(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Topic => Self::Topic,
            ExchangeKind::Direct => Self::Direct,
            ExchangeKind::Fanout => Self::Fanout,
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
        })
    }
}
