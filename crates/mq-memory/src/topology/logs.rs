//! The topology of the log shape: a log for each queue and topic, a group for each reader.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use mq_core::{
    Destination, DestinationKind, Error, ErrorKind, Filter, Message, Position, Receipt, Result,
    Stored, Subscription, SubscriptionKind, check_name,
};

use crate::error::{self, Kept};

use super::log::Log;

/// Logs by name.
#[derive(Debug)]
pub(crate) struct Logs {
    names: RwLock<HashMap<Arc<str>, Named>>,
    partitions: usize,
    limit: usize,
}

#[derive(Debug, Clone)]
struct Named {
    kind: DestinationKind,
    log: Arc<Log>,
}

impl Logs {
    pub(crate) fn new(partitions: u32, limit: usize) -> Self {
        Self {
            names: RwLock::default(),
            partitions: partitions as usize,
            limit,
        }
    }

    pub(crate) fn declare_destination(&self, what: &Destination) -> Result<()> {
        name("declare", what.name())?;
        let mut names = self.write();
        for part in [Some(what.clone()), what.dead_letter_home()]
            .into_iter()
            .flatten()
        {
            self.create(&mut names, &part)?;
        }
        Ok(())
    }

    pub(crate) fn declare_durable(&self, topic: &str, what: &Subscription) -> Result<()> {
        subscription_name("declare", what)?;
        let mut names = self.write();
        let log = find(&names, "declare", &Destination::topic(topic))?;
        if let Some(home) = what.dead_letter_home() {
            self.create(&mut names, &home)?;
        }
        if group("declare", &log, what)?.is_none() {
            log.add_group(Arc::clone(what.name()), what.filter_by().clone(), false);
        }
        Ok(())
    }

    pub(crate) fn verify_destination(&self, what: &Destination) -> Result<()> {
        name("verify", what.name())?;
        let names = self.read();
        let parts = [Some(what.clone()), what.dead_letter_home()];
        let missing = |part| find(&names, "verify", &part).err();
        let parts = parts.into_iter().flatten();
        Error::differences("verify", parts.filter_map(missing).collect())
    }

    pub(crate) fn verify_durable(&self, topic: &str, what: &Subscription) -> Result<()> {
        subscription_name("verify", what)?;
        let names = self.read();
        let log = find(&names, "verify", &Destination::topic(topic));
        let itself = match log.and_then(|log| group("verify", &log, what)) {
            Ok(Some(_)) => None,
            Ok(None) => Some(error::no_subscription("verify", what)),
            Err(error) => Some(error),
        };
        let home = what.dead_letter_home();
        let home = home.and_then(|home| find(&names, "verify", &home).err());
        Error::differences("verify", itself.into_iter().chain(home).collect())
    }

    pub(crate) fn delete_destination(&self, what: &Destination, with_messages: bool) -> Result<()> {
        name("delete", what.name())?;
        let mut names = self.write();
        let Some(named) = names.get(what.name()) else {
            return delete_home(&mut names, what.dead_letter_home());
        };
        if named.kind != what.kind() {
            return Err(error::other_kind("delete", what.name()));
        }
        match what.kind() {
            DestinationKind::Topic if named.log.has_groups() => {
                return Err(error::in_use(what, Kept::Subscriptions));
            }
            DestinationKind::Topic => {}
            DestinationKind::Queue => check(&named.log, what, what.name(), with_messages)?,
        }
        names.remove(what.name());
        delete_home(&mut names, what.dead_letter_home())
    }

    pub(crate) fn delete_durable(
        &self,
        topic: &str,
        what: &Subscription,
        with_messages: bool,
    ) -> Result<()> {
        subscription_name("delete", what)?;
        let mut names = self.write();
        if let Ok(log) = find(&names, "delete", &Destination::topic(topic)) {
            check(&log, what, what.name(), with_messages)?;
            if let Some((group, _)) = log.find_group(what.name()) {
                log.remove_group(group);
            }
        }
        delete_home(&mut names, what.dead_letter_home())
    }

    /// The log and group that a consumer of this subscription reads; an ephemeral group is made
    /// now, at the end of the log.
    pub(crate) fn open(
        &self,
        what: &Subscription,
        home: Option<&Destination>,
    ) -> Result<(Arc<Log>, u64)> {
        subscription_name("consume", what)?;
        let names = self.read();
        let (log, found) = match what.kind() {
            SubscriptionKind::Queue { queue } => {
                let log = find(&names, "consume", &Destination::queue(Arc::clone(queue)))?;
                let found = group("consume", &log, what)?;
                (
                    log,
                    Some(found.ok_or_else(|| error::no_queue("consume", queue))?),
                )
            }
            SubscriptionKind::Durable { topic, .. } => {
                let log = find(&names, "consume", &Destination::topic(Arc::clone(topic)))?;
                let found = group("consume", &log, what)?;
                (
                    log,
                    Some(found.ok_or_else(|| error::no_subscription("consume", what))?),
                )
            }
            SubscriptionKind::Ephemeral { topic } => (
                find(&names, "consume", &Destination::topic(Arc::clone(topic)))?,
                None,
            ),
        };
        if let Some(home) = home.filter(|home| find(&names, "consume", home).is_err()) {
            return Err(error::no_home(home, what));
        }
        let group = found.unwrap_or_else(|| {
            log.add_group(Arc::clone(what.name()), what.filter_by().clone(), false)
        });
        Ok((log, group))
    }

