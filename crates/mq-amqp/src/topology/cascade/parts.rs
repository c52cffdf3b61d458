//! What the cascade is made of. All of it is part of the wire contract: services of any age and
//! language share one cascade on a virtual host.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

/// What all names of the cascade begin with.
pub(crate) const PREFIX: &str = "mq.delay.";
/// Where a message leaves; queues are bound to it.
pub(super) const DUE: &str = "mq.delay.due";
/// The exchange and the queue for what leaves and has no queue any more. Without them such messages
/// would stay in the last level, and 32 of them would stop it (the broker has no more on its way).
pub(super) const DEAD: &str = "mq.delay.dead";
/// Levels, one for each bit of the delay in seconds.
pub(super) const LEVELS: u32 = 28;

/// One part of the cascade.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Exchange {
        name: String,
        kind: ExchangeKind,
        /// Where it sends what it has no binding for.
        alternate: Option<&'static str>,
    },
    Queue {
        name: String,
        /// How long a message stays, and the exchange that it goes on to.
        next: Option<(i64, String)>,
    },
    /// From an exchange into a queue.
    Enter {
        exchange: String,
        queue: String,
        key: String,
    },
    /// From an exchange to the next one, past a queue.
    Pass {
        from: String,
        to: String,
        key: String,
    },
}

/// The exchange and the queue of a level.
pub(super) fn level(bit: u32) -> String {
    format!("{PREFIX}{bit}")
}

/// True if this exchange is one of the cascade's.
pub(crate) fn is_of_cascade(exchange: &str) -> bool {
    exchange.starts_with(PREFIX)
}

/// All parts, each after those that it needs.
pub(super) fn parts() -> impl Iterator<Item = Part> {
    let end = [
        Part::Exchange {
            name: DEAD.into(),
            kind: ExchangeKind::Fanout,
            alternate: None,
        },
        Part::Queue {
            name: DEAD.into(),
            next: None,
        },
        Part::Enter {
            exchange: DEAD.into(),
            queue: DEAD.into(),
            key: String::new(),
        },
        Part::Exchange {
            name: DUE.into(),
            kind: ExchangeKind::Topic,
            alternate: Some(DEAD),
        },
    ];
    // From the last to the first: what is not there is never entered.
    end.into_iter().chain((0..LEVELS).flat_map(level_parts))
}

fn level_parts(bit: u32) -> [Part; 4] {
    let name = level(bit);
    let next = match bit {
        0 => DUE.to_owned(),
        _ => level(bit - 1),
    };
    let key = |value| {
        let higher = (bit + 1..LEVELS).map(|_| "*.").collect::<String>();
        format!("{higher}{value}.#")
    };
    [
        Part::Exchange {
            name: name.clone(),
            kind: ExchangeKind::Topic,
            alternate: None,
        },
        Part::Queue {
            name: name.clone(),
            next: Some((1000 << bit, next.clone())),
        },
        Part::Enter {
            exchange: name.clone(),
            queue: name.clone(),
            key: key(1),
        },
        Part::Pass {
            from: name,
            to: next,
            key: key(0),
        },
    ]
}

impl Part {
    /// A passive declaration cannot look at these.
    pub(super) fn is_binding(&self) -> bool {
        matches!(self, Self::Enter { .. } | Self::Pass { .. })
    }

    /// What an error calls it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } => name,
            Self::Enter { exchange, .. } => exchange,
            Self::Pass { from, .. } => from,
        }
    }

    /// Declares it, or, passively, only looks whether it is there. Every name is short.
    pub(super) async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        let name = |name: &str| ShortString::try_new(name).unwrap_or_default();
        let none = FieldTable::default;
        match self {
            Self::Exchange {
                name: exchange,
                kind,
                alternate,
            } => {
                let mut arguments = none();
                if let Some(alternate) = alternate {
                    arguments.insert("alternate-exchange".into(), text(alternate));
                }
                let options = ExchangeDeclareOptions {
                    passive,
                    durable: true,
                    ..ExchangeDeclareOptions::default()
                };
                channel
                    .exchange_declare(name(exchange), kind.clone(), options, arguments)
                    .await
            }
            Self::Queue { name: queue, next } => {
                let options = QueueDeclareOptions {
                    passive,
                    durable: true,
                    ..QueueDeclareOptions::default()
                };
                let declared =
                    channel.queue_declare(name(queue), options, arguments(next.as_ref()));
                declared.await.map(drop)
            }
            Self::Enter {
                exchange,
                queue,
                key,
            } => {
                let options = QueueBindOptions::default();
                channel
                    .queue_bind(name(queue), name(exchange), name(key), options, none())
                    .await
            }
            Self::Pass { from, to, key } => {
                let options = ExchangeBindOptions::default();
                channel
                    .exchange_bind(name(to), name(from), name(key), options, none())
                    .await
            }
        }
    }
}

