//! Which names there are: declared, verified, deleted, opened and published to.

use std::sync::Arc;

use mq_core::{
    ConsumePlan, Declaration, Deletion, Destination, Error, ErrorKind, Message, Receipt, Result,
    Subscription, SubscriptionKind,
};
use tokio::sync::Notify;

pub(crate) use source::{Held, Source, Wait};

use crate::Builder;

use self::{logs::Logs, queues::Queues};

mod cursor;
mod group;
mod log;
mod logs;
mod partition;
mod queue;
mod queues;
mod ready;
mod source;

/// The names of a broker, in one of its two shapes.
#[derive(Debug)]
pub(crate) enum Topology {
    Queues(Queues),
    Logs(Logs),
}

impl Topology {
    pub(crate) fn new(settings: &Builder) -> Self {
        match settings.partitions {
            None => Self::Queues(Queues::new(settings.max_messages)),
            Some(partitions) => Self::Logs(Logs::new(partitions, settings.max_messages)),
        }
    }

    pub(crate) fn is_log(&self) -> bool {
        matches!(self, Self::Logs(_))
    }

    pub(crate) fn declare(&self, what: &Declaration) -> Result<()> {
        match part("declare", what)? {
            Part::Destination(destination) => match self {
                Self::Queues(queues) => queues.declare_destination(&destination),
                Self::Logs(logs) => logs.declare_destination(&destination),
            },
            Part::Durable(topic, subscription) => match self {
                Self::Queues(queues) => queues.declare_durable(topic, subscription),
                Self::Logs(logs) => logs.declare_durable(topic, subscription),
            },
        }
    }

    pub(crate) fn verify(&self, what: &Declaration) -> Result<()> {
        match part("verify", what)? {
            Part::Destination(destination) => match self {
                Self::Queues(queues) => queues.verify_destination(&destination),
                Self::Logs(logs) => logs.verify_destination(&destination),
            },
            Part::Durable(topic, subscription) => match self {
                Self::Queues(queues) => queues.verify_durable(topic, subscription),
                Self::Logs(logs) => logs.verify_durable(topic, subscription),
            },
        }
    }

    pub(crate) fn delete(&self, what: &Deletion) -> Result<()> {
        let with_messages = what.takes_messages();
        match part("delete", what.what())? {
            Part::Destination(destination) => match self {
                Self::Queues(queues) => queues.delete_destination(&destination, with_messages),
                Self::Logs(logs) => logs.delete_destination(&destination, with_messages),
            },
            Part::Durable(topic, subscription) => match self {
                Self::Queues(queues) => queues.delete_durable(topic, subscription, with_messages),
                Self::Logs(logs) => logs.delete_durable(topic, subscription, with_messages),
            },
        }
    }

    /// What a consumer of this subscription reads; it has joined.
    pub(crate) fn open(
        &self,
        subscription: &Subscription,
        home: Option<&Destination>,
        plan: &ConsumePlan,
        member: u64,
        wake: &Arc<Notify>,
    ) -> Result<Source> {
        match self {
            Self::Queues(queues) => {
                let queue = queues.open(subscription, home)?;
                queue.join(member, plan.single_active_consumer);
                Ok(Source::Queue(queue))
            }
            Self::Logs(logs) => {
                let (log, group) = logs.open(subscription, home)?;
                log.join(group, member, wake);
                Ok(Source::Log(log, group))
            }
        }
    }

    /// Stores one message.
    pub(crate) fn store(&self, to: &Destination, message: Message) -> Result<Receipt> {
        match self {
            Self::Queues(queues) => queues.store(to, message),
            Self::Logs(logs) => logs.store(to, message),
        }
    }

    /// Stores messages, in order; one outcome for each.
    pub(crate) fn store_all(
        &self,
        to: &Destination,
        messages: impl IntoIterator<Item = Message>,
        outcome: impl FnMut(Result<Receipt>),
    ) {
        match self {
            Self::Queues(queues) => queues.store_all(to, messages, outcome),
            Self::Logs(logs) => logs.store_all(to, messages, outcome),
        }
    }

    /// Forgets an ephemeral subscription whose consumer has gone.
    pub(crate) fn forget(&self, topic: &str, source: &Source) {
        match (self, source) {
            (Self::Queues(queues), Source::Queue(queue)) => queues.unbind(topic, queue),
            (_, Source::Log(log, group)) => log.remove_group(*group),
            (Self::Logs(_), Source::Queue(_)) => {}
        }
    }
}

fn part<'a>(operation: &'static str, what: &'a Declaration) -> Result<Part<'a>> {
    match what {
        Declaration::Destination(destination) => Ok(Part::Destination(destination.clone())),
        Declaration::Subscription(subscription) => match subscription.kind() {
            SubscriptionKind::Queue { queue } => {
                Ok(Part::Destination(Destination::queue(Arc::clone(queue))))
            }
            SubscriptionKind::Durable { topic, .. } => {
                subscription.filter_by().check(operation)?;
                Ok(Part::Durable(topic, subscription))
            }
            SubscriptionKind::Ephemeral { .. } => Err(Error::new(
                ErrorKind::Config,
                operation,
                "an ephemeral subscription is made by its consumer; there is nothing to declare",
            )
            .with("subscription", subscription)),
        },
    }
}

enum Part<'a> {
    Destination(Destination),
    Durable(&'a str, &'a Subscription),
}
