//! What one RabbitMQ node promises, seen to hold while it and its clients are killed; below each promise its weaker twin,
//! which loses what it is said to lose.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use lapin::{
    Connection, ConnectionProperties,
    options::{ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use mq_amqp::{Amqp, Overflow, QueueSettings};
use mq_chaos::containers::Node;
use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
    Subscription, Unconfirmed,
};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    checker::{Claim, Class, Report, Verdict},
    history::Recorder,
};
use support::{
    patiently, soon,
    story::{Published, Story},
    told, unique,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::oneshot,
};

fn main() -> ExitCode {
    // The process that a case kills is this program.
    if let Ok(how) = std::env::var(HOLD) {
        return hold(&how);
    }
    Suite::new(
        "promises-of-brokers",
        "mq-amqp",
        broker_address("MQ_KILL_RABBITMQ_URL"),
    )
    .deadline(Duration::from_secs(240))
    .case(
        "confirmed_messages_in_a_quorum_queue_survive_a_killed_broker",
        quorum,
    )
    .case(
        "confirmed_messages_in_a_classic_queue_survive_a_killed_broker",
        classic,
    )
    .case(
        "transient_messages_in_a_classic_queue_are_lost_with_the_broker",
        transient,
    )
    .case(
        "transient_messages_in_a_quorum_queue_survive_all_the_same",
        transient_quorum,
    )
    .case(
        "a_quorum_queue_younger_than_a_second_loses_confirmed_messages",
        young,
    )
    .case(
        "what_a_killed_consumer_had_not_acknowledged_comes_back",
        unacknowledged,
    )
    .case(
        "what_a_killed_consumer_had_without_acknowledgements_is_lost",
        no_ack,
    )
    .case(
        "a_full_queue_rejects_and_keeps_all_that_it_confirmed",
        reject_publish,
    )
    .case(
        "a_full_queue_that_drops_its_head_loses_what_it_confirmed",
        drop_head,
    )
    .case(
        "under_an_alarm_publishes_end_as_unknown_and_acknowledgements_go_on",
        blocked,
    )
    .run()
}

/// Publishes to a queue until the broker is killed in the middle, and reads what is there after its restart.
async fn killed(broker: Amqp, to: &Destination, queue: &str, url: &str) -> Check<Report> {
    let mut node = Node::of(&told("MQ_KILL_PROJECT")?, "rabbitmq").await?;
    let story = Story::begin("killed")?;
    let publisher = broker.publisher();
    let (many, enough) = oneshot::channel();
    let mut many = Some(many);
    let publishing = story.publish_until(&publisher, to, |published| {
        if published.confirmed >= MANY
            && let Some(many) = many.take()
        {
            let _ = many.send(());
        }
        false
    });
    let killing = async {
        enough
            .await
            .map_err(|_| Failure::new("too few were confirmed before the end"))?;
        story.fault("kill")?;
        Ok::<_, Failure>(node.kill().await?)
    };
    let (published, killed) = tokio::join!(publishing, killing);
    killed?;
    let published = published?;
    assert!(published.confirmed >= MANY, "{published:?}");
    node.start().await?;
    let broker = patiently("the broker", || Amqp::connect(url)).await?;
    patiently("the queue", || broker.verify_there(queue)).await?;
    story.healed("kill")?;
    story.read(&broker, queue).await?;
    let report = story.end(Claim::at_least_once(), &[queue])?;
    assert_eq!(report.counts().confirmed, published.confirmed);
    Ok(report)
}

/// Waits until a queue of whatever settings can be read.
trait Readable {
    async fn verify_there(&self, queue: &str) -> mq_core::Result<()>;
}

impl Readable for Amqp {
    async fn verify_there(&self, queue: &str) -> mq_core::Result<()> {
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        let consumer = self.consumer(&Subscription::queue(queue), plan).await?;
        consumer.close().await
    }
}

fn holds(report: &Report) {
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
}

