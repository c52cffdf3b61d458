//! The publisher that waits for no answer.

use std::{fmt, sync::Arc, time::Duration};

use lapin::{Channel, options::BasicPublishOptions};
use mq_core::{Destination, Message, Result, Unconfirmed, flow::Flow, trace::Tracer};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    config::Settings,
    connection::Uplink,
    error::{late, within},
    headers::Outbound,
    metrics::Counters,
};

/// Publishes at most once, and does not hear what became of it.
///
/// It has a channel of its own, without confirmations and without `mandatory`. A message that no
/// queue takes, or that comes to a topic that is not there, is lost without a word.
#[derive(Clone)]
pub struct AmqpUnconfirmed {
    shared: Arc<Shared>,
}

struct Shared {
    uplink: Arc<Uplink>,
    channel: Mutex<Option<Channel>>,
    limit: Duration,
    max_message_size: usize,
    flow: Flow,
    tracer: Tracer,
    counters: Arc<Counters>,
}

impl AmqpUnconfirmed {
    pub(crate) fn new(settings: &Settings, uplink: Arc<Uplink>) -> Self {
        let limit = settings.publish_timeout;
        Self {
            shared: Arc::new(Shared {
                uplink,
                channel: Mutex::default(),
                limit,
                max_message_size: settings.max_message_size,
                flow: settings.flow.clone(),
                tracer: settings.tracer.clone(),
                counters: Arc::clone(&settings.counters),
            }),
        }
    }

    /// The channel, or a new one if the broker closed it.
    async fn channel(&self) -> Result<Channel> {
        let mut kept = self.shared.channel.lock().await;
        if let Some(channel) = kept.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let shared = &self.shared;
        let link = shared.uplink.link_within("hand over", shared.limit).await?;
        let channel = link.channel("hand over").await?;
        Ok(kept.insert(channel).clone())
    }

    async fn write(&self, to: &Destination, message: &Message) -> Result<()> {
        let limits = self
            .shared
            .uplink
            .known()
            .limits(self.shared.max_message_size);
        let mut outbound = Outbound::new(to, message, limits)?;
        if self.shared.uplink.settings().named.is_transient(to) {
            outbound.transient();
        }
        // The turn of those before this one too. Writing has the same limit again.
        let limit = self.shared.limit;
        let channel = match timeout(limit, self.channel()).await {
            Ok(channel) => channel?,
            Err(_) => return Err(late("hand over", limit).with("to", to)),
        };
        let properties = outbound.unnumbered();
        let Outbound {
            exchange,
            routing_key,
            payload,
            ..
        } = outbound;
        let options = BasicPublishOptions::default();
        let written = channel.basic_publish(exchange, routing_key, options, &payload, properties);
        within(self.shared.limit, "hand over", written)
            .await
            .map(drop)
            .map_err(|e| e.with("to", to))
    }
}

impl Unconfirmed for AmqpUnconfirmed {
    /// It returns once the message is written to the socket, so a slow or blocked broker slows the
    /// caller down instead of filling its memory.
    async fn hand_over(&self, to: &Destination, message: impl Into<Message> + Send) -> Result<()> {
        let mut message = message.into();
        let sending = self.shared.tracer.send(to, &mut message);
        let written = self.write(to, &message).await;
        sending.failed(&written);
        written?;
        self.shared.counters.handed_over();
        if let Some(flow) = self.shared.flow.sending(&message, to, sending) {
            flow.handed_over();
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let shared = &self.shared;
        shared
            .uplink
            .link_within("flush", shared.limit)
            .await
            .map(drop)
    }
}

impl fmt::Debug for AmqpUnconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpUnconfirmed")
            .field("uplink", &self.shared.uplink)
            .finish_non_exhaustive()
    }
}
