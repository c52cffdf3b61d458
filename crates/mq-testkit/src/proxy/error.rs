//! Why a proxy cannot start, cannot go on, or a script cannot be read.

use std::io;

use crate::history::HistoryError;

/// Why a proxy cannot start, cannot go on, or a script cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// No port to listen on.
    #[error("the proxy cannot listen on 127.0.0.1: {0}")]
    Listen(#[source] io::Error),
    /// An upstream is not `host:port`.
    #[error("{0:?} is no address: write host:port")]
    Address(String),
    /// The server behind the proxy cannot be reached; its client was reset.
    #[error("the proxy cannot reach {upstream}: {source}")]
    Upstream {
        /// The server.
        upstream: String,
        /// What the system said.
        source: io::Error,
    },
    /// A fault's begin or end could not be recorded: the history must not be judged.
    #[error("a fault is missing in the history: {0}")]
    History(#[from] HistoryError),
    /// A script or fault is not written as it is printed.
    #[error("{text:?} is no {what}: write it like {like:?}")]
    Parse {
        /// What was to be read.
        text: String,
        /// What it was read as.
        what: &'static str,
        /// How one looks.
        like: &'static str,
    },
    /// The client speaks TLS, which hides the addresses that brokers advertise.
    #[cfg(feature = "kafka-proxy")]
    #[error(
        "the client speaks TLS, so the addresses in Kafka's answers cannot be rewritten; \
         use a listener without TLS"
    )]
    Tls,
    /// What passes is not Kafka's protocol, or a part of it in which no address can be rewritten.
    #[cfg(feature = "kafka-proxy")]
    #[error("the connection was cut, since an address could have passed: {0}")]
    Kafka(String),
    /// The proxy was closed or dropped.
    #[error("the proxy is closed")]
    Closed,
}
