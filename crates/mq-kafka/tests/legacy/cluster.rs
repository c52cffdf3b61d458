//! Where the cluster is that the legacy client still speaks to.

use mq_testkit::{Address, broker_address};

/// The address in `MQ_KAFKA_LEGACY_SERVERS`. Beside a newer cluster there need not be an older one: it is
/// skipped then, and that is printed, also where brokers are required.
pub(crate) fn older_cluster() -> Address {
    match broker_address("MQ_KAFKA_LEGACY_SERVERS") {
        Address::Required(why) => Address::Missing(why),
        address => address,
    }
}
