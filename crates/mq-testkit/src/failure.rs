//! Why a case failed, and where.

use std::{any::Any, error::Error as StdError, fmt, panic::Location};

use mq_core::Capability;

/// What a case yields: nothing, or why it failed.
pub type Check<T = ()> = Result<T, Failure>;

/// Why a case failed, with the line of the case where that was seen.
///
/// Every error becomes one by `?`. It is no [`std::error::Error`] itself, which is what allows that.
pub struct Failure {
    text: String,
    at: &'static Location<'static>,
    /// The case is about a capability that the broker does not declare.
    not_declared: Option<String>,
}

impl Failure {
    /// A failure at the caller's line.
    #[track_caller]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            at: Location::caller(),
            not_declared: None,
        }
    }

    /// Ends a case of [`Suite::case`](crate::Suite::case) that is about a capability which the
    /// broker does not declare: it is ignored, and counted as *not declared*.
    #[track_caller]
    pub fn not_declared(capability: Capability) -> Self {
        Self {
            not_declared: Some(capability.to_string()),
            ..Self::new(format!("not declared: {capability}"))
        }
    }

    /// The capability that the broker does not declare, if that is why the case ended.
    pub(crate) fn lacking(&self) -> Option<&str> {
        self.not_declared.as_deref()
    }

    /// Puts what was being done in front.
    #[must_use]
    pub(crate) fn while_doing(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

/// The same outcome; a failure is told at the caller's line instead of the helper's.
#[track_caller]
pub(crate) fn located<T>(
    outcome: impl Future<Output = Check<T>> + Send,
) -> impl Future<Output = Check<T>> + Send {
    let at = Location::caller();
    async move {
        outcome.await.map_err(|mut failure| {
            failure.at = at;
            failure
        })
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        if let Some(ours) = (&error as &dyn Any).downcast_ref::<mq_core::Error>() {
            text.push_str(&format!(" [{:?}]", ours.kind()));
        }
        Self::new(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (at {}:{})",
            self.text,
            self.at.file(),
            self.at.line()
        )
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ends the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($text)+)));
        }
    };
}

/// Ends the case unless both are equal; says what was compared.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($text:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if *found != *expected {
                    let what = format!($($text)+);
                    return Err($crate::Failure::new(format!(
                        "{what}: found {found:?}, expected {expected:?}"
                    )));
                }
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};

#[cfg(test)]
mod tests {
    use mq_core::{Error, ErrorKind};

    use super::*;

    #[test]
    fn tells_kind_cause_and_line() {
        fn fails() -> Check {
            let cause = std::io::Error::other("refused");
            Err(Error::new(ErrorKind::Connect, "connect", "no answer").caused_by(cause))?;
            Ok(())
        }
        let text = fails().expect_err("fails").to_string();
        assert!(
            text.starts_with("connect: no answer: refused [Connect] (at "),
            "{text}"
        );
        assert!(text.contains("failure.rs:"), "{text}");
    }

    #[test]
    fn an_unequal_pair_is_shown() {
        fn compares() -> Check {
            ensure_eq!(1 + 1, 3, "the sum of {}", "ones");
            Ok(())
        }
        let text = compares().expect_err("fails").to_string();
        assert!(
            text.starts_with("the sum of ones: found 2, expected 3"),
            "{text}"
        );
    }
}
