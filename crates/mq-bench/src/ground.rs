//! The broker of a run, in a container of its own: queues and topics made for each run, filled, and looked at afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use krafka::admin::{NewTopic, OffsetSpec, TopicPartition};
use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use mq_chaos::containers::{Node, Project, Setup};

use crate::{
    Result,
    arm::{Clock, Order},
    arms,
    conductor::Plan,
    rows::{Broker, Row, Work},
};

/// A broker that runs. Dropping it takes its container down.
pub(crate) struct Ground {
    pub(crate) address: String,
    broker: Broker,
    project: Option<(Project, Vec<Node>)>,
    next: AtomicU64,
    /// Topics that several runs read, by the number of their messages.
    filled: Mutex<BTreeMap<(u64, usize), String>>,
}

impl Ground {
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let (word, port, other, address) = match plan.broker {
            Broker::Memory => ("", "", ("", ""), String::new()),
            Broker::Amqp => (
                "rabbitmq",
                "25972",
                ("MQ_RABBITMQ_MANAGEMENT_PORT", "25973"),
                "amqp://guest:guest@127.0.0.1:25972/%2f".to_owned(),
            ),
            Broker::Kafka => (
                "kafka",
                "29992",
                ("MQ_KAFKA_LOGIN_PORT", "29993"),
                "127.0.0.1:29992".to_owned(),
            ),
        };
        let project = match plan.broker {
            Broker::Memory => None,
            _ => {
                let project = format!("mq-bench-{word}");
                let setup = Setup {
                    project: project.clone(),
                    folder: format!("{word}/single"),
                    services: vec![word.to_owned()],
                    variables: vec![
                        (format!("MQ_{}_PORT", word.to_uppercase()), port.to_owned()),
                        (other.0.to_owned(), other.1.to_owned()),
                    ],
                };
                println!("starting {word}");
                let started = Project::start(setup).await?;
                if plan.pinned {
                    pin(&project).await?;
                }
                Some(started)
            }
        };
        let ground = Self {
            address,
            broker: plan.broker,
            project,
            next: AtomicU64::new(0),
            filled: Mutex::default(),
        };
        let start = Instant::now();
        while let Err(error) = ground.answers().await {
            if start.elapsed() > PATIENCE {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(ground)
    }

    async fn answers(&self) -> Result {
        match self.broker {
            Broker::Memory => Ok(()),
            Broker::Amqp => {
                let connection = self.connection().await?;
                Ok(connection.close(200, "there".into()).await?)
            }
            Broker::Kafka => {
                krafka::Kafka::builder(&self.address).connect().await?;
                Ok(())
            }
        }
    }

    /// What it calls itself.
    pub(crate) async fn product(&self) -> Result<String> {
        let Some((_, nodes)) = &self.project else {
            return Ok("in one process".to_owned());
        };
        let (name, ask): (_, &[&str]) = match self.broker {
            Broker::Kafka => ("Kafka", &["/opt/kafka/bin/kafka-topics.sh", "--version"]),
            _ => ("RabbitMQ", &["rabbitmqctl", "version"]),
        };
        let said = nodes[0].exec(ask).await?;
        Ok(format!("{name} {}", said.split_whitespace().next().unwrap_or_default()))
    }

    /// Makes the queue or topic of a run, with its messages if it is one that reads.
    pub(crate) async fn prepare(&self, row: &Row, messages: u64) -> Result<String> {
        let number = self.next.fetch_add(1, Relaxed);
        let name = match row.queue {
            "" => format!("bench-{number}"),
            kind => format!("bench-{number}-{kind}"),
        };
        match (self.broker, row.work) {
            (Broker::Memory, _) => Ok(name),
            (Broker::Amqp, work) => {
                self.declare(&name, row.queue).await?;
                if work == Work::Consume {
                    let order = self.order(&name, messages, row.size);
                    arms::amqp::lapin::publish_best(&order, &mut Clock::default()).await?;
                }
                Ok(name)
            }
            (Broker::Kafka, Work::Read) => {
                let key = (messages, row.size);
                let filled = self.filled.lock().map_err(|_| "a fill panicked")?.get(&key).cloned();
                if let Some(name) = filled {
                    return Ok(name);
                }
                self.create(&name).await?;
                let order = self.order(&name, messages, row.size);
                arms::kafka::krafka::fill(&order).await?;
                let mut all = self.filled.lock().map_err(|_| "a fill panicked")?;
                all.insert(key, name.clone());
                Ok(name)
            }
            (Broker::Kafka, _) => {
                self.create(&name).await?;
                Ok(name)
            }
        }
    }

    /// Looks whether the work was done, and takes away what it was done with.
    pub(crate) async fn check(&self, row: &Row, queue: &str, messages: u64) -> Result {
        match (self.broker, row.work) {
            (Broker::Memory, _) | (Broker::Kafka, Work::Read) => Ok(()),
            (Broker::Amqp, work) => {
                let expected = if work == Work::Publish { messages } else { 0 };
                let found = self.left(queue, expected).await?;
                if found == expected {
                    return Ok(());
                }
                Err(format!("{found} messages are in the queue, not {expected}").into())
            }
            (Broker::Kafka, _) => {
                let kafka = krafka::Kafka::builder(&self.address).connect().await?;
                let at = TopicPartition::new(queue, 0);
                let asked = [(at.clone(), OffsetSpec::Latest)];
                let mut found = kafka.admin().list_offsets(asked, Default::default()).await?;
                let end = found.remove(&at).ok_or("no end of the log")??.offset;
                kafka.admin().delete_topics([queue], Default::default()).await?;
                if end == messages.cast_signed() {
                    return Ok(());
                }
                Err(format!("{end} records are in the log, not {messages}").into())
            }
        }
    }

    fn order(&self, queue: &str, messages: u64, size: usize) -> Order {
        Order {
            address: self.address.clone(),
            queue: queue.to_owned(),
            messages,
            size,
        }
    }

    async fn connection(&self) -> Result<Connection> {
        Ok(Connection::connect(&self.address, ConnectionProperties::default()).await?)
    }

    async fn declare(&self, queue: &str, kind: &str) -> Result {
        let connection = self.connection().await?;
        let channel = connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel.queue_declare(queue.into(), options, arguments).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// How many messages are in the queue, once it says what is expected or does not change any more; then it is deleted.
    async fn left(&self, queue: &str, expected: u64) -> Result<u64> {
        let connection = self.connection().await?;
        let channel = connection.create_channel().await?;
        let start = Instant::now();
        let mut found;
        loop {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
            found = u64::from(asked.await?.message_count());
            if found == expected || start.elapsed() > SETTLES {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        connection.close(200, "done".into()).await?;
        Ok(found)
    }

    async fn create(&self, topic: &str) -> Result {
        let kafka = krafka::Kafka::builder(&self.address).connect().await?;
        let new = NewTopic::new(topic, 1, -1)?;
        let mut created = kafka.admin().create_topics([new], Default::default()).await?;
        created.remove(topic).ok_or("no answer about the topic")??;
        Ok(())
    }
}

/// Gives the broker's containers core 0.
async fn pin(project: &str) -> Result {
    let label = format!("label=com.docker.compose.project={project}");
    let listed = tokio::process::Command::new("docker")
        .args(["ps", "--quiet", "--filter", &label])
        .output()
        .await?;
    for id in String::from_utf8_lossy(&listed.stdout).lines() {
        let updated = tokio::process::Command::new("docker")
            .args(["update", "--cpuset-cpus", "0", id])
            .output()
            .await?;
        if !updated.status.success() {
            return Err("docker update --cpuset-cpus failed".into());
        }
    }
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(120);
/// A queue's count may lag behind its confirms.
const SETTLES: Duration = Duration::from_secs(10);
