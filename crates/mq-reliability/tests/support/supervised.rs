//! What the page of `supervise` promises of workers, on each broker.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use lapin::{Connection, ConnectionProperties, options::QueueDeleteOptions};
use mq_core::{
    Broker, Classify, Error, ErrorKind, Failure, Message, Received, State, Subscription, Worker,
};
use mq_reliability::supervise::{Child, Event, GaveUp, Supervisor, What};
use mq_testkit::{
    Check,
    proxy::{Direction, Fault, Proxy},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{LONG, Stage, connect_once};

/// A supervisor of one child, in a task of its own.
struct Shop {
    stop: oneshot::Sender<()>,
    run: JoinHandle<Result<(), GaveUp>>,
    record: Arc<Mutex<Record>>,
    failures: watch::Receiver<usize>,
}

/// When the child started, and with what it failed.
#[derive(Debug, Default)]
struct Record {
    starts: Vec<Instant>,
    kinds: Vec<Option<ErrorKind>>,
    waits: Vec<Duration>,
}

impl Shop {
    fn open(child: Child) -> Self {
        let record = Arc::<Mutex<Record>>::default();
        let (failed, failures) = watch::channel(0);
        let told = Arc::clone(&record);
        let supervisor = Supervisor::one_for_one("shop")
            .intensity(1_000, Duration::from_secs(60))
            .backoff(Duration::from_millis(200), Duration::from_secs(1))
            .child(child)
            .on_event(move |event: &Event| {
                let mut record = told.lock().expect("no panic");
                match &event.what {
                    What::Started => record.starts.push(Instant::now()),
                    What::Restarting(wait) => record.waits.push(*wait),
                    What::Failed(error) => {
                        record
                            .kinds
                            .push(error.downcast_ref::<Error>().map(Error::kind));
                        failed.send_modify(|failures| *failures += 1);
                    }
                    _ => {}
                }
            });
        let (stop, stopped) = oneshot::channel::<()>();
        let run = tokio::spawn(supervisor.run_until(async { drop(stopped.await) }));
        Self {
            stop,
            run,
            record,
            failures,
        }
    }

    async fn fails(&mut self, times: usize) -> Check {
        let failures = self.failures.wait_for(|failures| *failures >= times);
        timeout(LONG, failures).await??;
        Ok(())
    }

    /// Ends it, and checks that no restart came sooner than it was said to.
    async fn close(self) -> Check<Record> {
        drop(self.stop);
        timeout(LONG, self.run).await???;
        let record = std::mem::take(&mut *self.record.lock().expect("no panic"));
        assert_eq!(record.starts.len(), record.waits.len() + 1, "{record:?}");
        for (starts, wait) in record.starts.windows(2).zip(&record.waits) {
            assert!(*wait >= Duration::from_millis(100), "{wait:?}");
            assert!(starts[1] - starts[0] >= *wait, "{record:?}");
        }
        Ok(record)
    }
}

async fn see(State(seen): State<mpsc::Sender<Bytes>>, received: Received) -> Result<(), Failure> {
    let payload = received.payload().cloned().unwrap_or_default();
    seen.send(payload).await.transient()
}

/// Waits until this message is handled. One that came before it may come again.
async fn sees(seen: &mut mpsc::Receiver<Bytes>, payload: &str) -> Check {
    let found = async {
        loop {
            match seen.recv().await {
                Some(other) if other != payload => {}
                found => return found,
            }
        }
    };
    assert!(timeout(2 * LONG, found).await?.is_some(), "{payload}");
    Ok(())
}

pub(crate) async fn panicking_handler(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("bad")).await?;
    let (tx, mut rx) = mpsc::channel(8);
    let (broker, queue) = (stage.broker.clone(), stage.queue.clone());
    let shop = Shop::open(Child::new("worker", move |stop| {
        let tx = tx.clone();
        Worker::new(&broker, Subscription::queue(Arc::clone(queue.name())))
            .max_attempts(3)
            .run(move |received: Received| {
                let tx = tx.clone();
                async move {
                    let bad = received.payload().is_some_and(|payload| payload == "bad");
                    tx.try_send(bad).map_err(|error| error.to_string())?;
                    assert!(!bad, "the shelf fell down");
                    Ok::<_, String>(())
                }
            })
            .with_graceful_shutdown(stop)
    }));
    for _ in 0..3 {
        assert_eq!(timeout(LONG, rx.recv()).await?, Some(true));
    }
    stage.publish(Message::new("good")).await?;
    assert_eq!(timeout(LONG, rx.recv()).await?, Some(false));
    let record = shop.close().await?;
    assert_eq!(record.starts.len(), 1, "{record:?}");
    let letters = stage.dead_letters(1).await?;
    assert_eq!(letters[&b"bad"[..]].attempts(), 3);
    Ok(())
}

