//! What the client below says, in the terms of [`mq_core::Error`].

use kafka::error::KafkaCode;
use mq_core::{Destination, Error, ErrorKind, RetryAdvice};

use super::thread::Failed;

/// The error of a call that sent no message.
pub(super) fn map(operation: &'static str, failed: Failed) -> Error {
    use kafka::Error as K;
    let new = |kind, text| Error::new(kind, operation, text);
    match failed {
        // It says `connect`, which is what failed.
        Failed::Refused(error) => error,
        Failed::Hung => new(ErrorKind::Timeout, "no answer in time").advise(RetryAdvice::Later),
        Failed::TooManyHung => new(
            ErrorKind::Timeout,
            "too many calls before have no answer yet",
        )
        .advise(RetryAdvice::Later)
        .help("each of them ends after 120 s, or when the coordinator of its group is there again"),
        Failed::Panicked => new(ErrorKind::Broker, "the client library panicked"),
        Failed::Client(error) => {
            let told = match &error {
                K::ArcSelf(error) => error,
                error => error,
            };
            let (kind, text) = match told {
                K::Kafka(code)
                | K::TopicPartitionError {
                    error_code: code, ..
                } => answer(*code),
                K::Io(_) | K::UnexpectedEOF | K::NoHostReachable => {
                    (ErrorKind::Connect, "the connection to the broker failed")
                }
                K::UnsupportedCompression => (
                    ErrorKind::Unsupported,
                    "a record is compressed by a codec that this client does not know",
                ),
                _ => (ErrorKind::Broker, "the broker's answer cannot be read"),
            };
            new(kind, text).caused_by(error)
        }
    }
}

/// A broker's refusal where no message was sent.
fn answer(code: KafkaCode) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    use KafkaCode as C;
    match code {
        C::UnknownTopicOrPartition => (K::NotFound, "the topic is not there"),
        C::TopicAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::ClusterAuthorizationFailed => (K::Permission, "the cluster does not allow this"),
        C::OffsetOutOfRange => (
            K::Lost,
            "the next record is no longer in the log, or was never",
        ),
        C::UnknownMemberId | C::IllegalGeneration | C::RebalanceInProgress => (
            K::InUse,
            "another consumer is a member of this group: it has the partitions",
        ),
        C::CorruptMessage => (K::Broker, "a record's checksum is wrong"),
        C::InvalidTopic => (K::InvalidName, "the broker refuses the name"),
        C::UnsupportedVersion => (K::Unsupported, "this broker does not speak the request"),
        C::RequestTimedOut => (K::Timeout, "no answer in time"),
        C::LeaderNotAvailable
        | C::NotLeaderForPartition
        | C::BrokerNotAvailable
        | C::ReplicaNotAvailable
        | C::NetworkException
        | C::GroupLoadInProgress
        | C::GroupCoordinatorNotAvailable
        | C::NotCoordinatorForGroup => (K::Connect, "the cluster is not ready for this"),
        _ => (
            K::Broker,
            "the broker refused, and this client cannot say why",
        ),
    }
}

/// True if trying again may help.
pub(super) fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connect | ErrorKind::Timeout)
}

/// What a broker answered for messages that were sent.
pub(super) enum Answer {
    /// Nothing was stored; try again.
    Again,
    /// Nothing was stored.
    Refused(ErrorKind, &'static str),
    /// It does not prove that nothing was stored.
    Unknown,
}

pub(super) fn produced(code: KafkaCode) -> Answer {
    use ErrorKind as K;
    use KafkaCode as C;
    match code {
        C::UnknownTopicOrPartition | C::LeaderNotAvailable | C::NotLeaderForPartition => {
            Answer::Again
        }
        C::MessageSizeTooLarge | C::RecordListTooLarge => {
            Answer::Refused(K::TooLarge, "it is over the topic's max.message.bytes")
        }
        C::TopicAuthorizationFailed | C::ClusterAuthorizationFailed => {
            Answer::Refused(K::Permission, "the cluster does not allow this")
        }
        // The broker checks these before it appends.
        C::NotEnoughReplicas => Answer::Refused(K::Rejected, "too few replicas are in sync"),
        C::CorruptMessage | C::InvalidMessageSize | C::InvalidTimestamp => {
            Answer::Refused(K::Rejected, "the broker refused the record")
        }
        _ => Answer::Unknown,
    }
}

pub(super) fn unsupported(operation: &'static str, what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, operation, what)
        .help("use `mq_kafka::Kafka`, which needs Kafka 3.9 or later")
}

/// A queue that is not there makes a message unroutable; a topic that is not there is not found.
pub(super) fn no_topic(operation: &'static str, to: &Destination) -> Error {
    let kind = match to.is_queue() {
        true => ErrorKind::Unroutable,
        false => ErrorKind::NotFound,
    };
    Error::new(
        kind,
        operation,
        "the topic is not there; the message is stored nowhere",
    )
    .with("destination", to)
    .help("create it first; this client cannot")
}
