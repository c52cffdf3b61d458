//! The broker of a run: in a container of its own, one that runs already, or a null broker. Queues and topics are made for each
//! run, filled, and looked at afterwards.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use krafka::{
    Kafka,
    admin::{NewTopic, OffsetSpec, TopicPartition},
    consumer::{AutoOffsetReset, IsolationLevel},
};
use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use mq_chaos::containers::{Node, Project, Setup};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    Result,
    arm::{Clock, Order, Tally},
    arms::{self, kafka::Commits},
    conductor::Plan,
    rows::{Broker, Row, Work},
};

/// Where runs find their broker. Dropping it takes its container down, if it has one.
pub(crate) struct Ground {
    broker: Broker,
    /// Empty where there is none, and where each run has its own.
    address: String,
    container: Option<(Project, Vec<Node>)>,
    null: bool,
    pinned: bool,
    /// What the names of this conductor's queues, topics and groups begin with.
    prefix: String,
    next: AtomicU64,
    /// Topics that several runs read, by the number of their messages.
    filled: Mutex<BTreeMap<(u64, usize), String>>,
}

/// What one run is told, and the null broker that is there for it alone.
pub(crate) struct Site {
    pub(crate) order: Order,
    _null: Option<Child>,
}

impl Ground {
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut ground = Self {
            broker: plan.broker,
            address: plan.address.clone().unwrap_or_default(),
            container: None,
            null: plan.null,
            pinned: plan.pinned,
            prefix: format!("bench-{:x}", since.map_or(0, |since| since.as_millis())),
            next: AtomicU64::new(0),
            filled: Mutex::default(),
        };
        if plan.broker == Broker::Memory || plan.null {
            return Ok(ground);
        }
        if plan.address.is_none() {
            let (address, setup) = setup(plan.broker);
            println!("starting {}", setup.folder);
            let project = setup.project.clone();
            ground.container = Some(Project::start(setup).await?);
            ground.address = address;
            if plan.pinned {
                pin(&project).await?;
            }
        }
        let start = Instant::now();
        while let Err(error) = ground.answers().await {
            if start.elapsed() > PATIENCE {
                return Err(format!("{}: {error}", ground.address).into());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(ground)
    }

    async fn answers(&self) -> Result {
        match self.broker {
            Broker::Memory => Ok(()),
            Broker::Amqp => {
                let connection = connection(&self.address).await?;
                Ok(connection.close(200, "there".into()).await?)
            }
            Broker::Kafka => {
                Kafka::builder(&self.address).connect().await?;
                Ok(())
            }
        }
    }

    /// What it calls itself.
    pub(crate) async fn product(&self) -> Result<String> {
        if self.null {
            return Ok("a null broker".to_owned());
        }
        let Some((_, nodes)) = &self.container else {
            return Ok(match self.broker {
                Broker::Memory => "in one process",
                _ => "a broker that ran already",
            }
            .to_owned());
        };
        let (name, ask): (_, &[&str]) = match self.broker {
            Broker::Kafka => ("Kafka", &["/opt/kafka/bin/kafka-topics.sh", "--version"]),
            _ => ("RabbitMQ", &["rabbitmqctl", "version"]),
        };
        let node = nodes.first().ok_or("the container is not there")?;
        let said = node.exec(ask).await?;
        let version = said.split_whitespace().next().unwrap_or_default();
        Ok(format!("{name} {version}"))
    }

    /// Makes the queue or topic of a run, with its messages if it is one that reads.
    pub(crate) async fn prepare(&self, row: &Row, messages: u64) -> Result<Site> {
        let group = format!("{}-{}", self.prefix, self.next.fetch_add(1, Relaxed));
        let mut order = Order {
            address: self.address.clone(),
            queue: match row.queue {
                "" => group.clone(),
                // Ours are told the kind of a queue by its name.
                kind => format!("{group}-{kind}"),
            },
            group,
            messages,
            size: row.size,
        };
        if self.broker == Broker::Memory {
            return Ok(Site { order, _null: None });
        }
        if self.null {
            let stored = if row.work == Work::Publish {
                0
            } else {
                messages
            };
            let (child, address) = null(self.broker, self.pinned, stored, row.size).await?;
            order.address = address;
            return Ok(Site {
                order,
                _null: Some(child),
            });
        }
        match self.broker {
            Broker::Memory => {}
            Broker::Amqp => {
                declare(&order.address, &order.queue, row.queue).await?;
                if row.work == Work::Consume {
                    arms::amqp::lapin::publish_best(&order, &mut Clock::default()).await?;
                }
            }
            Broker::Kafka if row.work == Work::Publish => {
                create(&order.address, &order.queue).await?;
            }
            Broker::Kafka => {
                order.queue = self.filled(&order).await?;
                if row.work == Work::Copy {
                    create(&order.address, &order.copies()).await?;
                }
            }
        }
        Ok(Site { order, _null: None })
    }

    /// A topic with the messages of this order, which others have read perhaps.
    async fn filled(&self, order: &Order) -> Result<String> {
        let key = (order.messages, order.size);
        let filled = self
            .filled
            .lock()
            .map_err(|_| "a fill panicked")?
            .get(&key)
            .cloned();
        if let Some(name) = filled {
            return Ok(name);
        }
        create(&order.address, &order.queue).await?;
        arms::kafka::krafka::fill(order).await?;
        let mut all = self.filled.lock().map_err(|_| "a fill panicked")?;
        all.insert(key, order.queue.clone());
        Ok(order.queue.clone())
    }

    /// Looks whether the work was done, and takes away what it was done with.
    pub(crate) async fn check(&self, row: &Row, site: &Site) -> Result {
        let order = &site.order;
        match (self.broker, row.work) {
            (Broker::Memory, _) => Ok(()),
            (Broker::Amqp, work) => {
                let expected = if work == Work::Publish {
                    order.messages
                } else {
                    0
                };
                let found = left(order, expected).await?;
                same("messages are in the queue", found, expected)
            }
            (Broker::Kafka, work) => {
                let kafka = Kafka::builder(&order.address).connect().await?;
                // Ours have a home for dead letters; the others leave nothing of that name, which is no error here.
                let home = format!("{}.{}.dead", order.queue, order.group);
                kafka
                    .admin()
                    .delete_topics([home], Default::default())
                    .await?;
                match work {
                    Work::Publish => {
                        let end = end(&kafka, &order.queue).await?;
                        kafka
                            .admin()
                            .delete_topics([&order.queue], Default::default())
                            .await?;
                        same("records are in the log", end, order.messages)
                    }
                    Work::Copy => {
                        let copied = copied(&kafka, order).await;
                        kafka
                            .admin()
                            .delete_topics([order.copies()], Default::default())
                            .await?;
                        copied?;
                        same(
                            "is committed",
                            Commits::of(order).await?.ask().await?,
                            order.messages,
                        )
                    }
                    _ => same(
                        "is committed",
                        Commits::of(order).await?.ask().await?,
                        order.messages,
                    ),
                }
            }
        }
    }

    /// Takes away the topics that several runs have read.
    pub(crate) async fn clear(&self) -> Result {
        let filled = std::mem::take(&mut *self.filled.lock().map_err(|_| "a fill panicked")?);
        if !filled.is_empty() {
            let kafka = Kafka::builder(&self.address).connect().await?;
            kafka
                .admin()
                .delete_topics(filled.into_values(), Default::default())
                .await?;
        }
        Ok(())
    }
}

/// The container of a broker, and where it is reached.
fn setup(broker: Broker) -> (String, Setup) {
    let (word, variables, address) = match broker {
        Broker::Kafka => (
            "kafka",
            [("MQ_KAFKA_PORT", "29992"), ("MQ_KAFKA_LOGIN_PORT", "29993")],
            "127.0.0.1:29992",
        ),
        _ => (
            "rabbitmq",
            [
                ("MQ_RABBITMQ_PORT", "25972"),
                ("MQ_RABBITMQ_MANAGEMENT_PORT", "25973"),
            ],
            "amqp://guest:guest@127.0.0.1:25972/%2f",
        ),
    };
    let setup = Setup {
        project: format!("mq-bench-{word}"),
        folder: format!("{word}/single"),
        services: vec![word.to_owned()],
        variables: variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    (address.to_owned(), setup)
}

/// Gives the broker's containers core 0.
async fn pin(project: &str) -> Result {
    let label = format!("label=com.docker.compose.project={project}");
    let listed = Command::new("docker")
        .args(["ps", "--quiet", "--filter", &label])
        .output()
        .await?;
    for id in String::from_utf8_lossy(&listed.stdout).lines() {
        let updated = Command::new("docker")
            .args(["update", "--cpuset-cpus", "0", id])
            .output()
            .await?;
        if !updated.status.success() {
            return Err("docker update --cpuset-cpus failed".into());
        }
    }
    Ok(())
}

/// Starts a null broker for one run. Dropped, it is killed.
async fn null(broker: Broker, pinned: bool, messages: u64, size: usize) -> Result<(Child, String)> {
    let mut command = on_core(pinned.then_some("0"))?;
    command
        .args(["null", broker.word(), "--messages", &messages.to_string()])
        .args(["--size", &size.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let said = child.stdout.take().ok_or("the null broker has no output")?;
    let address = BufReader::new(said).lines().next_line().await?;
    Ok((child, address.ok_or("the null broker did not start")?))
}

/// This program, on one core if one is named.
pub(crate) fn on_core(core: Option<&str>) -> Result<Command> {
    let program = std::env::current_exe()?;
    Ok(match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", core]).arg(program);
            command
        }
        None => Command::new(program),
    })
}

fn same(what: &str, found: u64, expected: u64) -> Result {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found} {what}, not {expected}").into()),
    }
}

