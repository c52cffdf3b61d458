//! The handle by which a program makes, checks and removes the delay cascade.

use std::{fmt, sync::Arc};

use mq_core::Result;

use crate::connection::{Uplink, whole};

/// The delay cascade of a virtual host: what `defer` and
/// [`AmqpPublisher::delayed`](crate::AmqpPublisher::delayed) need. From [`Amqp::delays`](crate::Amqp::delays).
///
/// It is made once and then shared by all services on the virtual host: 28 levels, each an exchange
/// and a quorum queue whose messages live 2^n seconds, one for each bit of a delay in seconds
/// (the delayed delivery of NServiceBus.RabbitMQ has the same shape). A message waits in the queues
/// of the bits that are set and passes the others by, so that a short delay is not held up by a long
/// one. From one queue to the next the broker hands it on with a confirmation.
#[derive(Clone)]
pub struct Delays {
    uplink: Arc<Uplink>,
}

impl Delays {
    pub(crate) fn new(uplink: Arc<Uplink>) -> Self {
        Self { uplink }
    }

    /// Creates what is missing, and compares what is there. Takes 2 s longer where something was
    /// missing: a younger quorum queue can lose confirmed messages when its whole cluster is killed.
    ///
    /// # Errors
    /// [`Mismatch`](mq_core::ErrorKind::Mismatch), with both sides, if a part is there with other
    /// settings; [`Permission`](mq_core::ErrorKind::Permission).
    ///
    /// # Cancel safety
    /// Dropped, it goes on to its end.
    pub async fn declare(&self) -> Result<()> {
        let uplink = Arc::clone(&self.uplink);
        whole("declare", async move {
            let link = uplink.link("declare").await?;
            super::declare(&link).await
        })
        .await
    }

    /// Compares what is there, and changes nothing. AMQP has no way to look at bindings: those within
    /// the cascade are not compared, and [`declare`](Self::declare) makes them anew.
    ///
    /// # Errors
    /// [`NotFound`](mq_core::ErrorKind::NotFound) with the name of a part that is missing;
    /// [`Mismatch`](mq_core::ErrorKind::Mismatch) with both sides.
    ///
    /// # Cancel safety
    /// Dropped, it goes on to its end.
    pub async fn verify(&self) -> Result<()> {
        let uplink = Arc::clone(&self.uplink);
        whole("verify", async move {
            let link = uplink.link("verify").await?;
            super::verify(&link, "verify").await
        })
        .await
    }

    /// Removes the cascade if no message waits in it; what is not there is no error.
    ///
    /// End those who delay first: a publish into a cascade that is gone ends its channel. The broker
    /// does not count a message that has left its level and whose queue refuses it, as a queue with a
    /// limit does: such messages are lost.
    ///
    /// # Errors
    /// [`InUse`](mq_core::ErrorKind::InUse), with a queue and how many messages it holds; the cascade
    /// is then as it was.
    ///
    /// # Cancel safety
    /// Dropped, it goes on to its end.
    pub async fn delete(&self) -> Result<()> {
        let uplink = Arc::clone(&self.uplink);
        whole("delete", async move {
            let link = uplink.link("delete").await?;
            super::delete(&link, false).await
        })
        .await
    }

    /// Removes the cascade and every message that waits in it: those are lost.
    ///
    /// # Errors
    /// Those of the connection, and [`Permission`](mq_core::ErrorKind::Permission).
    ///
    /// # Cancel safety
    /// Dropped, it goes on to its end.
    pub async fn delete_with_messages(&self) -> Result<()> {
        let uplink = Arc::clone(&self.uplink);
        whole("delete", async move {
            let link = uplink.link("delete").await?;
            super::delete(&link, true).await
        })
        .await
    }
}

impl fmt::Debug for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delays")
            .field("uplink", &self.uplink)
            .finish()
    }
}
