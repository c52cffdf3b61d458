//! What krafka says, in the terms of [`mq_core::Error`]: the one place where the two meet.

mod producer;
mod tls;

use krafka::{KrafkaError, ProtocolErrorKind, error::ErrorCode};
use mq_core::{Error, ErrorKind, RetryAdvice};

use producer::is_fencing;
pub(crate) use producer::{is_forgotten, over as producer_over};

/// When the error came, as far as a message is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No message was involved, or it was not yet handed to the client: nothing was sent.
    Before,
    /// The client had the message: unless the answer is definite, it may be stored.
    Handed,
}

/// Maps an error of krafka. The original is kept as an opaque source.
pub(crate) fn map(operation: &'static str, stage: Stage, error: KrafkaError) -> Error {
    if stage == Stage::Before
        && let Some(why) = tls::cause(&error)
    {
        return tls::handshake(operation, why).caused_by(error);
    }
    let (kind, text) = classify(stage, &error);
    let mapped = Error::new(kind, operation, text);
    let mapped = match help(kind) {
        Some(help) => mapped.help(help),
        None => mapped,
    };
    match advice(&error) {
        Some(advice) => mapped.advise(advice),
        None => mapped,
    }
    .caused_by(error)
}

/// The error of a connection, publisher or consumer that its user closed.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "the connection, publisher or consumer is closed",
    )
}

/// True if waiting and calling again may help: the client goes on by itself meanwhile.
pub(crate) fn is_passing(error: &KrafkaError) -> bool {
    use ErrorCode as C;
    match error {
        // The member has to join again, which the next polls do.
        KrafkaError::Broker { code, .. } => {
            error.is_retriable()
                || matches!(
                    code,
                    C::RebalanceInProgress
                        | C::IllegalGeneration
                        | C::UnknownMemberId
                        | C::StaleMemberEpoch
                        | C::FencedMemberEpoch
                )
        }
        // "No valid generation": the member is between two generations.
        KrafkaError::IllegalState { .. } | KrafkaError::Wakeup => true,
        _ => error.is_retriable(),
    }
}

/// True if another consumer has this one's instance id.
pub(crate) fn is_fenced(error: &KrafkaError) -> bool {
    matches!(
        error,
        KrafkaError::Fenced { .. }
            | KrafkaError::Broker {
                code: ErrorCode::FencedInstanceId | ErrorCode::UnreleasedInstanceId,
                ..
            }
    )
}

/// The error of an output that the broker refused for good, in a transaction. There the client makes every answer an abortable
/// error and names the code in its text alone.
pub(crate) fn refused_in_transaction(error: KrafkaError) -> Option<Error> {
    use ErrorCode as C;
    let KrafkaError::TransactionAbortable { message } = &error else {
        return None;
    };
    let codes = [
        C::MessageTooLarge,
        C::RecordListTooLarge,
        C::InvalidRecord,
        C::InvalidTimestamp,
        C::UnsupportedForMessageFormat,
        C::UnsupportedCompressionType,
    ];
    let named = |code: &C| message.ends_with(&format!("failed with {code:?}"));
    let (kind, text) = broker(true, codes.into_iter().find(named)?);
    Some(Error::new(kind, "publish", text).caused_by(error))
}

/// True if an open transaction may still change the offsets that were asked for.
pub(crate) fn is_unstable(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<KrafkaError>());
    matches!(
        cause,
        Some(KrafkaError::Broker {
            code: ErrorCode::UnstableOffsetCommit,
            ..
        })
    )
}

