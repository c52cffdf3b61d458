//! The one place where an error of the client or the broker becomes an [`Error`].

#[cfg(feature = "tls")]
mod tls;

use std::{borrow::Cow, io, time::Duration};

use lapin::ErrorKind as Client;
use mq_core::{Error, ErrorKind, Result, RetryAdvice};

#[cfg(feature = "tls")]
use crate::config::rustls_error;

/// The operation whose I/O errors mean that there never was a connection.
pub(crate) const CONNECT: &str = "connect";
/// The argument by which the broker names the kind of an exchange.
pub(crate) const TYPE: &str = "type";

/// Maps a client error. Its text holds the broker's words; the client's type stays in the source.
pub(crate) fn map(operation: &'static str, error: lapin::Error) -> Error {
    let connecting = operation == CONNECT;
    let lost = if connecting {
        ErrorKind::Connect
    } else {
        ErrorKind::Disconnected
    };
    let mapped = match error.kind() {
        Client::ProtocolError(amqp) => {
            return answer(operation, amqp.get_id(), amqp.get_message().as_str()).caused_by(error);
        }
        #[cfg(feature = "tls")]
        Client::IOError(cause) if connecting && let Some(error) = rustls_error(cause) => {
            tls::handshake(operation, error)
        }
        // The network or the broker's process: either may be back in a moment.
        Client::IOError(cause) if connecting && hung_up(cause) => {
            let text = format!("the broker hung up: {cause}");
            Error::new(lost, operation, text).help(
                "see the broker's log: it may be starting, be no listener for this (with or without \
                 TLS), or not accept the client certificate",
            )
        }
        Client::IOError(cause) => {
            Error::new(lost, operation, format!("the network failed: {cause}"))
        }
        Client::MissingHeartbeatError => Error::new(
            ErrorKind::Disconnected,
            operation,
            "the broker sent no heartbeat in time",
        ),
        // The channel or connection ended before this call; a new one may do.
        Client::InvalidChannel(_)
        | Client::InvalidChannelState(..)
        | Client::InvalidConnectionState(_) => Error::new(
            ErrorKind::Disconnected,
            operation,
            "the channel or connection is gone",
        ),
        // Only closing channels helps, and this crate opens few.
        Client::ChannelsLimitReached => Error::new(
            ErrorKind::Broker,
            operation,
            "the connection has no channel left",
        )
        .help("open fewer consumers on one connection, or raise `channel_max`"),
        // The same peer answers the same again.
        Client::InvalidProtocolVersion(version) => Error::new(
            ErrorKind::Connect,
            operation,
            format!("the peer speaks AMQP {version}, not 0-9-1"),
        )
        .advise(RetryAdvice::Never),
        Client::AuthProviderError(text) => Error::new(ErrorKind::Auth, operation, text.clone()),
        // The program is on its way out: nothing will run a retry.
        Client::RuntimeShutdownError(_) => Error::new(
            ErrorKind::Closed,
            operation,
            "the Tokio runtime is shutting down",
        ),
        Client::NoDefaultRuntime => Error::new(
            ErrorKind::Config,
            operation,
            "no Tokio runtime is running here",
        ),
        Client::ParsingError(_) if connecting => {
            Error::new(lost, operation, "the peer does not speak AMQP 0-9-1")
                .advise(RetryAdvice::Never)
                .help("check the port: it may be the one for TLS, or another service's")
        }
        // Bytes that one of the two sides must not have written.
        Client::ParsingError(_) | Client::SerialisationError(_) | Client::FutureCompleted => {
            Error::new(
                ErrorKind::Bug,
                operation,
                format!("the wire format failed: {error}"),
            )
        }
        _ => Error::new(ErrorKind::Broker, operation, error.to_string()),
    };
    mapped.caused_by(error)
}

/// True if there was a connection.
fn hung_up(cause: &io::Error) -> bool {
    use io::ErrorKind as Io;
    matches!(
        cause.kind(),
        Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof
    )
}

