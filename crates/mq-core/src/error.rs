//! The one error type of all crates: what failed, on what, why, and what to do about it.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

/// A boxed error of any type, as tower's own layers yield it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what is known about it.
///
/// Ask it questions ([`kind`](Error::kind), [`is_retryable`](Error::is_retryable),
/// [`possibly_delivered`](Error::possibly_delivered)) instead of matching on its text. It is cheap
/// to clone, so that one lost connection can end many operations with the same cause. No broker
/// client's type appears in it except as an opaque [`source`](StdError::source).
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: RetryAdvice,
    operation: &'static str,
    message: Cow<'static, str>,
    help: Option<Cow<'static, str>>,
    context: Vec<(&'static str, String)>,
    parts: Vec<Error>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The class of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is wrong; nothing was sent.
    Config,
    /// A queue, topic, subscription or header name is not allowed; nothing was sent.
    InvalidName,
    /// A message cannot be put on this broker's wire as it is; nothing was sent.
    InvalidMessage,
    /// A message is over the size limit; nothing was sent.
    TooLarge,
    /// A value could not be encoded or a payload not decoded.
    Codec,
    /// This broker cannot do what was asked; nothing was done.
    Unsupported,
    /// The broker could not be reached.
    Connect,
    /// The broker did not accept the credentials.
    Auth,
    /// The credentials do not allow this operation or this virtual host.
    Permission,
    /// A queue, topic, exchange or group that has to be there is not.
    NotFound,
    /// Something is there, but with other settings than asked for.
    Mismatch,
    /// It is there, but in use: another connection has it for itself, or, for a deletion, it has
    /// consumers or subscriptions, or holds messages.
    InUse,
    /// At least one target refused the message. On a topic other subscriptions may have it.
    Rejected,
    /// No queue took the message. It is stored nowhere.
    Unroutable,
    /// The message may be stored: the answer is missing.
    Unknown,
    /// An answer did not come within its deadline.
    Timeout,
    /// The connection was lost.
    Disconnected,
    /// The consumer lost what it consumed: cancelled by the broker, or its assignment is gone.
    Lost,
    /// The connection, publisher or consumer was closed by its user.
    Closed,
    /// The settlement came too late: its channel or assignment is gone. The broker delivers again.
    Stale,
    /// The broker answered with an error that fits no other kind.
    Broker,
    /// Client and broker disagree on a fact that cannot be so. Please report it.
    Bug,
}

/// Whether trying the same operation again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryAdvice {
    /// The same call fails again until somebody changes something.
    Never,
    /// The same call may succeed later.
    Later,
    /// Retries were made on the way and used up; the caller decides.
    GaveUp,
}

impl Error {
    /// An error of a kind, the operation that failed, and what was wrong, in plain words.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            retry: kind.advice(),
            operation,
            message: message.into(),
            help: None,
            context: Vec::new(),
            parts: Vec::new(),
            source: None,
        }))
    }

    /// What `verify` found, as one error: `Ok` if nothing is missing or different, the only
    /// difference as it is, and of several one error with all of them as its [`parts`](Self::parts).
    ///
    /// Its kind is [`Mismatch`](ErrorKind::Mismatch) if one of them is, else
    /// [`NotFound`](ErrorKind::NotFound).
    ///
    /// # Errors
    /// If there was one.
    pub fn differences(operation: &'static str, mut found: Vec<Self>) -> Result<()> {
        if found.len() < 2 {
            return found.pop().map_or(Ok(()), Err);
        }
        let differs = found.iter().any(|e| e.kind() == ErrorKind::Mismatch);
        let kind = if differs {
            ErrorKind::Mismatch
        } else {
            ErrorKind::NotFound
        };
        let text = format!("{} parts are missing or different", found.len());
        let mut all = Self::new(kind, operation, text);
        all.inner().parts = found;
        Err(all)
    }

    /// Adds a name and value that say which thing was meant, such as `queue` and `orders`.
    ///
    /// Never a secret: the pair is printed.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.inner().context.push((name, value.to_string()));
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.inner().help = Some(help.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.inner().source = Some(Arc::from(source.into()));
        self
    }

    /// Replaces the advice that the kind alone would give.
    #[must_use]
    pub fn advise(mut self, retry: RetryAdvice) -> Self {
        self.inner().retry = retry;
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying the same operation again can help.
    pub fn retry(&self) -> RetryAdvice {
        self.0.retry
    }

    /// The operation that failed, such as `publish`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The value given for a context name, such as `queue`; of an error with
    /// [`parts`](Self::parts) that of the first part that has one.
    pub fn context(&self, name: &str) -> Option<&str> {
        match self.0.context.iter().find(|(n, _)| *n == name) {
            Some((_, value)) => Some(value),
            None => self.0.parts.iter().find_map(|part| part.context(name)),
        }
    }

    /// The errors that this one puts together, such as each difference that `verify` found; empty
    /// for an error about one thing.
    pub fn parts(&self) -> &[Self] {
        &self.0.parts
    }

    /// True if the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retry == RetryAdvice::Later
    }

    /// For a publish: true if a subscription may have the message in spite of this error.
    ///
    /// True for *unknown* outcomes, and for *rejected* ones, since another target of a topic may
    /// have taken it. False means that it is stored nowhere.
    pub fn possibly_delivered(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unknown | ErrorKind::Rejected)
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

