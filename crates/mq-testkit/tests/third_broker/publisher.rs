//! Publishing: room in the window, then a question whose answer is the outcome.

use std::sync::{Arc, atomic::Ordering};

use futures::future::BoxFuture;
use mq_core::{Destination, Message, Publisher, Receipt, Result, Stored, Unconfirmed, check_name};
use tokio::time::timeout;

use crate::{
    connection::{DEADLINE, Link},
    error,
    headers::{self, Wire},
    server::Ask,
};

#[derive(Clone)]
pub(crate) struct CourierPublisher(pub(crate) Arc<Link>);

// guide: publisher
impl Publisher for CourierPublisher {
    type Pending = BoxFuture<'static, Result<Receipt>>;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Self::Pending> {
        let (to, message) = (to.clone(), message.into());
        check_name("publish", to.name())?;
        headers::check(&to, &message)?;
        if !to.is_queue() {
            return Err(error::unsupported("publish", "this broker has no topics"));
        }
        let Self(link) = self;
        let room = timeout(DEADLINE, Arc::clone(&link.window).acquire_owned()).await;
        let room = room.map_err(|_| error::late("publish"))?.ok();
        if link.publisher_closed.load(Ordering::Acquire) {
            return Err(error::closed("publish"));
        }
        let ask = Ask::Publish(to.name().to_string(), Wire::from(&message));
        // The room is given back when the answer comes, whether or not anybody waits for it.
        let answer = timeout(DEADLINE, link.begin("publish", ask, room)).await;
        let answer = answer.map_err(|_| error::late("publish"))??;
        Ok(Box::pin(async move {
            match timeout(DEADLINE, answer).await {
                Ok(Ok(true)) => Ok(Receipt::new(Stored::Process)),
                Ok(Ok(false)) => Err(error::unroutable(&to)),
                // Written, and no answer: it may be stored.
                Ok(Err(_)) | Err(_) => Err(error::unanswered(&to)),
            }
        }))
    }

    async fn flush(&self) -> Result<()> {
        // The broker answers in order, so every answer before this one has come.
        self.0.ask("flush", Ask::Ping).await.map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.0.publisher_closed.store(true, Ordering::Release);
        match self.0.state.check("close") {
            Ok(()) => self.flush().await,
            // Nothing is under way on a connection that is no more.
            Err(_) => Ok(()),
        }
    }
}
// guide: end

#[derive(Clone)]
pub(crate) struct CourierUnconfirmed(pub(crate) CourierPublisher);

impl Unconfirmed for CourierUnconfirmed {
    async fn hand_over(&self, to: &Destination, message: impl Into<Message> + Send) -> Result<()> {
        self.0.enqueue(to, message).await.map(drop)
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}