/// Maps a reply code of the broker (AMQP 0-9-1, section 1.8) with its text.
fn answer(operation: &'static str, code: u16, text: &str) -> Error {
    use ErrorKind as Kind;
    let (kind, advice) = match code {
        311 => (Kind::TooLarge, None),
        312 => (Kind::Unroutable, None),
        // The broker was told to drop its clients, by an operator or its own shutdown.
        320 => (Kind::Disconnected, None),
        402 | 404 => (Kind::NotFound, None),
        403 if text.contains("Login was refused") => (Kind::Auth, None),
        // An exclusive consumer, and below an exclusive queue: free once its connection is gone.
        403 if text.contains("in exclusive use") => (Kind::InUse, None),
        403 => (Kind::Permission, None),
        405 => (Kind::InUse, None),
        406 if text.contains("inequivalent arg") => (Kind::Mismatch, None),
        // The node's `max_message_size` is below ours.
        406 if text.contains(TOO_LARGE) => (Kind::TooLarge, None),
        // Among others a delivery tag the broker does not know and an acknowledgement timeout.
        406 => (Kind::Broker, None),
        // A failing node; the next one, or a restart, may answer.
        506 | 541 => (Kind::Broker, Some(RetryAdvice::Later)),
        // The broker had closed the channel, and the client wrote on it behind its answer to that. The
        // broker ends the connection, which is made anew.
        504 => (Kind::Disconnected, None),
        // The peer calls our frames wrong.
        501..=503 | 505 => (Kind::Bug, None),
        530 if text.contains("not found") => (Kind::NotFound, None),
        // A virtual host that is not up yet on a node that starts.
        530 if text.contains("is down") => (Kind::Broker, Some(RetryAdvice::Later)),
        530 => (Kind::Permission, None),
        540 => (Kind::Unsupported, None),
        _ => (Kind::Broker, None),
    };
    let error = Error::new(
        kind,
        operation,
        format!("the broker answered {code}: {text}"),
    );
    let error = match (kind, sides(text)) {
        (Kind::Mismatch, Some((argument, asked, there))) => error
            .with("argument", argument)
            .with("asked", asked)
            .with("there", there)
            .help(match argument {
                TYPE => "name the kind that is there in `AmqpBuilder::exchange`, or delete it",
                _ => "name what is there in `AmqpBuilder::queue`, change it by a policy, or delete it and \
                      declare it again: settings are fixed",
            }),
        (Kind::InUse, _) => {
            let error = match queue(text) {
                Some(name) => error.with("queue", name),
                None => error,
            };
            error.help(
                "one connection has it for itself: wait until that is closed, or read a queue or \
                 subscription of your own",
            )
        }
        (Kind::TooLarge, _) => match largest(text) {
            Some(limit) => error.with("limit", limit).help("send a claim check"),
            None => error,
        },
        (Kind::Auth, _) => error.help("check user and password"),
        (Kind::Permission, _) => error.help("grant this to the user at the broker"),
        (Kind::NotFound, _) if code == 530 => {
            error.help("create the virtual host; in a URL the default one is `/%2f`, or no path")
        }
        _ => error,
    };
    match advice {
        Some(advice) => error.advise(advice),
        None => error,
    }
}

/// The broker's limit, out of its text about a message that is over it.
fn largest(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(TOO_LARGE)?;
    rest.split_whitespace().last()
}

/// The queue that the broker's text names.
fn queue(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("queue '")?;
    // A name may have quotes, so what follows it is taken for its end.
    rest.split_once("' in vhost").map(|(name, _)| name)
}

/// What was asked for and what is there, out of the broker's text of a mismatch.
fn sides(text: &str) -> Option<(&str, &str, &str)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once('\'')?;
    let (_, rest) = rest.split_once("received ")?;
    let (asked, there) = rest.split_once(" but current is ")?;
    Some((argument, asked, there))
}

/// True if the broker refused to delete an exchange that something is bound to.
pub(crate) fn is_used(error: &Error) -> bool {
    let text = error.to_string();
    text.contains("PRECONDITION_FAILED") && text.contains("' in use")
}

/// Waits for the broker's answer, but no longer than `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    operation: &'static str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(result) => result.map_err(|error| map(operation, error)),
        Err(_) => Err(late(operation, limit)),
    }
}

/// The error of an answer that did not come in time.
pub(crate) fn late(operation: &'static str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        operation,
        "the broker did not answer in time",
    )
    .with("seconds", limit.as_secs_f32())
    .help("see whether the broker is blocked by an alarm, or raise the timeout")
}

/// The error of a name that AMQP cannot carry.
pub(crate) fn invalid_name(
    operation: &'static str,
    wrong: impl Into<Cow<'static, str>>,
    name: &str,
) -> Error {
    let shown: String = name.chars().take(64).collect();
    Error::new(ErrorKind::InvalidName, operation, wrong).with("name", shown.escape_debug())
}

/// Between the two sizes in the broker's text.
const TOO_LARGE: &str = "is larger than configured max size";

#[cfg(test)]
mod tests;
