//! Every code and client error has its kind and advice.

use super::*;

#[test]
fn every_reply_code_has_its_kind_and_advice() {
    use ErrorKind as Kind;
    use RetryAdvice::{Later, Never};
    let cases = [
        (311, "x", Kind::TooLarge, Never),
        (312, "NO_ROUTE", Kind::Unroutable, Never),
        (320, "CONNECTION_FORCED - bye", Kind::Disconnected, Later),
        (402, "x", Kind::NotFound, Never),
        (
            403,
            "ACCESS_REFUSED - Login was refused using PLAIN",
            Kind::Auth,
            Never,
        ),
        (
            403,
            "ACCESS_REFUSED - read access to queue",
            Kind::Permission,
            Never,
        ),
        (
            404,
            "NOT_FOUND - no queue 'q' in vhost '/'",
            Kind::NotFound,
            Never,
        ),
        (
            403,
            "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use",
            Kind::InUse,
            Later,
        ),
        (405, "RESOURCE_LOCKED", Kind::InUse, Later),
        (
            406,
            "PRECONDITION_FAILED - inequivalent arg 'x'",
            Kind::Mismatch,
            Never,
        ),
        (
            406,
            "PRECONDITION_FAILED - unknown delivery tag 7",
            Kind::Broker,
            Never,
        ),
        (
            406,
            "PRECONDITION_FAILED - message size 9 is larger than configured max size 8",
            Kind::TooLarge,
            Never,
        ),
        (501, "FRAME_ERROR", Kind::Bug, Never),
        (
            504,
            "CHANNEL_ERROR - expected 'channel.open'",
            Kind::Disconnected,
            Later,
        ),
        (506, "RESOURCE_ERROR", Kind::Broker, Later),
        (
            530,
            "NOT_ALLOWED - vhost nope not found",
            Kind::NotFound,
            Never,
        ),
        (
            530,
            "NOT_ALLOWED - access to vhost refused",
            Kind::Permission,
            Never,
        ),
        (540, "NOT_IMPLEMENTED", Kind::Unsupported, Never),
        (541, "INTERNAL_ERROR", Kind::Broker, Later),
        (999, "x", Kind::Broker, Never),
    ];
    for (code, text, kind, retry) in cases {
        let error = answer("declare", code, text);
        assert_eq!(
            (error.kind(), error.retry()),
            (kind, retry),
            "{code} {text}"
        );
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn every_client_error_has_its_kind_and_advice() {
    use ErrorKind as Kind;
    use RetryAdvice::{Later, Never};
    let io = || Client::from_io(io::ErrorKind::ConnectionRefused);
    let cut = || Client::from_io(io::ErrorKind::ConnectionReset);
    let cases = [
        (CONNECT, io(), Kind::Connect, Later),
        (CONNECT, cut(), Kind::Connect, Later),
        ("publish", cut(), Kind::Disconnected, Later),
        ("publish", io(), Kind::Disconnected, Later),
        (
            "publish",
            Client::MissingHeartbeatError,
            Kind::Disconnected,
            Later,
        ),
        (
            "publish",
            Client::InvalidChannel(3),
            Kind::Disconnected,
            Later,
        ),
        ("consume", Client::ChannelsLimitReached, Kind::Broker, Never),
        (
            CONNECT,
            Client::AuthProviderError("no".into()),
            Kind::Auth,
            Never,
        ),
        (CONNECT, Client::NoDefaultRuntime, Kind::Config, Never),
        ("publish", Client::FutureCompleted, Kind::Bug, Never),
    ];
    for (operation, client, kind, retry) in cases {
        let error = map(operation, client.into());
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
        assert!(
            std::error::Error::source(&error).is_some(),
            "the cause is kept"
        );
    }
}

#[test]
fn a_mismatch_shows_both_sides() {
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost \
                '/': received 'classic' but current is 'quorum'";
    let error = answer("declare", 406, text);
    assert_eq!(error.context("argument"), Some("x-queue-type"));
    assert_eq!(error.context("asked"), Some("'classic'"));
    assert_eq!(error.context("there"), Some("'quorum'"));
}

#[test]
fn a_queue_of_another_connection_is_named() {
    for (code, text) in [
        (
            403,
            "ACCESS_REFUSED - queue 'it's mine' in vhost '/' in exclusive use",
        ),
        (
            405,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'it's mine' in vhost \
             '/'. It could be originally declared on another connection",
        ),
    ] {
        let error = answer("consume", code, text);
        assert_eq!(error.context("queue"), Some("it's mine"), "{error}");
        assert!(error.to_string().contains("closed"), "{error}");
    }
}

trait FromIo {
    fn from_io(kind: io::ErrorKind) -> Client;
}

impl FromIo for Client {
    fn from_io(kind: io::ErrorKind) -> Client {
        Client::IOError(std::sync::Arc::new(kind.into()))
    }
}
