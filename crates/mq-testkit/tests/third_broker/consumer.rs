//! Consuming: what the broker pushes, up to the prefetch.

use std::sync::Arc;

use mq_core::{
    ConsumePlan, Consumer, Delivery, Error, ErrorKind, Received, Result, Settle, Subscription,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    connection::{DEADLINE, Link},
    error,
    headers::attempts,
    server::{Ask, Given},
    settle::{self, Sink},
    topology,
};

pub(crate) struct CourierConsumer {
    link: Arc<Link>,
    number: u64,
    source: Arc<str>,
    inbox: mpsc::Receiver<Given>,
    sink: Arc<Sink>,
    asks: mpsc::Sender<oneshot::Sender<Result<()>>>,
    over: bool,
}

impl CourierConsumer {
    pub(crate) async fn open(
        link: &Arc<Link>,
        from: &Subscription,
        plan: ConsumePlan,
    ) -> Result<Self> {
        let queue = topology::of("consume", from)?;
        mq_core::check_name("consume", queue.name())?;
        topology::exists(link, "consume", &queue).await?;
        let home = plan.dead_letter_home(from);
        if let Some(home) = &home {
            topology::exists(link, "consume", home).await?;
        }
        let (number, prefetch) = (link.next(), usize::from(plan.prefetch));
        let (inbox, given) = mpsc::channel(prefetch);
        let (marks, marked) = mpsc::channel(prefetch);
        let (asks, asked) = mpsc::channel(1);
        let source = Arc::clone(from.name());
        let sink = Sink::new(Arc::clone(link), Arc::clone(&source), home.clone(), marks);
        tokio::spawn(settle::tell(Arc::clone(link), number, home, marked, asked));
        link.state.consumers().insert(number, inbox);
        // From here on it is dropped as a consumer is: what the broker sent goes back.
        let consumer = Self {
            link: Arc::clone(link),
            number,
            source,
            inbox: given,
            sink: Arc::new(sink),
            asks,
            over: false,
        };
        let ask = Ask::Consume(number, queue.name().to_string(), prefetch);
        match link.ask("consume", ask).await? {
            true => Ok(consumer),
            false => Err(error::not_found("consume", &queue)),
        }
    }

    fn delivery(&self, given: Given) -> Result<Delivery> {
        let tag = given.tag;
        let text = "the broker sent what is no message";
        let wrong = || Error::new(ErrorKind::Broker, "receive", text).with("source", &self.source);
        let message = given.message.read().ok_or_else(wrong)?;
        let attempt = attempts(&message)
            .saturating_add(given.failed)
            .saturating_add(1);
        let received = Received::new(message, Arc::clone(&self.source), None)
            .with_attempt(attempt)
            .with_redelivered(given.redelivered);
        self.sink.handed_out(tag);
        let sink = Arc::clone(&self.sink) as Arc<dyn Settle>;
        Ok(Delivery::new(received, sink, tag))
    }
}

// guide: consumer
impl Consumer for CourierConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        if self.over {
            return Ok(0);
        }
        // Nothing is taken before this returns, so a dropped receive loses nothing.
        let Some(first) = self.inbox.recv().await else {
            self.over = true;
            self.sink.end();
            return Err(self.link.state.gone("receive").with("source", &self.source));
        };
        into.push(self.delivery(first)?);
        let mut count = 1;
        while count < max
            && let Ok(next) = self.inbox.try_recv()
        {
            into.push(self.delivery(next)?);
            count += 1;
        }
        Ok(count)
    }

    async fn settled(&mut self) -> Result<()> {
        let told = async {
            let (reply, answer) = oneshot::channel();
            self.asks.send(reply).await.ok()?;
            answer.await.ok()
        };
        match timeout(DEADLINE, told).await {
            Ok(Some(told)) => told,
            Ok(None) => Err(self.link.state.gone("settle")),
            Err(_) => Err(error::late("settle")),
        }
    }

    async fn close(mut self) -> Result<()> {
        let handed = self.sink.end();
        let settled = self.settled().await;
        let cancel = Ask::Cancel(self.number, handed);
        let cancelled = self.link.ask("close", cancel).await.map(drop);
        self.over = cancelled.is_ok();
        settled.and(cancelled)
    }
}
// guide: end

impl Drop for CourierConsumer {
    fn drop(&mut self) {
        self.link.state.consumers().remove(&self.number);
        if let (false, Ok(runtime)) = (self.over, tokio::runtime::Handle::try_current()) {
            // What somebody has in hand counts as a failure, what was only buffered does not.
            let (link, handed) = (Arc::clone(&self.link), self.sink.end());
            let (number, asks) = (self.number, self.asks.clone());
            runtime.spawn(async move {
                // Behind the verdicts that were given.
                let (reply, answer) = oneshot::channel();
                if asks.send(reply).await.is_ok() {
                    let _ = answer.await;
                }
                let _ = link.ask("close", Ask::Cancel(number, handed)).await;
            });
        }
    }
}