pub(crate) async fn killed_connection(address: String) -> Check {
    let stage = Stage::new(address.clone()).await?;
    let (proxy, own) = proxy(&address).await?;
    let (tx, mut seen) = mpsc::channel(8);
    let queue = stage.queue.clone();
    let mut shop = Shop::open(Child::new("worker", move |stop| {
        let (own, queue, tx) = (own.clone(), queue.clone(), tx.clone());
        async move {
            let broker = connect_once(&own).await?;
            Worker::new(&broker, Subscription::queue(Arc::clone(queue.name())))
                .state(tx)
                .run(see)
                .with_graceful_shutdown(stop)
                .await
        }
    }));
    stage.publish(Message::new("before")).await?;
    sees(&mut seen, "before").await?;

    // Nobody gets through for a while.
    proxy.set(Direction::Both, Fault::Refuse);
    proxy.cut();
    stage.publish(Message::new("meanwhile")).await?;
    timeout(LONG, proxy.until(|counters| counters.refused >= 3)).await?;
    let ends = address.starts_with("amqp");
    if ends {
        shop.fails(3).await?;
    }
    proxy.clear();
    sees(&mut seen, "meanwhile").await?;
    stage.publish(Message::new("after")).await?;
    sees(&mut seen, "after").await?;

    let record = shop.close().await?;
    for kind in &record.kinds {
        let lost = [
            Some(ErrorKind::Disconnected),
            Some(ErrorKind::Lost),
            Some(ErrorKind::Connect),
        ];
        assert!(lost.contains(kind), "{record:?}");
    }
    proxy.close().await;
    Ok(())
}

pub(crate) async fn lost_consumer(address: String) -> Check {
    let stage = Stage::new(address.clone()).await?;
    let (tx, mut seen) = mpsc::channel(8);
    let (broker, queue) = (connect_once(&address).await?, stage.queue.clone());
    let mut shop = Shop::open(Child::new("worker", move |stop| {
        Worker::new(&broker, Subscription::queue(Arc::clone(queue.name())))
            .state(tx.clone())
            .run(see)
            .with_graceful_shutdown(stop)
    }));
    stage.publish(Message::new("before")).await?;
    sees(&mut seen, "before").await?;

    let bare = Connection::connect(&address, ConnectionProperties::default()).await?;
    let name = stage.queue.name().to_string();
    let gone = bare.create_channel().await?;
    gone.queue_delete(name.into(), QueueDeleteOptions::default())
        .await?;
    // The consumer is lost; then the worker cannot be opened until its queue is there again.
    shop.fails(3).await?;
    stage.broker.declare(&stage.queue).await?;
    stage.publish(Message::new("after")).await?;
    sees(&mut seen, "after").await?;

    let record = shop.close().await?;
    let (first, later) = record.kinds.split_first().expect("it failed");
    assert_eq!(*first, Some(ErrorKind::Lost), "{record:?}");
    let missing = |kind: &Option<ErrorKind>| *kind == Some(ErrorKind::NotFound);
    assert!(later.iter().all(missing), "{record:?}");
    bare.close(200, "done".into()).await?;
    Ok(())
}

/// A proxy in front of the broker, and the address for who goes through it.
async fn proxy(address: &str) -> Check<(Proxy, String)> {
    if !address.starts_with("amqp") {
        let proxy = Proxy::start_kafka(address).await?;
        let servers = proxy.servers();
        return Ok((proxy, servers));
    }
    let host = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    let proxy = Proxy::start(host).await?;
    let own = address.replacen(host, &proxy.address().to_string(), 1);
    Ok((proxy, own))
}