/// Every confirmed message is lost, and nothing else is wrong.
fn all_lost(report: &Report) {
    assert_eq!(report.broken(), [Class::Lost], "{report}");
    assert_eq!(
        report.count(Class::Lost),
        report.counts().confirmed,
        "{report}"
    );
}

async fn quorum(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let queue = unique("quorum");
    let to = Destination::queue(queue.as_str());
    broker.declare(&to).await?;
    // The queue is older than what `a_quorum_queue_younger_than_a_second` is about.
    holds(&killed(broker, &to, &queue, &url).await?);
    Ok(())
}

async fn classic(url: String) -> Check {
    let (broker, to, queue) = declared(&url, "classic", QueueSettings::classic()).await?;
    holds(&killed(broker, &to, &queue, &url).await?);
    Ok(())
}

async fn transient(url: String) -> Check {
    let queue = unique("transient");
    let to = Destination::queue(queue.as_str());
    let broker = Amqp::builder()
        .url(&url)?
        .queue(queue.as_str(), QueueSettings::classic())
        .transient(to.clone())
        .connect()
        .await?;
    broker.declare(&to).await?;
    all_lost(&killed(broker, &to, &queue, &url).await?);
    Ok(())
}

async fn transient_quorum(url: String) -> Check {
    let topic = Destination::topic(unique("events"));
    // For a queue the pair is refused; a topic does not know its queues.
    let broker = Amqp::builder()
        .url(&url)?
        .transient(topic.clone())
        .connect()
        .await?;
    broker.declare(&topic).await?;
    broker
        .declare(Subscription::durable(topic.name().clone(), "s"))
        .await?;
    let queue = format!("s@{}", topic.name());
    holds(&killed(broker, &topic, &queue, &url).await?);
    Ok(())
}

/// The defect of the broker that makes `declare` wait for 2 s. When this fails since nothing is lost, the wait can go.
async fn young(url: String) -> Check {
    let mut node = Node::of(&told("MQ_KILL_PROJECT")?, "rabbitmq").await?;
    let mut seen = Vec::new();
    // The killing takes its time, so a queue may be too old when it comes.
    for _ in 0..5 {
        let broker = patiently("the broker", || Amqp::connect(&url)).await?;
        let story = Story::begin("young")?;
        let queue = unique("young");
        let bare = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = bare.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let options = QueueDeclareOptions::durable();
        channel
            .queue_declare(queue.as_str().into(), options, arguments)
            .await?;
        let born = std::time::Instant::now();
        let to = Destination::queue(queue.as_str());
        let published = story.publish(&broker.publisher(), &to, 60).await?;
        assert_eq!((published.refused, published.unknown), (0, 0));
        story.fault("kill")?;
        node.kill().await?;
        let age = born.elapsed();
        node.start().await?;
        let broker = patiently("the broker", || Amqp::connect(&url)).await?;
        patiently("the queue", || broker.verify_there(&queue)).await?;
        story.read(&broker, &queue).await?;
        let report = story.end(Claim::at_least_once(), &[&queue])?;
        let lost = report.count(Class::Lost);
        if lost > 0 {
            all_lost(&report);
            return Ok(());
        }
        seen.push(age);
    }
    Err(Failure::new(format!(
        "no queue lost anything, dead at the latest at the ages {seen:?}: if they are below 1 s the broker's defect is gone, \
         and `declare` of mq-amqp need not wait any more"
    )))
}

async fn unacknowledged(url: String) -> Check {
    let (broker, to, queue) = declared(&url, "held", QueueSettings::quorum()).await?;
    let story = Story::begin("unacknowledged")?;
    let published = story.publish(&broker.publisher(), &to, HELD).await?;
    assert_eq!(published.confirmed, HELD);
    let mut holder = Holder::start("ack", &url, &queue, &story).await?;
    story.fault("kill of the consumer")?;
    holder.kill().await?;
    story.healed("kill of the consumer")?;
    let (came, again) = story.read(&broker, &queue).await?;
    assert_eq!((came, again), (HELD, HELD), "not all came, and came again");
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    // The holder had been given each of them.
    assert_eq!(report.count(Class::DuplicateDelivery), HELD, "{report}");
    holds(&report);
    Ok(())
}

