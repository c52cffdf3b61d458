//! All arms, by the name that a report calls them.

pub(crate) mod amqp;
pub(crate) mod kafka;
pub(crate) mod memory;

use crate::arm::Run;

/// An arm and its name.
pub(crate) struct Arm {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
}

macro_rules! arms {
    ($($(#[$feature:meta])? $name:literal => $run:path,)*) => {
        /// Those that this program was built with.
        pub(crate) const ARMS: &[Arm] = &[
            $($(#[$feature])? Arm {
                name: $name,
                run: |order, clock| Box::pin($run(order, clock)),
            },)*
        ];
    };
}

arms! {
    "amqp/lapin, publish and confirm awaited each" => amqp::lapin::publish_each,
    "amqp/lapin, publishes awaited, confirms joined" => amqp::lapin::publish_joined,
    "amqp/lapin at its best, bursts" => amqp::lapin::publish_best,
    "amqp/lapin at its best, polled at once" => amqp::lapin::publish_polled,
    "amqp/lapin, each ack awaited" => amqp::lapin::consume_each,
    "amqp/lapin at its best, consume" => amqp::lapin::consume_best,
    "amqp/ours, publish" => amqp::ours::publish,
    "amqp/ours, batches" => amqp::ours::publish_batches,
    "amqp/ours, consume" => amqp::ours::consume,
    "amqp/ours, worker" => amqp::ours::work,
    "amqp/ours, worker with retries" => amqp::ours::work_retrying,
    #[cfg(feature = "ruststream")]
    "amqp/RustStream, transactions of 1000" => amqp::ruststream::publish_transaction,
    #[cfg(feature = "ruststream")]
    "amqp/RustStream, 1000 polled at once" => amqp::ruststream::publish_polled,
    #[cfg(feature = "ruststream")]
    "amqp/RustStream, stream" => amqp::ruststream::consume_stream,
    #[cfg(feature = "ruststream")]
    "amqp/RustStream, app" => amqp::ruststream::consume_app,
    #[cfg(feature = "mq-bridge")]
    "amqp/mq-bridge, send_batch" => amqp::mq_bridge::publish_batch,
    #[cfg(feature = "mq-bridge")]
    "amqp/mq-bridge, 8 send_batch at once" => amqp::mq_bridge::publish_batches_at_once,
    #[cfg(feature = "mq-bridge")]
    "amqp/mq-bridge, route" => amqp::mq_bridge::consume_route,
    "kafka/krafka at its best, produce" => kafka::krafka::produce,
    "kafka/krafka at its best, produce with ids" => kafka::krafka::produce_with_ids,
    "kafka/krafka at its best, consume" => kafka::krafka::consume,
    "kafka/krafka, copy at least once" => kafka::krafka::copy,
    "kafka/ours, produce" => kafka::ours::produce,
    "kafka/ours, consume" => kafka::ours::consume,
    "kafka/ours, worker" => kafka::ours::work,
    "kafka/ours, worker with retries" => kafka::ours::work_retrying,
    "kafka/ours, worker by key" => kafka::ours::work_by_key,
    "kafka/ours, copy exactly once" => kafka::ours::copy_exactly_once,
    "kafka/ours, copy at least once" => kafka::ours::copy_at_least_once,
    #[cfg(feature = "rdkafka")]
    "kafka/rdkafka at its best, futures" => kafka::rdkafka::produce,
    #[cfg(feature = "rdkafka")]
    "kafka/rdkafka at its best, callbacks" => kafka::rdkafka::produce_counted,
    #[cfg(feature = "rdkafka")]
    "kafka/rdkafka at its best, stream" => kafka::rdkafka::consume,
    #[cfg(feature = "rdkafka")]
    "kafka/rdkafka at its best, polled" => kafka::rdkafka::consume_polled,
    #[cfg(feature = "ruststream")]
    "kafka/RustStream, produce" => kafka::ruststream::produce,
    #[cfg(feature = "ruststream")]
    "kafka/RustStream, app" => kafka::ruststream::consume_app,
    #[cfg(feature = "mq-bridge")]
    "kafka/mq-bridge, send_batch" => kafka::mq_bridge::produce,
    #[cfg(feature = "mq-bridge")]
    "kafka/mq-bridge, route" => kafka::mq_bridge::consume_route,
    "memory/tokio mpsc" => memory::tokio_mpsc::one_by_one,
    "memory/tokio mpsc, recv_many" => memory::tokio_mpsc::many,
    "memory/ours, one by one" => memory::ours::one_by_one,
    "memory/ours, batches of 128" => memory::ours::batches,
    "memory/ours, worker" => memory::ours::work,
    "memory/ours, worker with retries" => memory::ours::work_retrying,
    "memory/ours, worker with batches of 128" => memory::ours::work_batches,
    #[cfg(feature = "ruststream")]
    "memory/RustStream, stream" => memory::ruststream::stream,
    #[cfg(feature = "ruststream")]
    "memory/RustStream, app" => memory::ruststream::app,
    #[cfg(feature = "mq-bridge")]
    "memory/mq-bridge, batches of 128" => memory::mq_bridge::batches,
    #[cfg(feature = "mq-bridge")]
    "memory/mq-bridge, route" => memory::mq_bridge::route,
}

/// The arm of this name.
pub(crate) fn find(name: &str) -> Option<&'static Arm> {
    ARMS.iter().find(|arm| arm.name == name)
}
