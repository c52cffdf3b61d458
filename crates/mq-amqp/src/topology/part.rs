//! One thing that has to be there, and how the broker is asked for it.

use lapin::{
    Channel,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use mq_core::{Destination, Error, ErrorKind, Result};

use super::{ExchangeKind, QueueSettings, close, exists, short};
use crate::connection::Link;

/// Something that has to be there.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Queue {
        name: String,
        settings: QueueSettings,
        /// Where the broker's own dead letters go.
        letters: Option<Destination>,
    },
    Exchange {
        name: String,
        kind: ExchangeKind,
    },
    /// An exchange hangs on another one, and gets what that one routes to it.
    Hang {
        to: String,
        from: String,
        key: String,
        arguments: FieldTable,
    },
    Bind {
        queue: String,
        exchange: String,
        key: String,
        arguments: FieldTable,
    },
}

impl Part {
    /// Looks without touching: a missing part ends the channel, so each look has its own.
    pub(super) async fn is_there(&self, link: &Link, operation: &'static str) -> Result<bool> {
        let channel = link.channel(operation).await?;
        let none = FieldTable::default;
        let looked = match self {
            Self::Queue { name, .. } => {
                let options = QueueDeclareOptions {
                    passive: true,
                    ..Default::default()
                };
                let look = channel.queue_declare(short(operation, name)?, options, none());
                link.answer(operation, look).await.map(drop)
            }
            Self::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions {
                    passive: true,
                    ..Default::default()
                };
                let name = short(operation, name)?;
                let look = channel.exchange_declare(name, (*kind).into(), options, none());
                link.answer(operation, look).await
            }
            Self::Hang { .. } | Self::Bind { .. } => Ok(()),
        };
        match looked {
            Ok(()) => {
                close(link, operation, channel).await;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.name(error)),
        }
    }

    /// A place for the broker's dead letters that is not made here has to be there: letters to a
    /// missing one are dropped without a word.
    pub(super) async fn letters_arrive(&self, link: &Link, operation: &'static str) -> Result<()> {
        let Self::Queue { settings, .. } = self else {
            return Ok(());
        };
        match settings.named_letters() {
            Some(to) => exists(link, operation, to)
                .await
                .map_err(|error| error.with("broker_dead_letters", to)),
            None => Ok(()),
        }
    }

    /// True if the place of its broker's own dead letters is one of these.
    pub(super) fn letters_go_to(&self, parts: &[Self]) -> bool {
        let Self::Queue { settings, .. } = self else {
            return false;
        };
        settings.named_letters().is_some_and(|to| {
            parts.iter().any(|part| match part {
                Self::Queue { name, .. } => to.is_queue() && **to.name() == **name,
                Self::Exchange { name, .. } => !to.is_queue() && **to.name() == **name,
                Self::Hang { .. } | Self::Bind { .. } => false,
            })
        })
    }

    /// A young quorum queue is not safe yet.
    pub(super) fn is_quorum(&self) -> bool {
        matches!(self, Self::Queue { settings, .. } if settings.is_quorum())
    }

    /// Every name in a part is short: [`parts`] and [`bindings`] made sure of it.
    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let name = |name: &str| ShortString::try_new(name).unwrap_or_default();
        match self {
            Self::Queue {
                name: queue,
                settings,
                letters,
            } => {
                let arguments = settings.arguments(letters.as_ref());
                let options = QueueDeclareOptions {
                    durable: !settings.is_exclusive(),
                    exclusive: settings.is_exclusive(),
                    ..QueueDeclareOptions::default()
                };
                channel
                    .queue_declare(name(queue), options, arguments)
                    .await
                    .map(drop)
            }
            Self::Exchange {
                name: exchange,
                kind,
            } => {
                let options = ExchangeDeclareOptions {
                    durable: true,
                    ..Default::default()
                };
                let none = FieldTable::default();
                channel
                    .exchange_declare(name(exchange), (*kind).into(), options, none)
                    .await
            }
            Self::Hang {
                to,
                from,
                key,
                arguments,
            } => {
                let options = ExchangeBindOptions::default();
                let arguments = arguments.clone();
                channel
                    .exchange_bind(name(to), name(from), name(key), options, arguments)
                    .await
            }
            Self::Bind {
                queue,
                exchange,
                key,
                arguments,
            } => {
                let options = QueueBindOptions::default();
                let arguments = arguments.clone();
                channel
                    .queue_bind(name(queue), name(exchange), name(key), options, arguments)
                    .await
            }
        }
    }

    /// The error of a part that is not there.
    pub(super) fn missing(&self, operation: &'static str) -> Error {
        let error = Error::new(ErrorKind::NotFound, operation, "it is not there");
        self.name(error).help("declare it first")
    }

    /// Says in an error which part it is about.
    pub(super) fn name(&self, error: Error) -> Error {
        match self {
            // The broker's own text may have named it.
            Self::Queue { .. } if error.context("queue").is_some() => error,
            Self::Queue { name, .. } => error.with("queue", name),
            Self::Exchange { name, .. } => error.with("topic", name),
            Self::Hang { to, from, .. } => error.with("topic", to).with("from", from),
            Self::Bind {
                queue, exchange, ..
            } => error.with("queue", queue).with("topic", exchange),
        }
    }
}