async fn no_ack(url: String) -> Check {
    let (broker, to, queue) = declared(&url, "no-ack", QueueSettings::quorum()).await?;
    let story = Story::begin("no-ack")?;
    let published = story.publish(&broker.publisher(), &to, HELD).await?;
    assert_eq!(published.confirmed, HELD);
    let mut holder = Holder::start("no-ack", &url, &queue, &story).await?;
    story.fault("kill of the consumer")?;
    holder.kill().await?;
    story.healed("kill of the consumer")?;
    assert_eq!(story.read(&broker, &queue).await?.0, 0);
    all_lost(&story.end(Claim::at_least_once(), &[&queue])?);
    Ok(())
}

async fn reject_publish(url: String) -> Check {
    for settings in [QueueSettings::quorum(), QueueSettings::classic()] {
        let (broker, to, queue) = declared(&url, "full", settings.max_length(50)).await?;
        let story = Story::begin("full")?;
        let published = story.publish(&broker.publisher(), &to, 400).await?;
        assert!(
            published.refused > 0 && published.unknown == 0,
            "{published:?}"
        );
        story.read(&broker, &queue).await?;
        let report = story.end(Claim::at_least_once(), &[&queue])?;
        assert_eq!(report.counts().rejected, published.refused, "{report}");
        holds(&report);
    }
    Ok(())
}

async fn drop_head(url: String) -> Check {
    let settings = QueueSettings::classic()
        .max_length(50)
        .overflow(Overflow::DropHead)
        .broker_dead_letters(DeadLetters::None);
    let (broker, to, queue) = declared(&url, "drop", settings).await?;
    let story = Story::begin("drop")?;
    let published = story.publish(&broker.publisher(), &to, 400).await?;
    let confirmed = Published {
        confirmed: 400,
        ..Published::default()
    };
    assert_eq!(published, confirmed);
    story.read(&broker, &queue).await?;
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    assert_eq!(report.broken(), [Class::Lost], "{report}");
    assert_eq!(report.count(Class::Lost), 350, "{report}");
    Ok(())
}

async fn blocked(url: String) -> Check {
    let queue = unique("blocked");
    let limit = Duration::from_secs(5);
    let broker = Amqp::builder()
        .url(&url)?
        .publish_timeout(limit)
        .publish_window(10)
        .connect()
        .await?;
    let to = Destination::queue(queue.as_str());
    broker.declare(&to).await?;
    let publisher = broker.publisher();
    for _ in 0..HELD {
        publisher.publish(&to, Message::new("before")).await?;
    }
    let node = Node::of(&told("MQ_KILL_PROJECT")?, "rabbitmq").await?;
    let watermark = |level: &'static str| {
        let (node, set) = (&node, "set_vm_memory_high_watermark");
        async move { node.exec(&["rabbitmqctl", set, level]).await }
    };
    watermark("0.00001").await?;
    let alarmed = under_alarm(&broker, &to, limit).await;
    // Whatever came of it, the next case has no alarm.
    watermark("0.6").await?;
    alarmed?;
    patiently("publishing without an alarm", || {
        publisher.publish(&to, Message::new("after"))
    })
    .await
    .map(drop)
}

