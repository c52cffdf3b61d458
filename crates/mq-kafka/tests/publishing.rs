//! Publishing: partitions, receipts, limits. On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use mq_kafka::{
    Kafka,
    core::{Broker, Destination, ErrorKind, Message, Position, Publisher, Stored},
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, check, open, queue, quiet, same, take, text, unique, within};

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-publishing", "mq-kafka", address)
        .case(
            "keys_go_to_the_partitions_that_java_gives_them",
            keys_meet_java,
        )
        .case(
            "keys_of_high_bytes_go_to_the_partitions_that_java_gives_them",
            high_bytes_meet_java,
        )
        .case(
            "without_a_key_a_batch_stays_together_and_many_spread_over_all_partitions",
            keyless,
        )
        .case(
            "a_named_partition_takes_every_message_in_order",
            named_partition,
        )
        .case(
            "a_partition_that_is_not_there_is_refused_and_nothing_is_sent",
            no_such_partition,
        )
        .case("a_partition_that_was_added_later_is_found", added_partition)
        .case(
            "a_named_partition_refuses_what_any_publisher_refuses",
            named_partition_refusals,
        )
        .case(
            "a_receipt_names_replicas_in_sync",
            a_receipt_names_replicas_in_sync,
        )
        .case(
            "a_message_of_the_limit_is_sent_and_one_byte_more_is_not",
            size_limit,
        )
        .case(
            "a_queue_that_is_deleted_under_its_publisher_is_unroutable_by_the_deadline",
            deleted_under_way,
        )
        .case("closing_the_connection_loses_nothing", close_loses_nothing)
        .run()
}

async fn keys_meet_java(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "murmur2").await?;
    // Kafka's own vectors: `UtilsTest.testMurmur2` of the Java client.
    let vectors: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        ("abc", 479_470_107),
    ];
    for (key, murmur2) in vectors {
        let receipt = kafka
            .publisher()
            .publish(&queue, Message::new("x").key(key))
            .await?;
        let expected = (murmur2.cast_unsigned() & 0x7fff_ffff) % 8;
        let found = receipt.position().map(|p| p.partition);
        same(found, Some(expected), key)?;
    }
    Ok(kafka.close().await?)
}

/// A hash that takes bytes for signed puts these elsewhere, and every key of ASCII in its place.
async fn high_bytes_meet_java(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(32).connect().await?;
    let queue = Destination::queue(unique("high-bytes"));
    kafka.declare(&queue).await?;
    let key = |length: u32| -> Vec<u8> {
        let bytes = (0..length).map(|at| 0x80 + (37 * at + 11 * length) % 128);
        bytes.map(|byte| byte as u8).collect()
    };
    let messages = (0..65).map(|length| Message::new("x").key(key(length)).build());
    let publisher = kafka.publisher();
    let batch = publisher.publish_batch(&queue, messages.collect());
    let mut found = Vec::new();
    for receipt in batch.await {
        found.push(receipt?.position().map(|at| at.partition));
    }
    let partition = |murmur2: i32| Some((murmur2.cast_unsigned() & 0x7fff_ffff) % 32);
    let expected = OF_HIGH_BYTES.into_iter().map(partition);
    same(found, expected.collect(), "partitions by length")
}

/// `Utils.murmur2` of the Java client 4.3.1 (3.9.2 gives the same), of keys of 0 to 64 bytes, all of them above 127.
#[rustfmt::skip] // a table
const OF_HIGH_BYTES: [i32; 65] = [
    275_646_681, 1_724_415_367, -457_497_440, -172_505_587, 2_105_862_128, 1_039_109_178, 2_126_420_252,
    101_969_639, 862_214_062, 1_477_586_710, -381_442_082, -1_467_983_328, -1_436_368_208, 394_306_738,
    738_835_387, -545_574_716, -2_057_046_659, 1_588_049_239, -1_023_973_198, 1_157_282_661, -1_552_919_190,
    291_390_097, -542_698_696, 64_225_673, 543_135_077, 541_237_978, 621_888_563, 219_578_833,
    393_472_840, 769_292_522, 1_676_853_317, 1_158_588_229, -448_897_919, 1_544_182_188, -2_070_822_038,
    -137_465_330, -306_825_264, 1_123_693_965, 1_865_371_311, -269_508_987, 1_058_443_388, -1_439_085_061,
    813_735_195, -793_512_695, -271_146_153, -1_113_014_314, -653_560_219, 1_223_925_126, 1_717_625_035,
    348_051_444, 1_741_304_212, -62_778_065, -175_837_331, 513_380_686, 123_028_883, -1_329_219_541,
    1_284_471_435, 355_885_200, 310_061_423, 780_955_250, -24_183_058, -1_820_716_830, 502_910_325,
    -321_544_287, -1_295_816_977,
];