fn classify(stage: Stage, error: &KrafkaError) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    let handed = stage == Stage::Handed;
    match error {
        KrafkaError::DeliveryTimeout {
            possibly_written,
            message,
        } if was_gone(*possibly_written, message) => {
            (K::NotFound, "the topic is not there any more")
        }
        KrafkaError::DeliveryTimeout {
            possibly_written: false,
            ..
        } => (K::Timeout, "no broker took it in time; it was never sent"),
        KrafkaError::Broker { code, .. } => broker(handed, *code),
        KrafkaError::Protocol { kind, .. } => match kind {
            ProtocolErrorKind::FrameTooLarge => (K::TooLarge, "it is over the client's size limit"),
            ProtocolErrorKind::UnknownApiVersion => (
                K::Unsupported,
                "this broker does not speak a request that is needed",
            ),
            _ if handed => (K::Unknown, "the broker's answer cannot be read"),
            _ => (K::Broker, "the broker's answer cannot be read"),
        },
        // From here on: with a message at the client, all that is known is that no answer came.
        _ if handed => (K::Unknown, "the broker's answer is missing"),
        KrafkaError::DeliveryTimeout { .. } => (K::Unknown, "the broker's answer is missing"),
        KrafkaError::Network(_) => (K::Connect, "no broker can be reached"),
        KrafkaError::Auth { .. } => (K::Auth, "the broker did not accept the credentials"),
        KrafkaError::Timeout { .. } => (K::Timeout, "no answer in time"),
        KrafkaError::Config { .. } | KrafkaError::Compression { .. } => {
            (K::Config, "the client refuses a setting")
        }
        KrafkaError::Closed { .. } => {
            (K::Closed, "the connection, publisher or consumer is closed")
        }
        KrafkaError::Fenced { .. } => (K::Lost, "another client took over this identity"),
        KrafkaError::NoOffset { .. } => (
            K::Lost,
            "the next record is no longer in the log, or was never",
        ),
        KrafkaError::UnknownTopic { .. } => (K::NotFound, "the topic is not there"),
        KrafkaError::IllegalState { .. } | KrafkaError::Wakeup => {
            (K::Lost, "the group membership is gone")
        }
        _ => (K::Broker, "the client failed in a way that is not expected"),
    }
}

/// True if all that a broker said of a record until its deadline is that the topic is not there. The client had it among its
/// topics, and goes on asking; its text alone names the last answer, and how many there were. It takes a topic id that is not known
/// for an answer that proves nothing, which after other answers it is.
fn was_gone(possibly_written: bool, message: &str) -> bool {
    let codes = [
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::UnknownTopicId,
    ];
    let named = |code| message.contains(&format!("last error: broker error: {code:?}"));
    codes.into_iter().any(named) && (!possibly_written || message.contains("after 1 attempt(s)"))
}

fn broker(handed: bool, code: ErrorCode) -> (ErrorKind, &'static str) {
    use ErrorCode as C;
    use ErrorKind as K;
    match code {
        C::UnknownTopicOrPartition | C::UnknownTopicId => (K::NotFound, "the topic is not there"),
        C::TopicAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::ClusterAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed => {
            (K::Permission, "the credentials do not allow this")
        }
        C::SaslAuthenticationFailed | C::UnsupportedSaslMechanism | C::IllegalSaslState => {
            (K::Auth, "the broker did not accept the credentials")
        }
        C::MessageTooLarge | C::RecordListTooLarge => {
            (K::TooLarge, "it is over the topic's max.message.bytes")
        }
        // The broker checks these before it appends, so the message is stored nowhere.
        C::NotEnoughReplicas => (K::Rejected, "too few replicas are in sync"),
        C::InvalidRecord
        | C::InvalidTimestamp
        | C::CorruptMessage
        | C::UnsupportedForMessageFormat
        | C::UnsupportedCompressionType
            if handed =>
        {
            (K::Rejected, "the broker refused the record")
        }
        // Any other answer to a produce request does not prove that nothing was appended.
        _ if handed => (
            K::Unknown,
            "the broker's answer says neither stored nor refused",
        ),
        C::InvalidTopic => (K::InvalidName, "the broker refuses the name"),
        C::InvalidPartitions
        | C::InvalidReplicationFactor
        | C::InvalidReplicaAssignment
        | C::InvalidConfig
        | C::InvalidSessionTimeout
        | C::PolicyViolation => (K::Config, "the broker refuses a setting"),
        C::UnsupportedVersion => (K::Unsupported, "this broker is too old for a request"),
        C::RequestTimedOut => (K::Timeout, "no answer in time"),
        code if is_fencing(code) => (K::Lost, "another client took over this identity"),
        C::FencedInstanceId => (K::Lost, "another consumer took over this instance id"),
        C::UnreleasedInstanceId => (K::InUse, "another consumer has this instance id"),
        C::IllegalGeneration | C::UnknownMemberId | C::FencedMemberEpoch | C::StaleMemberEpoch => {
            (K::Lost, "the group membership is gone")
        }
        _ => (K::Broker, "the broker answered with an error"),
    }
}

