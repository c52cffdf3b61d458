//! What a client does with a topology as a whole.

use std::sync::Arc;

use lapin::options::ExchangeUnbindOptions;
use mq_core::{Error, ErrorKind, Result};

use super::{Named, Part, Topology, close, declare_parts, delete, differences, short};
use crate::{
    Amqp,
    connection::{Link, whole},
};

impl Amqp {
    /// Creates what of a topology is missing: exchanges, dead-letter homes, queues, bindings.
    ///
    /// Each of its [`lints`](Topology::lints) is logged as a warning. Creating a quorum queue takes
    /// 2 s longer, as with [`declare`](mq_core::Broker::declare).
    ///
    /// # Errors
    /// Nothing was created: [`InvalidName`](ErrorKind::InvalidName);
    /// [`Config`](ErrorKind::Config) for a binding that cannot be, settings that exclude each other,
    /// and a queue or an exchange to which [`AmqpBuilder`](crate::AmqpBuilder) gave other settings.
    /// Some parts may exist: [`Mismatch`](ErrorKind::Mismatch) shows both sides;
    /// [`NotFound`](ErrorKind::NotFound) for a place of the broker's own dead letters;
    /// [`Permission`](ErrorKind::Permission); and what keeps the broker from answering.
    ///
    /// # Cancel safety
    /// Dropped, it goes on to its end; calling it again is harmless.
    pub async fn declare_topology(&self, topology: &Topology) -> Result<()> {
        const OPERATION: &str = "declare";
        let (uplink, topology) = (Arc::clone(self.consuming()), topology.clone());
        // What is wrong with it is told without a broker.
        parts(&uplink.settings().named, OPERATION, &topology)?;
        for lint in topology.lints() {
            tracing::warn!(%lint, "a topology can lose messages");
        }
        whole(OPERATION, async move {
            let link = uplink.link(OPERATION).await?;
            declare_topology(&link, &topology).await?;
            uplink.remember(topology.into());
            Ok(())
        })
        .await
    }

    /// Checks that the exchanges and queues of a topology, and their homes, are there with these
    /// settings. Changes nothing. AMQP has no way to look at bindings.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) or [`Mismatch`](ErrorKind::Mismatch) names every part that
    /// is missing or different, see [`Error::parts`]; and the others of
    /// [`declare_topology`](Self::declare_topology).
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn verify_topology(&self, topology: &Topology) -> Result<()> {
        const OPERATION: &str = "verify";
        let uplink = Arc::clone(self.consuming());
        let parts = parts(&uplink.settings().named, OPERATION, topology)?;
        whole(OPERATION, async move {
            let link = uplink.link(OPERATION).await?;
            Error::differences(OPERATION, differences(&link, OPERATION, &parts).await?)
        })
        .await
    }

    /// Deletes the queues of a topology with their dead-letter homes, and then its exchanges. What
    /// is not there is no error. A home that holds letters stays.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse): nothing was deleted if one of the queues holds messages or has a
    /// consumer; an exchange to which something else is bound stays, and so do those after it, in
    /// alphabetical order. And the others of [`declare_topology`](Self::declare_topology).
    ///
    /// # Cancel safety
    /// Dropped, it goes on to its end; calling it again is harmless.
    pub async fn delete_topology(&self, topology: &Topology) -> Result<()> {
        let uplink = Arc::clone(self.consuming());
        let topology = topology.clone();
        let parts = topology.parts(delete::DELETE)?;
        whole(delete::DELETE, async move {
            let link = uplink.link(delete::DELETE).await?;
            delete_parts(&link, &topology, parts).await?;
            uplink.forget(&topology.into());
            Ok(())
        })
        .await
    }
}

/// Creates what is missing.
pub(crate) async fn declare_topology(link: &Link, topology: &Topology) -> Result<()> {
    const OPERATION: &str = "declare";
    declare_parts(link, OPERATION, parts(link.named(), OPERATION, topology)?).await
}

/// The parts of a topology that does not contradict what the client was told.
fn parts(named: &Named, operation: &'static str, topology: &Topology) -> Result<Vec<Part>> {
    let parts = topology.parts(operation)?;
    match named.against(topology) {
        None => Ok(parts),
        Some((what, name)) => {
            let text = "the topology and the settings of the connection differ";
            Err(Error::new(ErrorKind::Config, operation, text)
                .with(what, name)
                .help("give the topology to `AmqpBuilder::topology`, or leave it out there"))
        }
    }
}

async fn delete_parts(link: &Link, topology: &Topology, parts: Vec<Part>) -> Result<()> {
    let queues = topology.deletions();
    for queue in &queues {
        queue.check(link, false).await?;
    }
    for queue in &queues {
        queue.delete(link).await?;
    }
    // What hangs on an exchange would keep it.
    for part in &parts {
        if let Part::Hang {
            to,
            from,
            key,
            arguments,
        } = part
        {
            let channel = link.channel(delete::DELETE).await?;
            let (to, from) = (short(delete::DELETE, to)?, short(delete::DELETE, from)?);
            let key = short(delete::DELETE, key)?;
            let options = ExchangeUnbindOptions::default();
            let unbind = channel.exchange_unbind(to, from, key, options, arguments.clone());
            match link.answer(delete::DELETE, unbind).await {
                Ok(()) => close(link, delete::DELETE, channel).await,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(part.name(error)),
            }
        }
    }
    for (name, _) in topology.exchanges() {
        delete::exchange(link, name).await?;
    }
    Ok(())
}