/// What has no key goes where the one before it went, until that is a batch; then another partition is drawn (KIP-794).
async fn keyless(servers: String) -> Check {
    let (kafka, one) = queue(&servers, "keyless.one").await?;
    let placed = async |kafka: &Kafka, queue: &Destination, count: u32| {
        let payload = |n: u32| format!("{n:0100}");
        let messages = (0..count).map(|n| Message::new(payload(n)).build());
        let publisher = kafka.publisher();
        let batch = publisher.publish_batch(queue, messages.collect());
        let mut places = Vec::new();
        for receipt in batch.await {
            places.push(receipt?.position().expect("a position"));
        }
        Check::Ok(places)
    };
    let places = placed(&kafka, &one, 200).await?;
    let partition = places[0].partition;
    let together = (0..200).map(|offset| Position { partition, offset });
    same(places, together.collect(), "a batch")?;

    // About four messages a batch, so that a partition is drawn 2,000 times: half of its share is many deviations away.
    let kafka = Kafka::builder(&servers).batch_bytes(1000).connect().await?;
    let many = Destination::queue(unique("keyless.many"));
    kafka.declare(&many).await?;
    let places = placed(&kafka, &many, 8000).await?;
    let bare = Bare::connect(&servers).await?;
    let shares = bare.ends(many.name(), 8).await?;
    check(
        shares.iter().all(|share| (500..2000).contains(share)),
        format!("shares of 8,000: {shares:?}"),
    )?;
    let neighbours = places.windows(2);
    let moves = neighbours.filter(|two| two[0].partition != two[1].partition);
    let moves = moves.count();
    check(
        moves < 8000 / 3,
        format!("{moves} of 8,000 went elsewhere than the one before"),
    )
}

async fn named_partition(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "named").await?;
    let fifth = kafka.publisher().partition(5);
    let mut handles = Vec::new();
    for n in 0..2000_u32 {
        let message = Message::new(n.to_string());
        // Keys of every partition, and none.
        let message = match n % 3 {
            0 => message,
            _ => message.key((n % 50).to_string()),
        };
        handles.push(fifth.enqueue(&queue, message).await?);
    }
    for (handle, offset) in handles.into_iter().zip(0..) {
        let expected = Position {
            partition: 5,
            offset,
        };
        same(handle.await?.position(), Some(expected), "position")?;
    }
    // The publisher that it came from goes on by key.
    let by_key = kafka
        .publisher()
        .publish(&queue, Message::new("x").key("21"))
        .await?;
    same(by_key.position().map(|p| p.partition), Some(4), "by key")?;
    let mut consumer = open(&kafka, &queue).await?;
    let found = take(&mut consumer, 2001).await?;
    let found: Vec<_> = found
        .iter()
        .filter(|d| d.position().is_some_and(|p| p.partition == 5))
        .collect();
    let texts: Vec<String> = found.iter().map(|d| text(d)).collect();
    let expected: Vec<String> = (0..2000_u32).map(|n| n.to_string()).collect();
    same(texts, expected, "what is read, in order")?;
    let key = found[1].message().key().map(|k| k.as_bytes().to_vec());
    same(key, Some(b"1".to_vec()), "the key of message 1")
}

async fn no_such_partition(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "no-such").await?;
    for wrong in [8, 1000, u32::MAX] {
        let publisher = kafka.publisher().partition(wrong);
        let error = publisher
            .enqueue(&queue, Message::new("x"))
            .await
            .expect_err("8 partitions");
        same(error.kind(), ErrorKind::Config, "kind")?;
        same(error.possibly_delivered(), false, "possibly delivered")?;
        same(error.is_retryable(), false, "retryable")?;
        same(
            error.context("partition"),
            Some(&*wrong.to_string()),
            "partition",
        )?;
        same(error.context("partitions"), Some("8"), "partitions")?;
        check(
            error.to_string().contains(&**queue.name()),
            error.to_string(),
        )?;
    }
    // It harms no other, and nothing was sent.
    kafka
        .publisher()
        .partition(7)
        .publish(&queue, Message::new("x"))
        .await?;
    let bare = Bare::connect(&servers).await?;
    let ends = bare.ends(queue.name(), 8).await?;
    same(ends, vec![0, 0, 0, 0, 0, 0, 0, 1], "records")
}