fn help(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Connect => {
            Some("check the addresses, the listener and whether it asks for TLS or a login")
        }
        ErrorKind::Auth => Some("check user, password and SASL mechanism"),
        ErrorKind::Permission => Some("grant the operation to this user in the broker's ACLs"),
        ErrorKind::NotFound => Some("declare it first"),
        // The names were checked before, all but this.
        ErrorKind::InvalidName => {
            Some("Kafka refuses names that differ from others only in dot and underscore")
        }
        ErrorKind::InUse => Some(
            "give each consumer of a group an instance_id of its own; that of a killed one is free when its session is over",
        ),
        ErrorKind::TooLarge => Some("send a smaller message or raise max.message.bytes"),
        _ => None,
    }
}

/// Where the kind's own advice would be wrong.
fn advice(error: &KrafkaError) -> Option<RetryAdvice> {
    match error {
        // The client resent it until its deadline; whether to go on is the caller's decision.
        KrafkaError::DeliveryTimeout { .. } => Some(RetryAdvice::GaveUp),
        // Another one has this identity now: the same call would fight with it.
        fenced if is_fenced(fenced) => Some(RetryAdvice::Never),
        KrafkaError::Broker { code, .. } if is_fencing(*code) => Some(RetryAdvice::Never),
        // The record is gone; opening the consumer again meets the same hole.
        KrafkaError::NoOffset { .. } => Some(RetryAdvice::Never),
        // A broker's passing state, such as an election.
        KrafkaError::Broker { code, .. }
            if code.is_retriable()
                && !matches!(
                    code,
                    ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId
                ) =>
        {
            Some(RetryAdvice::Later)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind as K;
    use Stage::{Before, Handed};

    fn broker_error(code: ErrorCode) -> KrafkaError {
        KrafkaError::broker(code, "x")
    }

    /// A record that was given up at its deadline, as the client says it.
    fn timed_out(possibly_written: bool, attempts: u32, last: ErrorCode) -> KrafkaError {
        let last = broker_error(last);
        let text = format!("after {attempts} attempt(s); last error: {last}");
        KrafkaError::delivery_timeout(possibly_written, text)
    }

    #[test]
    fn every_kind_of_driver_error_has_its_place() {
        use RetryAdvice::{GaveUp, Later, Never};
        let network = || KrafkaError::network(std::io::Error::other("refused"));
        let table = [
            (Before, network(), K::Connect, Later),
            (Handed, network(), K::Unknown, Later),
            (Before, KrafkaError::auth("bad password"), K::Auth, Never),
            (Handed, KrafkaError::auth("bad password"), K::Unknown, Later),
            (Before, KrafkaError::timeout("x"), K::Timeout, Later),
            (Handed, KrafkaError::timeout("x"), K::Unknown, Later),
            (
                Handed,
                KrafkaError::delivery_timeout(true, "x"),
                K::Unknown,
                GaveUp,
            ),
            (
                Handed,
                KrafkaError::delivery_timeout(false, "x"),
                K::Timeout,
                GaveUp,
            ),
            (
                Handed,
                timed_out(false, 2, ErrorCode::UnknownTopicOrPartition),
                K::NotFound,
                GaveUp,
            ),
            (
                Handed,
                timed_out(true, 1, ErrorCode::UnknownTopicId),
                K::NotFound,
                GaveUp,
            ),
            (
                Handed,
                timed_out(true, 2, ErrorCode::UnknownTopicId),
                K::Unknown,
                GaveUp,
            ),
            (
                Handed,
                timed_out(true, 1, ErrorCode::RequestTimedOut),
                K::Unknown,
                GaveUp,
            ),
            (Before, KrafkaError::closed("x"), K::Closed, Never),
            (Handed, KrafkaError::closed("x"), K::Unknown, Later),
            (Before, KrafkaError::config("x"), K::Config, Never),
            (Before, KrafkaError::fenced("x"), K::Lost, Never),
            (
                Before,
                KrafkaError::no_offset(vec![("t".into(), 0)]),
                K::Lost,
                Never,
            ),
            (
                Before,
                broker_error(ErrorCode::FencedInstanceId),
                K::Lost,
                Never,
            ),
            (
                Before,
                broker_error(ErrorCode::UnreleasedInstanceId),
                K::InUse,
                Never,
            ),
            (Before, KrafkaError::unknown_topic("t"), K::NotFound, Never),
            (
                Handed,
                KrafkaError::out_of_order_sequence("t", 0, "x"),
                K::Unknown,
                Later,
            ),
            (Before, KrafkaError::illegal_state("x"), K::Lost, Later),
            (
                Before,
                KrafkaError::protocol_kind(ProtocolErrorKind::UnknownApiVersion, "x"),
                K::Unsupported,
                Never,
            ),
            (
                Handed,
                KrafkaError::protocol_kind(ProtocolErrorKind::Malformed, "x"),
                K::Unknown,
                Later,
            ),
            (
                Before,
                broker_error(ErrorCode::UnknownTopicOrPartition),
                K::NotFound,
                Never,
            ),
            (
                Before,
                broker_error(ErrorCode::TopicAuthorizationFailed),
                K::Permission,
                Never,
            ),
            (
                Handed,
                broker_error(ErrorCode::TopicAuthorizationFailed),
                K::Permission,
                Never,
            ),
            (
                Handed,
                broker_error(ErrorCode::MessageTooLarge),
                K::TooLarge,
                Never,
            ),
            (
                Handed,
                broker_error(ErrorCode::NotEnoughReplicas),
                K::Rejected,
                Later,
            ),
            (
                Handed,
                broker_error(ErrorCode::NotEnoughReplicasAfterAppend),
                K::Unknown,
                Later,
            ),
            (
                Handed,
                broker_error(ErrorCode::InvalidRecord),
                K::Rejected,
                Later,
            ),
            (
                Handed,
                broker_error(ErrorCode::UnknownServerError),
                K::Unknown,
                Later,
            ),
            (
                Before,
                broker_error(ErrorCode::InvalidReplicationFactor),
                K::Config,
                Never,
            ),
            (
                Before,
                broker_error(ErrorCode::InvalidTopic),
                K::InvalidName,
                Never,
            ),
            (
                Before,
                broker_error(ErrorCode::IllegalGeneration),
                K::Lost,
                Later,
            ),
            (
                Before,
                broker_error(ErrorCode::CoordinatorNotAvailable),
                K::Broker,
                Later,
            ),
        ];
        for (stage, error, kind, retry) in table {
            let text = format!("{stage:?} {error:?}");
            let mapped = map("publish", stage, error);
            assert_eq!((mapped.kind(), mapped.retry()), (kind, retry), "{text}");
        }
    }

    #[test]
    fn nothing_that_may_be_stored_is_said_to_be_unsent() {
        for code in -1..=133_i16 {
            let error = broker_error(ErrorCode::from_i16(code));
            let mapped = map("publish", Handed, error);
            let definite = matches!(
                mapped.kind(),
                K::Rejected | K::TooLarge | K::Permission | K::Auth | K::NotFound
            );
            assert_eq!(mapped.kind() == K::Unknown, !definite, "code {code}");
        }
    }
}
