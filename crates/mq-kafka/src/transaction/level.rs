//! What the cluster's transaction protocol can do.

use std::fmt;

use krafka::{admin::DescribeFeaturesOptions, producer::TransactionalProducer};
use mq_core::Result;

use crate::{
    connection::Inner,
    error::{self, Stage},
};

/// Which of Kafka's transaction protocols a session uses; from [`ExactlyOnce::level`](crate::ExactlyOnce::level).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionLevel {
    /// "EOS v1": the end of a transaction that arrives late can hit the next one (KAFKA-17754, found by Jepsen in 2024).
    ///
    /// After an end that was not answered the client takes a new epoch before it writes again, which leaves the cases in
    /// which a request is delayed on its way between brokers. A cluster is here with `transaction.version` below 2, with one broker
    /// that does not serve it, or with brokers before 4.2, whose end markers do not carry the version (KIP-1228).
    V1,
    /// `transaction.version` 2 on brokers from 4.2 on (KIP-890, KIP-1228): each transaction has an epoch of its own, and an
    /// end that arrives late is refused.
    V2,
}

impl TransactionLevel {
    /// What the cluster has now, and the producer uses.
    pub(super) async fn of(inner: &Inner, producer: &TransactionalProducer) -> Result<Self> {
        let features = inner
            .admin
            .describe_features(DescribeFeaturesOptions::default())
            .await
            .map_err(|e| error::map("consume", Stage::Before, e))?;
        let mut finalized = features.finalized.iter();
        let metadata = finalized.find(|feature| feature.name == "metadata.version");
        let release = metadata.map_or(0, |feature| feature.max_version_level);
        Ok(
            match producer.transaction_version().is_v2() && release >= KAFKA_4_2 {
                true => Self::V2,
                false => Self::V1,
            },
        )
    }
}

impl fmt::Display for TransactionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "EOS v1, anomaly KAFKA-17754 possible",
            Self::V2 => "transaction.version 2",
        })
    }
}

/// The `metadata.version` of release 4.2. Once it is finalized no older broker can be in the cluster.
const KAFKA_4_2: i16 = 29;