async fn added_partition(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let topic = Destination::topic(unique("added"));
    kafka.declare(&topic).await?;
    let fourth = kafka.publisher().partition(3);
    // Now the connection knows the topic, with two partitions.
    kafka.publisher().publish(&topic, Message::new("x")).await?;
    let early = fourth.publish(&topic, Message::new("early")).await;
    same(
        early.expect_err("2 partitions").context("partitions"),
        Some("2"),
        "partitions",
    )?;
    let bare = Bare::connect(&servers).await?;
    bare.add_partitions(topic.name(), 4).await?;
    // The broker itself hears of it a moment later.
    let four = Kafka::builder(&servers).partitions(4).connect().await?;
    let heard = async {
        while four.verify(&topic).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(20, heard).await?;
    let receipt = fourth.publish(&topic, Message::new("late")).await?;
    let expected = Position {
        partition: 3,
        offset: 0,
    };
    same(receipt.position(), Some(expected), "position")
}

async fn deleted_under_way(servers: String) -> Check {
    let timeout = Duration::from_secs(3);
    let kafka = Kafka::builder(&servers)
        .connect_timeout(Duration::from_secs(2))
        .publish_timeout(timeout)
        .connect()
        .await?;
    let queue = Destination::queue(unique("under-way"));
    kafka.declare(&queue).await?;
    let publisher = kafka.publisher();
    publisher.publish(&queue, Message::new("there")).await?;
    Bare::connect(&servers).await?.delete(queue.name()).await?;
    // The leader takes messages until it has heard of it too.
    let heard = async {
        while publisher
            .publish(&queue, Message::new("late"))
            .await
            .is_ok()
        {}
    };
    within(30, heard).await?;
    for _ in 0..2 {
        let gone = publisher.publish(&queue, Message::new("gone"));
        let error = within(10, gone).await?.expect_err("deleted");
        same(error.kind(), ErrorKind::Unroutable, "kind")?;
        check(
            !error.possibly_delivered(),
            "it is known that nothing is stored",
        )?;
    }
    kafka.declare(&queue).await?;
    publisher.publish(&queue, Message::new("again")).await?;
    Ok(())
}

async fn named_partition_refusals(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "named-refusals").await?;
    let second = kafka.publisher().partition(1);
    let large = Message::new(vec![0_u8; 1_100_000]);
    let error = second
        .publish(&queue, large)
        .await
        .expect_err("over the limit");
    same(error.kind(), ErrorKind::TooLarge, "too large")?;
    let missing = Destination::queue(unique("nowhere"));
    let error = second
        .publish(&missing, Message::new("x"))
        .await
        .expect_err("not there");
    same(error.kind(), ErrorKind::Unroutable, "missing queue")?;
    let missing = Destination::topic(unique("nowhere"));
    let error = second
        .publish(&missing, Message::new("x"))
        .await
        .expect_err("not there");
    same(error.kind(), ErrorKind::NotFound, "missing topic")?;
    second.close().await?;
    let error = second
        .publish(&queue, Message::new("x"))
        .await
        .expect_err("closed");
    same(error.kind(), ErrorKind::Closed, "closed")?;
    let mut consumer = open(&kafka, &queue).await?;
    quiet(&mut consumer).await
}

async fn a_receipt_names_replicas_in_sync(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "receipt").await?;
    let receipt = kafka.publisher().publish(&queue, Message::new("x")).await?;
    same(receipt.stored(), Stored::InSync, "stored")?;
    same(receipt.position().map(|p| p.offset), Some(0), "offset")?;
    Ok(kafka.close().await?)
}

async fn size_limit(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "size").await?;
    let publisher = kafka.publisher();
    // The id's size is fixed, so only the payload decides; found by halving, so that the test needs
    // to know no more than the default limit of 1,048,588 bytes for a whole batch.
    let (mut good, mut bad) = (1_000_000, 1_048_588);
    while bad - good > 1 {
        let size = (good + bad) / 2;
        match publisher
            .publish(&queue, Message::new(vec![0_u8; size]))
            .await
        {
            Ok(_) => good = size,
            Err(error) => {
                same(error.kind(), ErrorKind::TooLarge, "kind")?;
                same(error.possibly_delivered(), false, "possibly delivered")?;
                bad = size;
            }
        }
    }
    check(
        good > 1_048_588 - 200,
        format!("the largest payload is only {good}"),
    )?;
    Ok(kafka.close().await?)
}

async fn close_loses_nothing(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "close").await?;
    let publisher = kafka.publisher();
    let mut handles = Vec::new();
    for n in 0..5000_u32 {
        handles.push(
            publisher
                .enqueue(&queue, Message::new(n.to_string()))
                .await?,
        );
    }
    kafka.close().await?;
    let mut places = BTreeSet::new();
    for handle in handles {
        places.insert(handle.await?.position());
    }
    same(places.len(), 5000, "places in the log")?;
    let refused = publisher.publish(&queue, Message::new("late")).await;
    same(
        refused.expect_err("closed").kind(),
        ErrorKind::Closed,
        "after close",
    )?;
    let other = Kafka::connect(&servers).await?;
    let mut consumer = open(&other, &queue).await?;
    let found: BTreeSet<_> = take(&mut consumer, 5000).await?.iter().map(text).collect();
    same(found.len(), 5000, "messages in the log")
}