async fn connection(address: &str) -> Result<Connection> {
    Ok(Connection::connect(address, ConnectionProperties::default()).await?)
}

async fn declare(address: &str, queue: &str, kind: &str) -> Result {
    let connection = connection(address).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await?;
    Ok(connection.close(200, "done".into()).await?)
}

/// How many messages are in the queue, once it says what is expected or does not change any more; then it is deleted.
async fn left(order: &Order, expected: u64) -> Result<u64> {
    let connection = connection(&order.address).await?;
    let channel = connection.create_channel().await?;
    let queue = order.queue.as_str();
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
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(found)
}

async fn create(address: &str, topic: &str) -> Result {
    let kafka = Kafka::builder(address).connect().await?;
    let new = NewTopic::new(topic, 1, -1)?;
    let mut created = kafka
        .admin()
        .create_topics([new], Default::default())
        .await?;
    created.remove(topic).ok_or("no answer about the topic")??;
    Ok(())
}

/// Where the log of a topic with one partition ends.
async fn end(kafka: &Kafka, topic: &str) -> Result<u64> {
    let at = TopicPartition::new(topic, 0);
    let asked = [(at.clone(), OffsetSpec::Latest)];
    let mut found = kafka
        .admin()
        .list_offsets(asked, Default::default())
        .await?;
    let end = found.remove(&at).ok_or("no end of the log")??.offset;
    Ok(u64::try_from(end)?)
}

/// Reads the copies, as those do that see no transaction which is not committed: each original is there once.
async fn copied(kafka: &Kafka, order: &Order) -> Result {
    let consumer = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .isolation_level(IsolationLevel::ReadCommitted)
        .max_poll_records(5000)
        .metrics_push(false)
        .build()
        .await?;
    let copies = order.copies();
    consumer.assign(&copies, vec![0]).await?;
    let mut tally = Tally::default();
    let mut last = Instant::now();
    // One that is there twice may be behind all the others.
    let mut more = true;
    while more || tally.count < order.messages && last.elapsed() < SETTLES {
        let records = consumer.poll(Duration::from_millis(200)).await?;
        more = !records.is_empty();
        if more {
            last = Instant::now();
        }
        for record in records {
            tally.add(record.value.as_deref().unwrap_or_default());
        }
    }
    consumer.close().await?;
    tally.check(order.messages)
}

const PATIENCE: Duration = Duration::from_secs(120);
/// A queue's count may lag behind its confirms, and the end of a transaction behind its commit.
const SETTLES: Duration = Duration::from_secs(10);
