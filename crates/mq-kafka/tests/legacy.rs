//! The legacy client on a cluster up to Kafka 3.9, named by `MQ_KAFKA_LEGACY_SERVERS`, beside the
//! default client there; what it says to a newer one, named by `MQ_KAFKA_SERVERS`; and to nobody.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

#[path = "legacy/beside.rs"]
mod beside;
#[path = "legacy/broken.rs"]
mod broken;
#[path = "legacy/cluster.rs"]
mod cluster;
#[path = "legacy/reading.rs"]
mod reading;
#[path = "legacy/refused.rs"]
mod refused;
mod support;

use std::process::ExitCode;

use mq_testkit::{Address, Suite, broker_address};

fn main() -> ExitCode {
    let older = Suite::new(
        "legacy-client",
        "mq-kafka's legacy client",
        cluster::older_cluster(),
    )
    .case(
        "what_a_record_cannot_carry_is_refused_and_nothing_is_sent",
        refused::fields,
    )
    .case("a_plan_that_cannot_be_kept_is_refused", refused::plans)
    .case("a_missing_topic_is_told_and_not_created", refused::missing)
    .case(
        "subscriptions_of_topics_are_refused",
        refused::subscriptions,
    )
    .case("a_second_consumer_is_refused", refused::second_consumer)
    .case(
        "keys_go_to_the_partitions_that_java_gives_them",
        beside::keys,
    )
    .case("receipts_name_the_leader_or_all_in_sync", beside::receipts)
    .case(
        "the_default_client_reads_what_this_one_wrote",
        beside::written,
    )
    .case(
        "this_client_reads_key_and_payload_of_what_the_default_one_wrote",
        beside::read,
    )
    .case(
        "the_two_clients_take_over_from_each_other",
        beside::take_over,
    )
    .case(
        "nothing_before_a_compressed_batch_is_dropped",
        reading::compressed,
    )
    .case("a_codec_that_is_not_known_is_told", reading::unknown_codec)
    .case("a_record_larger_than_a_fetch_comes", reading::large)
    .case("aborted_transactions_are_read", reading::aborted)
    .case("partitions_of_an_open_group_are_refused", reading::members)
    .case("what_is_stored_is_the_next_offset", reading::next_offset)
    .case(
        "an_ack_above_an_open_message_is_stale_at_close",
        reading::above,
    )
    .case("a_requeue_is_counted_and_a_release_is_not", reading::again)
    .case(
        "a_broker_that_falls_silent_ends_every_wait",
        broken::silent_later,
    );
    let newer = Suite::new(
        "legacy-client-on-a-newer-kafka",
        "mq-kafka's legacy client",
        broker_address("MQ_KAFKA_SERVERS"),
    )
    .case("kafka_4_is_refused_with_the_reason", broken::newer);
    let nobody = Suite::new(
        "legacy-client-alone",
        "mq-kafka's legacy client",
        Address::in_process(),
    )
    .case("a_refused_connection_is_told", broken::refused)
    .case(
        "a_listener_that_never_answers_is_told_and_blocks_nobody",
        broken::silent,
    )
    .case(
        "a_broker_that_answers_once_and_never_again_is_told",
        broken::silent_after_versions,
    )
    .case("what_is_no_kafka_is_told", broken::no_kafka);
    mq_testkit::run([older, newer, nobody])
}
