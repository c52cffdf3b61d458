//! What a handler decides, and the conversions that let it return plain values and errors.

use std::{fmt, time::Duration};

use crate::{
    BoxError, Destination, Error, ErrorKind, Message, Rejection, Result, Settlement, Verdict,
    rejection::chain,
};

/// A handler's decision about a message, and the messages to publish with it.
///
/// It only decides: the worker and the guarantee act on it, in one place.
#[derive(Debug)]
#[must_use = "an outcome has its effect when the handler returns it"]
pub struct Outcome {
    decision: Decision,
    outputs: Vec<(Destination, Message)>,
    attempt: Option<u32>,
}

/// What becomes of the message.
#[derive(Debug)]
#[allow(
    clippy::exhaustive_enums,
    reason = "every layer and guarantee must act on every decision; a new one must not fall through"
)]
pub enum Decision {
    /// It is done.
    Ack,
    /// The attempt failed. A retry layer may try again; else the worker requeues the message until
    /// its attempts are used up, then rejects it.
    Retry(Failure),
    /// Deliver it again after this delay, not earlier.
    Defer(Duration),
    /// Move it to the dead-letter home.
    Reject(Rejection),
}

impl Outcome {
    /// The message is done.
    pub fn ack() -> Self {
        Decision::Ack.into()
    }

    /// The attempt failed.
    pub fn retry(failure: impl Into<Failure>) -> Self {
        Decision::Retry(failure.into()).into()
    }

    /// Deliver the message again after a delay, not earlier.
    pub fn defer(delay: Duration) -> Self {
        Decision::Defer(delay).into()
    }

    /// Move the message to the dead-letter home.
    pub fn reject(why: impl Into<Rejection>) -> Self {
        Decision::Reject(why.into()).into()
    }

    /// Adds a message to publish. It is stored before the received one is settled.
    ///
    /// The outputs of an attempt that failed are not published.
    pub fn publish(mut self, to: &Destination, message: impl Into<Message>) -> Self {
        self.outputs.push((to.clone(), message.into()));
        self
    }

    /// Sets the number of the last attempt, from 1, where a layer made more than one of a delivery.
    ///
    /// A deferred copy tells it, so that the next delivery goes on where this one ended.
    pub fn after_attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// The number of the last attempt, where a layer set it.
    pub fn attempt(&self) -> Option<u32> {
        self.attempt
    }

    /// The decision.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The messages to publish.
    pub fn outputs(&self) -> &[(Destination, Message)] {
        &self.outputs
    }

    /// The decision and the messages to publish; none for a failed attempt.
    pub fn into_parts(self) -> (Decision, Vec<(Destination, Message)>) {
        match self.decision {
            Decision::Retry(_) => (self.decision, Vec::new()),
            decision => (decision, self.outputs),
        }
    }
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            outputs: Vec::new(),
            attempt: None,
        }
    }
}

impl Decision {
    /// Settles a message as decided; a failed attempt is requeued.
    ///
    /// # Errors
    /// As the verb of [`Settlement`] that is called.
    pub fn settle(self, settlement: Settlement) -> Result<()> {
        settlement.finish(self.into_verdict())
    }

    pub(crate) fn into_verdict(self) -> Verdict {
        match self {
            Self::Ack => Verdict::Ack,
            Self::Retry(_) => Verdict::Requeue,
            Self::Defer(delay) => Verdict::Defer(delay),
            Self::Reject(rejection) => Verdict::Reject(Box::new(rejection)),
        }
    }
}

/// Why an attempt failed, and whether another one can help.
///
/// `?` turns any error into an unclassified failure; [`Classify`] says more.
pub struct Failure {
    class: FailureClass,
    error: BoxError,
}

/// Whether another attempt can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// Nobody said: it is retried up to the ceiling.
    Unclassified,
    /// Another attempt may succeed: it is retried up to the ceiling.
    Transient,
    /// No attempt will succeed: it is rejected at once.
    Permanent,
    /// What the handler stands on failed, such as the database of its guarantee: the message is
    /// handed back after a pause, and the attempt is not held against it. Where the error says that
    /// trying again is no use, the worker ends with it.
    Infrastructure,
}

impl Failure {
    /// A failure that another attempt may mend.
    pub fn transient(error: impl Into<BoxError>) -> Self {
        Self {
            class: FailureClass::Transient,
            error: error.into(),
        }
    }

