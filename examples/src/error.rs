//! The error that a program ends with, and the deadline of what it waits for.

use std::{fmt, future::Future, time::Duration};

use mq_core::{BoxError, rejection::chain};
use tokio::time::timeout;

/// Any error. A `main` that returns it prints it with its causes, in one line.
pub struct Error(BoxError);

/// The result of a `main`, and of what it calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Waits for what has to happen soon.
///
/// # Errors
/// It did not happen within 30 seconds; names it.
pub async fn within<T>(what: &str, happens: impl Future<Output = T>) -> Result<T> {
    timeout(PATIENCE, happens)
        .await
        .map_err(|_| format!("{what}: not within {} s", PATIENCE.as_secs()).into())
}

impl<E: Into<BoxError>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.0))
    }
}

/// A group of consumers on Kafka takes some seconds until each has its partitions.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use mq_core::ErrorKind;

    use super::*;

    #[test]
    fn prints_the_causes_too() {
        let cause = std::io::Error::other("refused");
        let error = mq_core::Error::new(ErrorKind::Connect, "connect", "no answer");
        let error = Error::from(error.caused_by(cause));
        assert_eq!(format!("{error:?}"), "connect: no answer: refused");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_happen_is_an_error_that_names_it() {
        let error = within("the answer", std::future::pending::<()>()).await;
        let error = format!("{:?}", error.expect_err("too late"));
        assert_eq!(error, "the answer: not within 30 s");
    }
}
