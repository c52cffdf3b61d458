//! What a cluster serves of what came with later releases, and what a test expects of one that does not.

use krafka::admin::DescribeFeaturesOptions;
use mq_kafka::{
    GroupProtocol, Kafka, TransactionLevel,
    core::{ErrorKind, RetryAdvice},
};
use mq_testkit::{Address, Check};

use super::{check, same};

/// The `metadata.version` that a cluster has finalized: each release raises it, and all that comes with one has its own
/// besides. So what a test expects is not read where this crate reads it.
#[derive(Debug, Clone, Copy)]
pub struct Release(i16);

impl Release {
    pub async fn of(servers: &str) -> Check<Self> {
        let kafka = krafka::Kafka::builder(servers).connect().await?;
        let asked = DescribeFeaturesOptions::default();
        let features = kafka.admin().describe_features(asked).await?;
        let mut finalized = features.finalized.iter();
        let metadata = finalized.find(|feature| feature.name == "metadata.version");
        Ok(Self(metadata.map_or(0, |found| found.max_version_level)))
    }

    pub fn serves(self, protocol: GroupProtocol) -> bool {
        match protocol {
            GroupProtocol::Consumer => self.0 >= KAFKA_4_0,
            GroupProtocol::Share => self.0 >= KAFKA_4_2,
            _ => true,
        }
    }

    pub fn transactions(self) -> TransactionLevel {
        match self.0 {
            KAFKA_4_2.. => TransactionLevel::V2,
            _ => TransactionLevel::V1,
        }
    }
}

/// A case of groups under a protocol. Where the cluster does not serve it, the case is that it is refused.
pub async fn under<T: Future<Output = Check>>(
    protocol: GroupProtocol,
    servers: String,
    case: impl FnOnce(String, GroupProtocol) -> T,
) -> Check {
    match Release::of(&servers).await?.serves(protocol) {
        true => case(servers, protocol).await,
        false => kip_848_is_refused(servers).await,
    }
}

/// Who asks for KIP-848 is told that this cluster has it not, and what to do.
pub async fn kip_848_is_refused(servers: String) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(GroupProtocol::Consumer);
    let error = builder.connect().await.expect_err("an older cluster");
    same(error.kind(), ErrorKind::Unsupported, "kind")?;
    same(error.retry(), RetryAdvice::Never, "advice")?;
    same(error.context("group.version"), Some("0"), "group.version")?;
    let text = error.to_string();
    check(
        text.contains("KIP-848") && text.contains("; take GroupProtocol::Classic, or raise"),
        text,
    )
}

/// The same of share groups.
pub async fn share_groups_are_refused(servers: String) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(GroupProtocol::Share);
    let error = builder.connect().await.expect_err("an older cluster");
    same(error.kind(), ErrorKind::Unsupported, "kind")?;
    same(error.retry(), RetryAdvice::Never, "advice")?;
    let text = error.to_string();
    check(text.contains("Kafka 4.2 or later"), text)
}

/// For a program that has to know before it plans its cases. A cluster that does not answer is for them to find.
pub fn is_served(address: &Address, protocol: GroupProtocol) -> bool {
    let Address::Here(servers) = address else {
        return true;
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let release = runtime.block_on(Release::of(servers));
    release.map_or(true, |release| release.serves(protocol))
}

/// 4.0-IV0, with which `group.version` 1 came.
const KAFKA_4_0: i16 = 22;
/// 4.2-IV1, with which end markers carry the version of the transaction.
const KAFKA_4_2: i16 = 29;