    /// A failure that no attempt will mend.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self {
            class: FailureClass::Permanent,
            error: error.into(),
        }
    }

    /// A failure of what the handler stands on. The attempt is not held against the message, which
    /// is delivered again after a pause for as long as it takes.
    ///
    /// An error whose [advice](crate::Error::retry) is `Never` ends the worker.
    pub fn infrastructure(error: Error) -> Self {
        Self {
            class: FailureClass::Infrastructure,
            error: error.into(),
        }
    }

    /// Whether another attempt can help.
    pub fn class(&self) -> FailureClass {
        self.class
    }

    /// The error.
    pub fn error(&self) -> &BoxError {
        &self.error
    }

    /// The error as the crate's own type, as an infrastructure failure has it.
    pub(crate) fn as_error(&self) -> Error {
        match self.error.downcast_ref::<Error>() {
            Some(error) => error.clone(),
            None => Error::new(ErrorKind::Bug, "handle", self.error.to_string()),
        }
    }

    /// The same failure, of another message. An error that cannot be cloned is its text.
    pub(crate) fn again(&self) -> Self {
        Self {
            class: self.class,
            error: match self.error.downcast_ref::<Error>() {
                Some(error) => error.clone().into(),
                None => chain(&*self.error).into(),
            },
        }
    }
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            class: FailureClass::Unclassified,
            error: error.into(),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({:?}: {})", self.class, self.error)
    }
}

/// Classifies the error of a result on its way out of a handler.
///
/// ```
/// use mq_core::{Classify, Failure};
///
/// fn amount(text: &str) -> Result<u64, Failure> {
///     let amount = text.parse::<u64>().permanent()?; // no retry makes it a number
///     Ok(amount)
/// }
/// # assert!(amount("x").is_err());
/// ```
pub trait Classify<T> {
    /// Another attempt may succeed.
    ///
    /// # Errors
    /// The error of the result, as a transient [`Failure`].
    fn transient(self) -> Result<T, Failure>;

    /// No attempt will succeed.
    ///
    /// # Errors
    /// The error of the result, as a permanent [`Failure`].
    fn permanent(self) -> Result<T, Failure>;
}

impl<T, E: Into<BoxError>> Classify<T> for Result<T, E> {
    fn transient(self) -> Result<T, Failure> {
        self.map_err(Failure::transient)
    }

    fn permanent(self) -> Result<T, Failure> {
        self.map_err(Failure::permanent)
    }
}

/// What a handler may return.
///
/// `()` and [`Outcome`]; with the feature `json` [`Publish<T>`]; and a `Result` of any of them
/// whose error is any error, or a classified [`Failure`].
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "return `()`, `Outcome`, `Publish<T>` or a `Result` of one of them"
)]
pub trait IntoOutcome {
    /// The outcome that this value stands for.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::ack()
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: IntoOutcome, E: Into<Failure>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => Outcome::retry(error),
        }
    }
}

/// Acknowledges the message and publishes a value as JSON.
///
/// A value that cannot be written rejects the message.
#[cfg(feature = "json")]
#[derive(Debug)]
#[must_use = "it is published when the handler returns it"]
pub struct Publish<T> {
    to: Destination,
    value: T,
    key: Option<crate::Key>,
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> Publish<T> {
    /// Publishes `value` to a destination.
    pub fn new(to: &Destination, value: T) -> Self {
        Self {
            to: to.clone(),
            value,
            key: None,
        }
    }

    /// Sets the ordering key.
    pub fn key(mut self, key: impl Into<crate::Key>) -> Self {
        self.key = Some(key.into());
        self
    }
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoOutcome for Publish<T> {
    fn into_outcome(self) -> Outcome {
        match Message::json(&self.value) {
            Ok(message) => {
                let message = match self.key {
                    Some(key) => message.key(key),
                    None => message,
                };
                Outcome::ack().publish(&self.to, message)
            }
            Err(error) => Outcome::retry(Failure::permanent(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_attempt_publishes_nothing() {
        let to = Destination::queue("out");
        let outcome = Outcome::retry("no").publish(&to, Message::new("x"));
        assert!(outcome.into_parts().1.is_empty());
        assert_eq!(
            Outcome::ack()
                .publish(&to, Message::new("x"))
                .into_parts()
                .1
                .len(),
            1
        );
    }

    #[test]
    fn errors_are_unclassified_until_somebody_says_more() {
        let class = |outcome: Outcome| match outcome.into_parts().0 {
            Decision::Retry(failure) => Some(failure.class()),
            _ => None,
        };
        let plain: Result<(), BoxError> = Err("x".into());
        assert_eq!(
            class(plain.into_outcome()),
            Some(FailureClass::Unclassified)
        );
        let bad = "x".parse::<u8>().map(|_| ());
        assert_eq!(
            class(bad.clone().permanent().into_outcome()),
            Some(FailureClass::Permanent)
        );
        assert_eq!(
            class(bad.transient().into_outcome()),
            Some(FailureClass::Transient)
        );
    }
}
