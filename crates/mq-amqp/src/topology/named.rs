//! What the settings of a connection say about exchanges and queues, by name.

use std::collections::{HashMap, HashSet};

use mq_core::{
    Destination, DestinationKind, Error, ErrorKind, Result, Subscription, SubscriptionKind,
    check_name,
};

use super::{ExchangeKind, QueueSettings, Topology};
use crate::error::CONNECT;

/// What is told about exchanges and queues; the rest has the defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named {
    exchanges: HashMap<String, ExchangeKind>,
    queues: HashMap<String, QueueSettings>,
    transient: HashSet<(DestinationKind, String)>,
    /// Of consumers, by the name of their subscription.
    priorities: HashMap<String, i32>,
}

impl Named {
    pub(crate) fn set_exchange(&mut self, topic: String, kind: ExchangeKind) {
        self.exchanges.insert(topic, kind);
    }

    pub(crate) fn set_queue(&mut self, queue: String, settings: QueueSettings) {
        self.queues.insert(queue, settings);
    }

    pub(crate) fn set_transient(&mut self, to: &Destination) {
        self.transient.insert((to.kind(), to.name().to_string()));
    }

    pub(crate) fn set_topology(&mut self, topology: &Topology) {
        for (name, kind) in topology.exchanges() {
            self.set_exchange(name.to_owned(), kind);
        }
        for (name, settings) in topology.queues() {
            self.set_queue(name.to_owned(), settings.clone());
        }
    }

    pub(crate) fn set_priority(&mut self, subscription: &Subscription, priority: i32) {
        self.priorities
            .insert(subscription.name().to_string(), priority);
    }

    /// The priority that the consumers of this subscription were given.
    pub(super) fn priority(&self, subscription: &Subscription) -> Option<i32> {
        self.priorities.get(&**subscription.name()).copied()
    }

    /// An exchange or a queue to which something else was given than the topology says.
    pub(super) fn against<'t>(&self, topology: &'t Topology) -> Option<(&'static str, &'t str)> {
        let exchange = topology
            .exchanges()
            .find(|(name, kind)| self.exchanges.get(*name).is_some_and(|k| k != kind));
        let queue = topology
            .queues()
            .find(|(name, settings)| self.queues.get(*name).is_some_and(|s| s != *settings));
        let exchange = exchange.map(|(name, _)| ("topic", name));
        exchange.or(queue.map(|(name, _)| ("queue", name)))
    }

    pub(crate) fn exchange(&self, topic: &str) -> ExchangeKind {
        self.exchanges.get(topic).copied().unwrap_or_default()
    }

    pub(crate) fn queue(&self, queue: &str) -> QueueSettings {
        self.queues.get(queue).cloned().unwrap_or_default()
    }

    /// True if what is published there need not be written to disk.
    pub(crate) fn is_transient(&self, to: &Destination) -> bool {
        // Asked for every publish, and mostly there are none.
        !self.transient.is_empty() && self.transient.contains(&(to.kind(), to.name().to_string()))
    }

    /// Refuses settings that contradict each other.
    pub(crate) fn check(&self) -> Result<()> {
        for topic in self.exchanges.keys() {
            check_name(CONNECT, topic)?;
        }
        for (kind, name) in &self.transient {
            check_name(CONNECT, name)?;
            if *kind == DestinationKind::Queue && !self.queues.contains_key(name) {
                self.queue(name).check(CONNECT, name, true)?;
            }
        }
        for (name, settings) in &self.queues {
            let transient = (DestinationKind::Queue, name.clone());
            settings.check(CONNECT, name, self.transient.contains(&transient))?;
        }
        Ok(())
    }

    /// Refuses a durable subscription whose queue would be gone with the connection.
    pub(crate) fn check_subscription(
        &self,
        operation: &'static str,
        subscription: &Subscription,
    ) -> Result<()> {
        let name = subscription.name();
        let durable = matches!(subscription.kind(), SubscriptionKind::Durable { .. });
        if durable && self.queue(name).is_exclusive() {
            return Err(Error::new(
                ErrorKind::Config,
                operation,
                "two settings of a queue exclude each other",
            )
            .with("queue", name)
            .with("setting", "exclusive")
            .with("against", "durable subscription")
            .help("make it quorum or classic, or open an ephemeral subscription"));
        }
        Ok(())
    }
}