/// A publisher and a consumer of a broker that blocks whoever publishes.
async fn under_alarm(broker: &Amqp, to: &Destination, limit: Duration) -> Check {
    let publisher = broker.publisher();
    // The broker blocks a connection with its first publish after the alarm; that one may still be confirmed.
    let mut pending = Vec::new();
    let full = loop {
        match publisher.enqueue(to, Message::new("under the alarm")).await {
            Ok(outcome) => pending.push(outcome),
            Err(error) => break error,
        }
        assert!(pending.len() < 1_000, "the broker takes everything");
    };
    assert_eq!(full.kind(), ErrorKind::Timeout, "{full}");
    assert!(full.to_string().contains("alarm"), "{full}");
    let mut unknown = 0;
    for outcome in pending {
        match soon("an outcome", outcome).await? {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
                assert!(error.to_string().contains("alarm"), "{error}");
                unknown += 1;
            }
        }
    }
    assert_eq!(unknown, 10, "a window of unknown outcomes");
    // One that waits for no answer is not kept in memory either.
    let unconfirmed = broker.unconfirmed();
    let handed = unconfirmed.hand_over(to, Message::new("x"));
    let error = handed.await.expect_err("nothing is written");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    // The consuming connection is another one.
    let begun = std::time::Instant::now();
    let subscription = Subscription::queue(&**to.name());
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    for _ in 0..HELD {
        let delivery = soon("a delivery", consumer.receive()).await??;
        let delivery = delivery.ok_or_else(|| Failure::new("the consumer ended"))?;
        delivery.ack()?;
    }
    soon("the acknowledgements", consumer.settled()).await??;
    assert!(begun.elapsed() < 4 * limit, "{:?}", begun.elapsed());
    Ok(consumer.close().await?)
}

async fn declared(
    url: &str,
    what: &str,
    settings: QueueSettings,
) -> Check<(Amqp, Destination, String)> {
    let queue = unique(what);
    let broker = Amqp::builder()
        .url(url)?
        .queue(queue.as_str(), settings)
        .connect()
        .await?;
    let to = Destination::queue(queue.as_str());
    broker.declare(&to).await?;
    Ok((broker, to, queue))
}

/// A consumer in a process of its own, which receives and settles nothing.
struct Holder(Child);

impl Holder {
    /// Returns when it has received all.
    async fn start(how: &str, url: &str, queue: &str, story: &Story) -> Check<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(HOLD, how)
            .args([url, queue, &story.run])
            .arg(&story.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child
            .stdout
            .take()
            .ok_or_else(|| Failure::new("no stdout"))?;
        let mut lines = BufReader::new(out).lines();
        let line = soon("the consumer's process", lines.next_line()).await??;
        if line.as_deref() != Some("held") {
            return Err(Failure::new(format!(
                "the consumer's process said {line:?}"
            )));
        }
        Ok(Self(child))
    }

    /// `kill -9`.
    async fn kill(&mut self) -> Check {
        Ok(self.0.kill().await?)
    }
}

/// The killed process: receives as many as there are, records each, and waits for its end.
fn hold(how: &str) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, run, folder] = arguments.as_slice() else {
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let held = runtime.block_on(async {
        let recorder = Recorder::create(Path::new(folder), run, "holder")?;
        let broker = Amqp::connect(url).await?;
        let subscription = Subscription::queue(queue.as_str());
        let mut held = Vec::new();
        if how == "no-ack" {
            let mut consumer = broker.no_ack_consumer(&subscription, 1000).await?;
            for _ in 0..HELD {
                let message = consumer.receive().await?.ok_or("the consumer ended")?;
                let _ = recorder.received(queue, &message)?;
            }
            println!("held");
            std::thread::sleep(Duration::from_secs(600));
        } else {
            let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
            for _ in 0..HELD {
                let delivery = consumer.receive().await?.ok_or("the consumer ended")?;
                let _ = recorder.received(queue, delivery.received())?;
                held.push(delivery);
            }
            println!("held");
            std::thread::sleep(Duration::from_secs(600));
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    });
    eprintln!("{held:?}");
    ExitCode::FAILURE
}

const HOLD: &str = "MQ_HOLD";
/// Confirmed before the broker is killed.
const MANY: u64 = 2_000;
/// Messages that a killed consumer has.
const HELD: u64 = 60;
