//! The topology of the queue shape: queues by name, and the queues bound to each topic.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::error::{self, Kept};
use mq_core::{
    Destination, DestinationKind, Error, ErrorKind, Filter, Message, Receipt, Result, Stored,
    Subscription, SubscriptionKind, check_name,
};

use super::queue::Queue;

/// Queues by name, and the bindings of topics.
#[derive(Debug)]
pub(crate) struct Queues {
    names: RwLock<Names>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Names {
    queues: HashMap<Arc<str>, Arc<Queue>>,
    topics: HashMap<Arc<str>, Vec<Binding>>,
}

#[derive(Debug, Clone)]
struct Binding {
    filter: Filter,
    queue: Arc<Queue>,
}

impl Queues {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            names: RwLock::default(),
            limit,
        }
    }

    pub(crate) fn declare_destination(&self, what: &Destination) -> Result<()> {
        name("declare", what.name())?;
        let mut names = self.write();
        match what.kind() {
            DestinationKind::Topic => {
                names.topics.entry(Arc::clone(what.name())).or_default();
            }
            DestinationKind::Queue => {
                for queue in [Some(what.clone()), what.dead_letter_home()]
                    .into_iter()
                    .flatten()
                {
                    names.queue(queue.name(), self.limit);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn declare_durable(&self, topic: &str, what: &Subscription) -> Result<()> {
        subscription_name("declare", what)?;
        let mut names = self.write();
        let bound = names.bound("declare", topic, what)?.is_some();
        let queue = names.queue(what.name(), self.limit);
        if let Some(home) = what.dead_letter_home() {
            names.queue(home.name(), self.limit);
        }
        if !bound && let Some(bindings) = names.topics.get_mut(topic) {
            bindings.push(Binding {
                filter: what.filter_by().clone(),
                queue,
            });
        }
        Ok(())
    }

    pub(crate) fn verify_destination(&self, what: &Destination) -> Result<()> {
        name("verify", what.name())?;
        let names = self.read();
        match what.kind() {
            DestinationKind::Topic => names.has_topic("verify", what.name()),
            DestinationKind::Queue => {
                let parts = [Some(what.clone()), what.dead_letter_home()];
                let missing = |part: Destination| names.find("verify", part.name()).err();
                let parts = parts.into_iter().flatten();
                Error::differences("verify", parts.filter_map(missing).collect())
            }
        }
    }

    pub(crate) fn verify_durable(&self, topic: &str, what: &Subscription) -> Result<()> {
        subscription_name("verify", what)?;
        let names = self.read();
        let itself = match names.bound("verify", topic, what) {
            Ok(Some(_)) => None,
            Ok(None) => Some(error::no_subscription("verify", what)),
            Err(error) => Some(error),
        };
        let home = what.dead_letter_home();
        let home = home.and_then(|home| names.find("verify", home.name()).err());
        Error::differences("verify", itself.into_iter().chain(home).collect())
    }

    pub(crate) fn delete_destination(&self, what: &Destination, with_messages: bool) -> Result<()> {
        name("delete", what.name())?;
        let mut names = self.write();
        match what.kind() {
            DestinationKind::Topic => {
                let bound = names.topics.get(what.name()).is_some_and(|b| !b.is_empty());
                if bound {
                    return Err(error::in_use(what, Kept::Subscriptions));
                }
                names.topics.remove(what.name());
                Ok(())
            }
            DestinationKind::Queue => {
                names.delete_queue(what.name(), what.dead_letter_home(), with_messages)
            }
        }
    }

    pub(crate) fn delete_durable(
        &self,
        topic: &str,
        what: &Subscription,
        with_messages: bool,
    ) -> Result<()> {
        subscription_name("delete", what)?;
        let mut names = self.write();
        // Its topic may be gone, or have another subscription of this name bound by another filter.
        let queue = names.queues.get(what.name()).cloned();
        names.delete_queue(what.name(), what.dead_letter_home(), with_messages)?;
        if let (Some(queue), Some(bindings)) = (queue, names.topics.get_mut(topic)) {
            bindings.retain(|binding| !Arc::ptr_eq(&binding.queue, &queue));
        }
        Ok(())
    }

    /// The queue that a consumer of this subscription reads; an ephemeral one is made now.
    pub(crate) fn open(
        &self,
        what: &Subscription,
        home: Option<&Destination>,
    ) -> Result<Arc<Queue>> {
        subscription_name("consume", what)?;
        let mut names = self.write();
        let found = match what.kind() {
            SubscriptionKind::Queue { queue } => Some(names.find("consume", queue)?),
            SubscriptionKind::Durable { topic, .. } => {
                let bound = names.bound("consume", topic, what)?;
                Some(bound.ok_or_else(|| error::no_subscription("consume", what))?)
            }
            SubscriptionKind::Ephemeral { topic } => {
                names.has_topic("consume", topic)?;
                None
            }
        };
        if let Some(home) = home.filter(|home| !names.has(home)) {
            return Err(error::no_home(home, what));
        }
        Ok(found.unwrap_or_else(|| {
            let queue = Arc::new(Queue::new(Arc::clone(what.name()), self.limit));
            let filter = what.filter_by().clone();
            let bindings = names.topics.entry(Arc::clone(what.name())).or_default();
            bindings.push(Binding {
                filter,
                queue: Arc::clone(&queue),
            });
            queue
        }))
    }

    /// Takes away the queue of an ephemeral subscription, with what is in it.
    pub(crate) fn unbind(&self, topic: &str, queue: &Arc<Queue>) {
        if let Some(bindings) = self.write().topics.get_mut(topic) {
            bindings.retain(|binding| !Arc::ptr_eq(&binding.queue, queue));
        }
    }

    /// Stores one message.
    pub(crate) fn store(&self, to: &Destination, message: Message) -> Result<Receipt> {
        let names = self.read();
        match to.kind() {
            DestinationKind::Queue => {
                let queue = names.queues.get(to.name()).ok_or_else(|| missing(to))?;
                stored(queue.push(message, None), to)
            }
            DestinationKind::Topic => {
                let bindings = names.topics.get(to.name());
                fan_out(to, message, bindings.ok_or_else(|| missing(to))?)
            }
        }
    }

    /// Stores messages, in order; one outcome for each.
    ///
    /// A queue is locked, and its consumers are woken, once for all of them.
    pub(crate) fn store_all(
        &self,
        to: &Destination,
        messages: impl IntoIterator<Item = Message>,
        mut outcome: impl FnMut(Result<Receipt>),
    ) {
        let names = self.read();
        match to.kind() {
            DestinationKind::Queue if let Some(queue) = names.queues.get(to.name()) => {
                queue.push_all(messages, |fits| outcome(stored(fits, to)));
            }
            DestinationKind::Topic if let Some(bindings) = names.topics.get(to.name()) => {
                messages
                    .into_iter()
                    .for_each(|message| outcome(fan_out(to, message, bindings)));
            }
            DestinationKind::Queue | DestinationKind::Topic => {
                let error = missing(to);
                messages
                    .into_iter()
                    .for_each(|_| outcome(Err(error.clone())));
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn queue(&mut self, name: &Arc<str>, limit: usize) -> Arc<Queue> {
        let make = || Arc::new(Queue::new(Arc::clone(name), limit));
        Arc::clone(self.queues.entry(Arc::clone(name)).or_insert_with(make))
    }

    /// Deletes a queue, and its home if that is empty and unread.
    fn delete_queue(
        &mut self,
        name: &str,
        home: Option<Destination>,
        with_messages: bool,
    ) -> Result<()> {
        let kept = |queue: Option<&Arc<Queue>>, with| queue.and_then(|queue| queue.kept(with));
        if let Some(kept) = kept(self.queues.get(name), with_messages) {
            return Err(error::in_use(Destination::queue(name), kept));
        }
        self.queues.remove(name);
        if let Some(home) = home
            && kept(self.queues.get(home.name()), false).is_none()
        {
            self.queues.remove(home.name());
        }
        Ok(())
    }

    fn find(&self, operation: &'static str, name: &str) -> Result<Arc<Queue>> {
        self.queues
            .get(name)
            .cloned()
            .ok_or_else(|| error::no_queue(operation, name))
    }

    fn has_topic(&self, operation: &'static str, topic: &str) -> Result<()> {
        let there = self.topics.contains_key(topic);
        there
            .then_some(())
            .ok_or_else(|| error::no_topic(operation, topic))
    }

    fn has(&self, home: &Destination) -> bool {
        match home.kind() {
            DestinationKind::Queue => self.queues.contains_key(home.name()),
            DestinationKind::Topic => self.topics.contains_key(home.name()),
        }
    }

    /// The queue of a durable subscription, if it is there, with the filter asked for.
    fn bound(
        &self,
        operation: &'static str,
        topic: &str,
        what: &Subscription,
    ) -> Result<Option<Arc<Queue>>> {
        let bindings = self
            .topics
            .get(topic)
            .ok_or_else(|| error::no_topic(operation, topic))?;
        let Some(queue) = self.queues.get(what.name()) else {
            return Ok(None);
        };
        match bindings
            .iter()
            .find(|binding| Arc::ptr_eq(&binding.queue, queue))
        {
            Some(binding) if binding.filter != *what.filter_by() => {
                Err(error::other_filter(operation, what))
            }
            Some(_) => Ok(Some(Arc::clone(queue))),
            None => Ok(None),
        }
    }
}

/// A copy for every subscription whose filter takes the message.
fn fan_out(to: &Destination, message: Message, bindings: &[Binding]) -> Result<Receipt> {
    let key: Option<Arc<str>> = to.key().map(Into::into);
    let taken: Vec<_> = bindings
        .iter()
        .filter(|binding| binding.filter.takes(to.key(), message.headers()))
        .collect();
    let Some((last, others)) = taken.split_last() else {
        return if to.is_mandatory() {
            Err(error::unroutable(to))
        } else {
            Ok(receipt())
        };
    };
    let mut result = Ok(receipt());
    let mut store = |binding: &Binding, message| {
        if !binding.queue.push(message, key.clone()) {
            result = Err(error::full(to));
        }
    };
    others
        .iter()
        .for_each(|binding| store(binding, message.clone()));
    store(last, message);
    result
}

fn missing(to: &Destination) -> Error {
    name("publish", to.name())
        .err()
        .unwrap_or_else(|| match to.kind() {
            DestinationKind::Queue => error::unroutable(to),
            DestinationKind::Topic => error::no_topic("publish", to.name()),
        })
}

fn subscription_name(operation: &'static str, what: &Subscription) -> Result<()> {
    match what.kind() {
        SubscriptionKind::Queue { queue } => name(operation, queue),
        SubscriptionKind::Ephemeral { topic } => name(operation, topic),
        SubscriptionKind::Durable { topic, name: own } => {
            name(operation, topic)?;
            name(operation, own)?;
            // It is the name of a queue too.
            name(operation, what.name())
        }
    }
}

/// The rules of RabbitMQ beside those that hold everywhere.
fn name(operation: &'static str, name: &str) -> Result<()> {
    check_name(operation, name)?;
    if name.starts_with("amq.") {
        let why = "names that begin with `amq.` belong to the broker";
        return Err(Error::new(ErrorKind::InvalidName, operation, why).with("name", name));
    }
    Ok(())
}

fn stored(fits: bool, to: &Destination) -> Result<Receipt> {
    fits.then(receipt).ok_or_else(|| error::full(to))
}

fn receipt() -> Receipt {
    Receipt::new(Stored::Process)
}
