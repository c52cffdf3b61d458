//! The processes that are faulted: a producer and a consumer.

mod consumer;
mod producer;
mod status;
mod telling;

use std::{
    io::Read,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use mq_core::Broker;
use mq_testkit::history::Recorder;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use consumer::DEADLINE;
pub(crate) use status::Status;

use crate::{
    Result, broker,
    broker::{Kind, Protocol},
};
use status::Counters;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Producer,
    Consumer,
}

/// What a process is told by the conductor.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    pub(crate) history: PathBuf,
    pub(crate) run: String,
    pub(crate) name: String,
    pub(crate) seed: u64,
    /// Messages a second; of a producer.
    pub(crate) rate: u32,
    /// Of a Kafka group, if not the default.
    pub(crate) protocol: Option<Protocol>,
    /// A producer sends again what is unknown.
    pub(crate) resend: bool,
    /// Of a consumer.
    pub(crate) pace: Pace,
}

/// How long handlers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// 5 to 30 ms.
    Brisk,
    /// Ten times as long, so that messages pile up.
    Slow,
    /// As brisk, and one of 100 outlives the deadline of a shutdown.
    Outlive,
}

/// What both kinds of process have.
struct Stage {
    order: Order,
    recorder: Recorder,
    counters: Counters,
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// Runs a process until SIGTERM, an error, or the end of the conductor.
pub(crate) fn start(order: Order, role: Role) -> Result<bool> {
    end_with_the_conductor()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let recorder = Recorder::create(&order.history, &order.run, &order.name)?;
        let counters = Counters::new(recorder.path());
        let stage = Arc::new(Stage {
            order,
            recorder,
            counters,
        });
        telling::start()?;
        let order = &stage.order;
        match order.kind {
            Kind::RabbitMq => {
                let broker = patiently(|| broker::amqp(&order.address, &order.name)).await?;
                telling::count(broker.events(), &stage);
                act(broker, &stage, role).await
            }
            Kind::Kafka => {
                let broker = patiently(|| broker::kafka(&order.address, order.protocol)).await?;
                act(broker, &stage, role).await
            }
        }
    })?;
    Ok(true)
}

async fn act<B: Broker>(broker: B, stage: &Arc<Stage>, role: Role) -> Result {
    let stop = terminated()?;
    let printing = stage.print();
    match role {
        Role::Producer => producer::run(broker, stage, stop).await,
        Role::Consumer => consumer::run(broker, stage, stop).await,
    }?;
    printing.abort();
    stage.counters.tell();
    Ok(())
}

/// Asks until there is a connection: a broker that was killed takes its time.
pub(crate) async fn patiently<T, F>(mut connect: impl FnMut() -> F) -> mq_core::Result<T>
where
    F: Future<Output = mq_core::Result<T>>,
{
    let start = Instant::now();
    loop {
        match connect().await {
            Err(error) if error.is_retryable() && start.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            done => return done,
        }
    }
}

pub(crate) fn terminated() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut signal = signal(SignalKind::terminate())?;
    Ok(async move {
        signal.recv().await;
    })
}

/// No process is left over: the conductor holds the other end of the standard input, and a stopped process, which reads
/// nothing, is killed by the system.
pub(crate) fn end_with_the_conductor() -> Result {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(GONE);
    });
    Ok(())
}

/// The exit code of a process whose conductor is gone.
const GONE: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
