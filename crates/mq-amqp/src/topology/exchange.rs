//! The kinds of exchange.

use std::fmt;

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
    /// Routes by headers, whatever the routing key. Takes [`Filter::All`](mq_core::Filter::All) and
    /// filters by headers.
    Headers,
}

impl From<ExchangeKind> for lapin::ExchangeKind {
    fn from(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Topic => Self::Topic,
            ExchangeKind::Direct => Self::Direct,
            ExchangeKind::Fanout => Self::Fanout,
            ExchangeKind::Headers => Self::Headers,
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Headers => "headers",
        })
    }
}
