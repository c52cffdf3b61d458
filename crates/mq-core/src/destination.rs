//! Where a message is published.

use std::{fmt, sync::Arc};

use crate::{Error, ErrorKind, Result};

/// Where a message is published: a queue, or a topic with an optional routing key.
///
/// Cheap to clone. A name is checked when it is used, by the broker that uses it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    kind: DestinationKind,
    name: Arc<str>,
    routing_key: Option<Arc<str>>,
    mandatory: bool,
}

/// The two kinds of [`Destination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a third kind would break the meaning of every backend, so it must not compile"
)]
pub enum DestinationKind {
    /// Each message goes to one consumer (EIP *Point-to-Point Channel*).
    Queue,
    /// Each message goes to every subscription (EIP *Publish-Subscribe Channel*).
    Topic,
}

impl Destination {
    /// A queue: each message goes to one of its consumers.
    ///
    /// A publish to a queue that is not there is *unroutable*, never confirmed.
    pub fn queue(name: impl Into<Arc<str>>) -> Self {
        Self {
            kind: DestinationKind::Queue,
            name: name.into(),
            routing_key: None,
            mandatory: true,
        }
    }

    /// A topic: each message goes to every subscription whose filter takes it.
    pub fn topic(name: impl Into<Arc<str>>) -> Self {
        Self {
            kind: DestinationKind::Topic,
            name: name.into(),
            routing_key: None,
            mandatory: false,
        }
    }

    /// Sets the routing key, which filters match: words separated by dots.
    ///
    /// A queue ignores it.
    #[must_use]
    pub fn routing_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.routing_key = Some(key.into());
        self
    }

    /// For a topic: a publish that no subscription takes is *unroutable* instead of confirmed.
    ///
    /// An event without listeners is normal, so this is off for topics. A queue always asks it.
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// Queue or topic.
    pub fn kind(&self) -> DestinationKind {
        self.kind
    }

    /// The name of the queue or topic.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The routing key of a topic publish.
    pub fn key(&self) -> Option<&str> {
        self.routing_key.as_deref()
    }

    /// True if a publish that nothing takes must be reported as *unroutable*.
    pub fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// True for a queue.
    pub fn is_queue(&self) -> bool {
        self.kind == DestinationKind::Queue
    }

    /// The queue that takes the dead letters of this queue: its name with `.dead` behind it.
    ///
    /// `None` for a topic, whose subscriptions have homes of their own, and for a queue that is
    /// itself such a home.
    pub fn dead_letter_home(&self) -> Option<Self> {
        (self.is_queue() && !self.name.ends_with(DEAD))
            .then(|| Self::queue(format!("{}{DEAD}", self.name)))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, &self.routing_key) {
            (DestinationKind::Queue, _) => write!(f, "queue {}", self.name),
            (DestinationKind::Topic, None) => write!(f, "topic {}", self.name),
            (DestinationKind::Topic, Some(key)) => write!(f, "topic {} key {key}", self.name),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Checks a name against the rules that hold on every broker.
///
/// A backend adds its own, such as Kafka's alphabet or RabbitMQ's reserved `amq.` names.
///
/// # Errors
/// [`InvalidName`](ErrorKind::InvalidName) if the name is empty, longer than 240 bytes (which
/// leaves room for what is put behind it), `.` or `..`, or has control characters.
pub fn check_name(operation: &'static str, name: &str) -> Result<()> {
    let wrong = if name.is_empty() {
        "a name has at least one character"
    } else if name.len() > MAX_NAME {
        "a name has at most 240 bytes"
    } else if name == "." || name == ".." {
        "a name is not a path"
    } else if name.contains(char::is_control) {
        "a name has no control characters"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(64).collect();
    Err(Error::new(ErrorKind::InvalidName, operation, wrong).with("name", shown.escape_debug()))
}

const MAX_NAME: usize = 240;
const DEAD: &str = ".dead";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_no_home() {
        let home = Destination::queue("orders")
            .dead_letter_home()
            .expect("a home");
        assert_eq!(&**home.name(), "orders.dead");
        assert_eq!(home.dead_letter_home(), None);
        assert_eq!(Destination::topic("events").dead_letter_home(), None);
    }

    #[test]
    fn names_the_rule_that_a_name_breaks() {
        for bad in ["", "..", "a\u{0}b", &"x".repeat(241)] {
            assert_eq!(
                check_name("declare", bad).expect_err("bad").kind(),
                ErrorKind::InvalidName
            );
        }
        assert!(check_name("declare", "zahlungen-ä.b_c").is_ok());
    }
}
