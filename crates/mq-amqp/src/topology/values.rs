//! A topology as a value: exchanges, queues and bindings, to be declared, verified and deleted.

use std::{collections::BTreeMap, fmt};

use mq_core::{Destination, Error, ErrorKind, Filter, Result};

use super::{
    ExchangeKind, Lint, QueueSettings,
    bindings::{End, bindings, show},
    delete, lint, own_name,
    part::Part,
};

/// Exchanges, queues and bindings as a plain value, for what goes beyond queues, topics and their
/// subscriptions.
///
/// It is declared, verified and deleted as a whole: [`Amqp::declare_topology`],
/// [`Amqp::verify_topology`], [`Amqp::delete_topology`]. Each queue has its dead-letter home, as with
/// [`Broker::declare`]: `<queue>.dead`, a queue of default settings unless it is named too.
///
/// A client that consumes has to know its queues:
/// [`AmqpBuilder::topology`](crate::AmqpBuilder::topology) tells it of all at once.
///
/// ```
/// use mq_amqp::{Binding, ExchangeKind, QueueSettings, Topology, core::Filter};
///
/// let topology = Topology::new()
///     .exchange("events", ExchangeKind::Topic)
///     .exchange("eu-events", ExchangeKind::Fanout)
///     .queue("audit", QueueSettings::quorum())
///     .bind(Binding::exchange("eu-events", "events").filter(Filter::pattern("eu.#")))
///     .bind(Binding::queue("audit", "eu-events"));
/// assert_eq!(
///     topology.to_string(),
///     "exchange eu-events (fanout)
/// exchange events (topic)
/// queue audit (quorum)
/// exchange eu-events gets from events: pattern \"eu.#\"
/// queue audit gets from eu-events: all
/// "
/// );
/// ```
///
/// [`Amqp::declare_topology`]: crate::Amqp::declare_topology
/// [`Amqp::verify_topology`]: crate::Amqp::verify_topology
/// [`Amqp::delete_topology`]: crate::Amqp::delete_topology
/// [`Broker::declare`]: mq_core::Broker::declare
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "nothing is declared before it is given to `Amqp::declare_topology`"]
pub struct Topology {
    exchanges: BTreeMap<String, ExchangeKind>,
    queues: BTreeMap<String, QueueSettings>,
    bindings: Vec<Binding>,
}

/// What a queue or an exchange of a [`Topology`] gets from an exchange (AMQP 0-9-1, section 3.1.3,
/// and RabbitMQ's exchange-to-exchange bindings). Default: everything.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a binding does nothing before it is given to `Topology::bind`"]
pub struct Binding {
    to: Target,
    from: String,
    filter: Filter,
}

#[derive(Debug, Clone, PartialEq)]
enum Target {
    Queue(String),
    Exchange(String),
}

impl Topology {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a durable exchange; of two of one name the later holds.
    pub fn exchange(mut self, name: impl Into<String>, kind: ExchangeKind) -> Self {
        self.exchanges.insert(name.into(), kind);
        self
    }

    /// Adds a queue and its dead-letter home; of two of one name the later holds.
    pub fn queue(mut self, name: impl Into<String>, settings: QueueSettings) -> Self {
        self.queues.insert(name.into(), settings);
        self
    }

    /// Adds a binding. What it names has to be in the topology.
    pub fn bind(mut self, binding: Binding) -> Self {
        self.bindings.push(binding);
        self
    }

    /// What of it can lose messages without an error. Empty for what is safe.
    ///
    /// [`Amqp::declare_topology`](crate::Amqp::declare_topology) logs each as a warning.
    pub fn lints(&self) -> Vec<Lint> {
        let bound = |exchange: &str| self.bindings.iter().any(|b| b.from == exchange);
        let unbound = self.exchanges.keys().filter(|name| !bound(name));
        let unbound = unbound.map(|name| Lint::Unbound {
            exchange: name.clone(),
        });
        let queues = self.queues.iter();
        unbound
            .chain(queues.flat_map(|(name, settings)| lint::queue(name, settings)))
            .collect()
    }

    pub(super) fn exchanges(&self) -> impl Iterator<Item = (&str, ExchangeKind)> {
        self.exchanges.iter().map(|(name, kind)| (&**name, *kind))
    }