    /// Stores one message.
    pub(crate) fn store(&self, to: &Destination, message: Message) -> Result<Receipt> {
        let names = self.read();
        let mut lies = None;
        target(&names, to)?.push([message], to.key(), |position| lies = position);
        stored(to, lies)
    }

    /// Stores messages, in order; one outcome for each. The log is locked once for all of them.
    pub(crate) fn store_all(
        &self,
        to: &Destination,
        messages: impl IntoIterator<Item = Message>,
        mut outcome: impl FnMut(Result<Receipt>),
    ) {
        let names = self.read();
        match target(&names, to) {
            Ok(log) => log.push(messages, to.key(), |position| outcome(stored(to, position))),
            Err(error) => messages
                .into_iter()
                .for_each(|_| outcome(Err(error.clone()))),
        }
    }

    fn create(&self, names: &mut HashMap<Arc<str>, Named>, what: &Destination) -> Result<()> {
        if let Some(named) = names.get(what.name()) {
            let same = named.kind == what.kind();
            return same
                .then_some(())
                .ok_or_else(|| error::other_kind("declare", what.name()));
        }
        let log = Arc::new(Log::new(
            Arc::clone(what.name()),
            self.partitions,
            self.limit,
        ));
        if what.is_queue() {
            log.add_group(Arc::clone(what.name()), Filter::All, true);
        }
        names.insert(
            Arc::clone(what.name()),
            Named {
                kind: what.kind(),
                log,
            },
        );
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Arc<str>, Named>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Named>> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stored(to: &Destination, position: Option<Position>) -> Result<Receipt> {
    let position = position.ok_or_else(|| error::full(to))?;
    Ok(Receipt::new(Stored::Process).at(position))
}

/// The log that a publish goes to.
fn target<'a>(names: &'a HashMap<Arc<str>, Named>, to: &Destination) -> Result<&'a Arc<Log>> {
    if !to.is_queue() && to.is_mandatory() {
        let why = "a log cannot tell whether a subscription takes a message";
        return Err(Error::new(ErrorKind::Unsupported, "publish", why).with("destination", to));
    }
    match names.get(to.name()).filter(|named| named.kind == to.kind()) {
        Some(named) => Ok(&named.log),
        None => {
            name("publish", to.name())?;
            Err(if to.is_queue() {
                error::unroutable(to)
            } else {
                error::no_topic("publish", to.name())
            })
        }
    }
}

/// Refuses to delete a group that is read, or that has something to read.
fn check(log: &Log, what: impl std::fmt::Display, group: &str, with_messages: bool) -> Result<()> {
    match log.kept(group, with_messages) {
        Some(kept) => Err(error::in_use(what, kept)),
        None => Ok(()),
    }
}

/// Deletes a dead-letter home that is empty and unread.
fn delete_home(names: &mut HashMap<Arc<str>, Named>, home: Option<Destination>) -> Result<()> {
    if let Some(home) = home
        && let Ok(log) = find(names, "delete", &home)
        && log.kept(home.name(), false).is_none()
    {
        names.remove(home.name());
    }
    Ok(())
}

fn find(
    names: &HashMap<Arc<str>, Named>,
    operation: &'static str,
    what: &Destination,
) -> Result<Arc<Log>> {
    match names
        .get(what.name())
        .filter(|named| named.kind == what.kind())
    {
        Some(named) => Ok(Arc::clone(&named.log)),
        None if what.is_queue() => Err(error::no_queue(operation, what.name())),
        None => Err(error::no_topic(operation, what.name())),
    }
}

/// The group of a subscription, if it is there, with the filter asked for.
fn group(operation: &'static str, log: &Log, what: &Subscription) -> Result<Option<u64>> {
    match log.find_group(what.name()) {
        Some((_, filter)) if filter != *what.filter_by() => {
            Err(error::other_filter(operation, what))
        }
        found => Ok(found.map(|(id, _)| id)),
    }
}

fn subscription_name(operation: &'static str, what: &Subscription) -> Result<()> {
    match what.kind() {
        SubscriptionKind::Queue { queue } => name(operation, queue),
        SubscriptionKind::Ephemeral { topic } => name(operation, topic),
        SubscriptionKind::Durable { topic, name: own } => {
            name(operation, topic)?;
            name(operation, own)
        }
    }
}

/// The rules of Kafka beside those that hold everywhere.
fn name(operation: &'static str, name: &str) -> Result<()> {
    check_name(operation, name)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.chars().all(allowed) {
        return Ok(());
    }
    let why = "a name in a log has only ASCII letters, digits, `.`, `_` and `-`";
    Err(Error::new(ErrorKind::InvalidName, operation, why).with("name", name.escape_debug()))
}