/// Written out and not taken from the settings of queues, whose defaults may change.
fn arguments(next: Option<&(i64, String)>) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    match next {
        Some((life, next)) => {
            table.insert("x-message-ttl".into(), AMQPValue::LongLongInt(*life));
            table.insert("x-dead-letter-exchange".into(), text(next));
            // The next queue confirms before this one forgets. That needs a queue that would refuse
            // at a limit; there is none, since a full level would hold up the one above it.
            table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            table.insert("x-overflow".into(), text("reject-publish"));
        }
        None => {
            table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(20));
        }
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    /// What of a key is left when a pattern of the cascade took the bits that it names.
    fn takes(pattern: &str, bits: &[u8]) -> bool {
        let words = pattern.strip_suffix(".#").expect("any end").split('.');
        words
            .zip(bits)
            .all(|(word, bit)| word == "*" || word == bit.to_string())
    }

    /// The queues that a delay leads through, by the bindings alone.
    fn queues(seconds: u32) -> Vec<String> {
        let bits: Vec<u8> = (0..LEVELS)
            .rev()
            .map(|bit| u8::from(seconds >> bit & 1 == 1))
            .collect();
        let all: Vec<Part> = parts().collect();
        let next: HashMap<&str, &str> = all
            .iter()
            .filter_map(|part| match part {
                Part::Queue {
                    name,
                    next: Some((_, next)),
                } => Some((&**name, &**next)),
                _ => None,
            })
            .collect();
        let (mut at, mut seen) = (level(seconds.ilog2()), Vec::new());
        while at != DUE {
            let taken: Vec<&Part> = all
                .iter()
                .filter(|part| match part {
                    Part::Enter { exchange, key, .. } => *exchange == at && takes(key, &bits),
                    Part::Pass { from, key, .. } => *from == at && takes(key, &bits),
                    _ => false,
                })
                .collect();
            assert_eq!(taken.len(), 1, "one way on from {at}: {taken:?}");
            at = match taken[0] {
                Part::Enter { queue, .. } => {
                    seen.push(queue.clone());
                    next[&**queue].to_owned()
                }
                Part::Pass { to, .. } => to.clone(),
                other => panic!("{other:?}"),
            };
        }
        seen
    }

    #[test]
    fn a_delay_leads_through_the_queues_of_its_bits_and_no_other() {
        for seconds in [1, 2, 3, 60, 86_400, (1 << LEVELS) - 1, 1 << (LEVELS - 1)] {
            let bits = (0..LEVELS).rev().filter(|bit| seconds >> bit & 1 == 1);
            assert_eq!(queues(seconds), bits.map(level).collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_level_holds_a_message_for_its_own_bit() {
        let lives: BTreeSet<i64> = parts()
            .filter_map(|part| match part {
                Part::Queue {
                    next: Some((life, _)),
                    ..
                } => Some(life),
                _ => None,
            })
            .collect();
        assert_eq!(lives, (0..LEVELS).map(|bit| 1000 << bit).collect());
    }

    #[test]
    fn every_name_and_key_is_short() {
        for part in parts() {
            let names = match &part {
                Part::Exchange { name, .. } | Part::Queue { name, .. } => vec![name],
                Part::Enter {
                    exchange,
                    queue,
                    key,
                } => vec![exchange, queue, key],
                Part::Pass { from, to, key } => vec![from, to, key],
            };
            assert!(names.iter().all(|name| name.len() <= 255), "{part:?}");
        }
    }
}