    pub(super) fn has_queue(&self, name: &str) -> bool {
        self.queues.contains_key(name)
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (&str, &QueueSettings)> {
        self.queues
            .iter()
            .map(|(name, settings)| (&**name, settings))
    }

    /// What has to be there, in the order of creation.
    ///
    /// # Errors
    /// For a name that cannot be, settings that exclude each other, and a binding that cannot be.
    pub(super) fn parts(&self, operation: &'static str) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (name, kind) in self.exchanges() {
            let name = own_name(operation, name)?;
            parts.push(Part::Exchange { name, kind });
        }
        for (name, settings) in self.queues() {
            own_name(operation, name)?;
            settings.check(operation, name, false)?;
            let home = Destination::queue(name).dead_letter_home();
            if let Some(home) = &home
                && !self.queues.contains_key(&**home.name())
            {
                parts.push(queue(
                    operation,
                    home.name(),
                    &QueueSettings::default(),
                    None,
                )?);
            }
            parts.push(queue(operation, name, settings, home)?);
        }
        // A home that is named too has to be there before its queue.
        parts.sort_by_key(|part| match part {
            Part::Exchange { .. } => 0,
            Part::Queue { letters: None, .. } => 1,
            _ => 2,
        });
        for binding in &self.bindings {
            for part in self.bound(operation, binding)? {
                // Several filters by headers share what hangs on their topic.
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        Ok(parts)
    }

    /// Its queues, as they are deleted: a home that is named too is a queue of its own.
    pub(super) fn deletions(&self) -> Vec<delete::Queue<'_>> {
        let names = self.queues.keys();
        names
            .map(|name| delete::Queue {
                name,
                home: Destination::queue(name.as_str()).dead_letter_home(),
            })
            .collect()
    }

    fn bound(&self, operation: &'static str, binding: &Binding) -> Result<Vec<Part>> {
        let unknown = |what: &'static str, name: &str| {
            let text = "a binding names what is not in the topology";
            Error::new(ErrorKind::Config, operation, text)
                .with(what, name)
                .with("binding", binding)
                .help("add it to the topology: it is not created again if it is there")
        };
        let Some(kind) = self.exchanges.get(&binding.from) else {
            return Err(unknown("exchange", &binding.from));
        };
        let to = match &binding.to {
            Target::Queue(name) if !self.queues.contains_key(name) => {
                return Err(unknown("queue", name));
            }
            Target::Exchange(name) if !self.exchanges.contains_key(name) => {
                return Err(unknown("exchange", name));
            }
            Target::Queue(name) => End::Queue(name),
            Target::Exchange(name) => End::Exchange(name),
        };
        bindings(operation, &binding.from, *kind, to, &binding.filter)
    }
}

impl Binding {
    /// A queue gets from an exchange.
    pub fn queue(queue: impl Into<String>, from: impl Into<String>) -> Self {
        Self::of(Target::Queue(queue.into()), from.into())
    }

    /// An exchange gets from another one.
    pub fn exchange(exchange: impl Into<String>, from: impl Into<String>) -> Self {
        Self::of(Target::Exchange(exchange.into()), from.into())
    }

    /// Only what the filter takes, by routing key or headers. A filter that the kind of the exchange
    /// cannot keep is refused when the topology is used; at most two words of a pattern are `#`.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    fn of(to: Target, from: String) -> Self {
        Self {
            to,
            from,
            filter: Filter::All,
        }
    }
}

fn queue(
    operation: &'static str,
    name: &str,
    settings: &QueueSettings,
    home: Option<Destination>,
) -> Result<Part> {
    Ok(Part::Queue {
        name: own_name(operation, name)?,
        settings: settings.clone(),
        letters: settings.letters(home),
    })
}

impl fmt::Display for Topology {
    /// A line for each part, in the order of creation; the homes are not told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, kind) in self.exchanges() {
            writeln!(f, "exchange {name} ({kind})")?;
        }
        for (name, settings) in self.queues() {
            writeln!(f, "queue {name} ({settings})")?;
        }
        for binding in &self.bindings {
            writeln!(f, "{binding}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, name) = match &self.to {
            Target::Queue(name) => ("queue", name),
            Target::Exchange(name) => ("exchange", name),
        };
        let (from, filter) = (&self.from, show(&self.filter, usize::MAX));
        write!(f, "{what} {name} gets from {from}: {filter}")
    }
}

#[cfg(test)]
mod tests;