impl ErrorKind {
    fn advice(self) -> RetryAdvice {
        match self {
            // Somebody else, or time, can change the answer.
            Self::Connect
            | Self::Rejected
            | Self::Unknown
            | Self::Timeout
            | Self::Disconnected
            | Self::Lost
            | Self::InUse => RetryAdvice::Later,
            // The same bytes, names, settings or rights give the same answer.
            _ => RetryAdvice::Never,
        }
    }
}

impl Error {
    /// All but the operation.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(&inner.message)?;
        let mut separator = " (";
        for (name, value) in &inner.context {
            write!(f, "{separator}{name}={value}")?;
            separator = ", ";
        }
        if !inner.context.is_empty() {
            f.write_str(")")?;
        }
        for (number, part) in (1..).zip(&inner.parts) {
            write!(f, " [{number}] ")?;
            part.describe(f)?;
        }
        match &inner.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.0.operation)?;
        self.describe(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("retry", &self.0.retry)
            .field("text", &self.to_string())
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_what_to_do() {
        let error = Error::new(ErrorKind::NotFound, "consume", "the queue does not exist")
            .with("queue", "orders")
            .help("declare it first");
        assert_eq!(
            error.to_string(),
            "consume: the queue does not exist (queue=orders); declare it first"
        );
        assert_eq!(error.context("queue"), Some("orders"));
        assert!(!error.is_retryable());
    }

    #[test]
    fn several_differences_are_one_error_that_names_each() {
        let missing = |name| Error::new(ErrorKind::NotFound, "verify", "gone").with("queue", name);
        let other = Error::new(ErrorKind::Mismatch, "verify", "other").with("topic", "t");
        assert!(Error::differences("verify", Vec::new()).is_ok());
        let one = Error::differences("verify", vec![missing("a")]).expect_err("one");
        assert_eq!(one.to_string(), "verify: gone (queue=a)");
        assert!(one.parts().is_empty());
        let both = Error::differences("verify", vec![missing("a"), missing("b")]);
        assert_eq!(both.expect_err("two").kind(), ErrorKind::NotFound);
        let all = vec![missing("a"), other.help("mend it")];
        let all = Error::differences("verify", all).expect_err("two");
        assert_eq!(all.kind(), ErrorKind::Mismatch);
        assert_eq!(
            all.to_string(),
            "verify: 2 parts are missing or different [1] gone (queue=a) [2] other (topic=t); mend it"
        );
        assert_eq!(all.context("topic"), Some("t"));
        assert_eq!(all.parts().len(), 2);
    }

    #[test]
    fn a_cause_is_in_the_chain_and_not_in_the_text() {
        let error = Error::new(ErrorKind::Connect, "connect", "no answer")
            .caused_by(std::io::Error::other("refused"));
        assert!(!error.to_string().contains("refused"));
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("refused")
        );
    }

    #[test]
    fn only_unknown_and_rejected_may_have_been_delivered() {
        let kind = |k| Error::new(k, "publish", "x").possibly_delivered();
        assert!(kind(ErrorKind::Unknown) && kind(ErrorKind::Rejected));
        assert!(!kind(ErrorKind::Unroutable) && !kind(ErrorKind::TooLarge));
    }
}
