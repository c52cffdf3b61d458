//! The fault strikes an admin, who declares.

use mq_core::{Broker, Destination};
use tokio::task::JoinHandle;

use super::{
    Proxied,
    matrix::{Moment, Toxic},
    stage::{Stage, within},
};
use crate::{
    Check, Failure,
    failure::ensure,
    proxy::{Direction, Fault},
};

/// A declaration under way.
type Pending = JoinHandle<mq_core::Result<()>>;

pub(super) async fn run<F: Proxied>(mut stage: Stage<F>) -> Check {
    let outsider = stage.outsider().await?;
    stage.publish(&outsider, 20, SMALL).await?;
    let survivable = stage.cell.survivable();
    let asked = [stage.another(1), stage.another(2)];
    let (client, pending, before) = if stage.cell.moment == Moment::Handshake {
        let connecting = async { Ok(stage.connect().await?.ok()) };
        let (client, before) = stage.struck_meanwhile(connecting).await?;
        (client, None, before)
    } else {
        let client = stage.connect().await??;
        // What it connects for this is there when the fault strikes.
        within("verifying", client.verify(stage.queue())).await??;
        stage.look();
        let (pending, before) = strike(&stage, &client, &asked[0]).await?;
        (Some(client), pending, before)
    };
    let mut declared = [false; 2];
    let client = match client {
        // It ends in the middle of it.
        Some(client) if stage.cell.toxic == Toxic::SlowClose => {
            stage.close(client).await?;
            if let Some(pending) = pending {
                declared[0] = within("declaring", pending).await??.is_ok();
            }
            None
        }
        Some(client) => {
            let first = match pending {
                Some(pending) => within("declaring", pending).await??,
                None => within("declaring", client.declare(&asked[0])).await?,
            };
            let second = within("declaring", client.declare(&asked[1])).await?;
            let seen = within("verifying", client.verify(stage.queue())).await?;
            ensure!(
                !survivable || (first.is_ok() && second.is_ok() && seen.is_ok()),
                "the admin did not go on: {first:?}, {second:?}, {seen:?}"
            );
            declared = [first.is_ok(), second.is_ok()];
            Some(client)
        }
        None if survivable => return Err(Failure::new("the client could not connect")),
        None => None,
    };
    stage.acted(before).await?;
    stage.proxy.clear();

    // An answer is a promise.
    for (queue, declared) in asked.iter().zip(declared) {
        if declared {
            within("verifying", outsider.verify(queue)).await??;
        }
    }
    // The same client if it can; else a new one, as after a restart.
    if let Some(client) = client {
        let again = within("declaring", client.declare(&asked[0])).await?;
        ensure!(
            again.is_ok() || !survivable,
            "the admin did not go on afterwards: {again:?}"
        );
        stage.close(client).await?;
    }
    let client = stage.connect().await??;
    for queue in &asked {
        within("declaring", client.declare(queue)).await??;
        within("verifying", client.verify(queue)).await??;
    }
    stage.publish(&client, 20, SMALL).await?;
    stage.judge(outsider, client).await
}

/// Strikes at the cell's moment: what is being declared then, and how often faults had acted before.
async fn strike<F: Proxied>(
    stage: &Stage<F>,
    client: &F::Broker,
    queue: &Destination,
) -> Check<(Option<Pending>, u64)> {
    let passed = stage.proxy.counters();
    let (direction, fault, part) = match stage.cell.moment {
        Moment::Idle | Moment::Handshake => return Ok((None, stage.strike())),
        Moment::MidFrame => (Direction::ToBroker, CRAWL, PART),
        Moment::MidCommit => (Direction::ToClient, Fault::BlackHole, 1),
    };
    stage.proxy.set(direction, fault);
    let (client, queue) = (client.clone(), queue.clone());
    let pending = tokio::spawn(async move { client.declare(&queue).await });
    stage.until(|now| now.acted >= passed.acted + part).await?;
    ensure!(!pending.is_finished(), "all had passed already");
    Ok((Some(pending), stage.strike_alone()))
}

const SMALL: usize = 1000;
/// Five bytes, twenty times a second.
const CRAWL: Fault = Fault::Bandwidth {
    bytes_per_second: 100,
};
/// So many times five bytes are a part of the request, with what goes before it, and not all of it.
const PART: u64 = 10;
