//! The publisher that waits for no answer.

use std::{fmt, sync::Arc, time::Duration};

use lapin::{Channel, options::BasicPublishOptions};
use mq_core::{Destination, Message, Result, Unconfirmed, flow::Flow};
use tokio::sync::Mutex;

use crate::{config::Settings, connection::Link, error::within, headers::Outbound};

/// Publishes at most once, and does not hear what became of it.
///
/// It has a channel of its own, without confirmations and without `mandatory`. A message that no
/// queue takes, or that comes to a topic that is not there, is lost without a word.
#[derive(Clone)]
pub struct AmqpUnconfirmed {
    shared: Arc<Shared>,
}

struct Shared {
    link: Arc<Link>,
    channel: Mutex<Option<Channel>>,
    limit: Duration,
    max_message_size: usize,
    flow: Flow,
}

impl AmqpUnconfirmed {
    pub(crate) fn new(settings: &Settings, link: Arc<Link>) -> Self {
        let limit = settings.publish_timeout;
        Self {
            shared: Arc::new(Shared {
                link,
                channel: Mutex::default(),
                limit,
                max_message_size: settings.max_message_size,
                flow: settings.flow.clone(),
            }),
        }
    }

    /// The channel, or a new one if the broker closed it.
    async fn channel(&self) -> Result<Channel> {
        let mut kept = self.shared.channel.lock().await;
        if let Some(channel) = kept.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.shared.link.channel("hand over").await?;
        Ok(kept.insert(channel).clone())
    }
}

impl Unconfirmed for AmqpUnconfirmed {
    /// It returns once the message is written to the socket, so a slow or blocked broker slows the
    /// caller down instead of filling its memory.
    async fn hand_over(&self, to: &Destination, message: impl Into<Message> + Send) -> Result<()> {
        let message = message.into();
        let limits = self.shared.link.limits(self.shared.max_message_size);
        let mut outbound = Outbound::new(to, &message, limits)?;
        if self.shared.link.named().is_transient(to) {
            outbound.transient();
        }
        let channel = self.channel().await?;
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
            .map_err(|e| e.with("to", to))?;
        if let Some(flow) = self.shared.flow.publish(&message, to) {
            flow.handed_over();
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let link = &self.shared.link;
        if link.is_connected() {
            Ok(())
        } else {
            Err(link.gone("flush"))
        }
    }
}

impl fmt::Debug for AmqpUnconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpUnconfirmed")
            .field("link", &self.shared.link)
            .finish_non_exhaustive()
    }
}
