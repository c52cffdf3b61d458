//! The fault strikes a publisher.

use mq_core::Broker;

use super::{
    Proxied,
    matrix::{Moment, NARROW, Toxic},
    stage::{InFlight, Stage},
};
use crate::{
    Check, Failure,
    failure::ensure,
    proxy::{Direction, Fault},
};

type Pending<F> = InFlight<<<F as Proxied>::Broker as Broker>::Publisher>;

pub(super) async fn run<F: Proxied>(mut stage: Stage<F>) -> Check {
    let outsider = stage.outsider().await?;
    let survivable = stage.cell.survivable();
    let (client, pending, before) = if stage.cell.moment == Moment::Handshake {
        let connecting = async { Ok(stage.connect().await?.ok()) };
        let (client, before) = stage.struck_meanwhile(connecting).await?;
        (client, Pending::<F>::new(), before)
    } else {
        let client = stage.connect().await??;
        stage.publish(&client, 20, SMALL).await?;
        stage.look();
        let (pending, before) = strike(&mut stage, &client).await?;
        (Some(client), pending, before)
    };
    let client = match client {
        // It ends in the middle of it.
        Some(client) if stage.cell.toxic == Toxic::SlowClose => {
            stage.close(client).await?;
            stage.outcomes(pending).await?;
            None
        }
        Some(client) => {
            let more = stage.enqueue(&client, 40, SMALL).await?;
            let all = more.len() == 40;
            let first = stage.outcomes(pending).await?;
            let confirmed = all & first & stage.outcomes(more).await?;
            ensure!(confirmed || !survivable, "the publisher did not go on");
            Some(client)
        }
        None if survivable => return Err(Failure::new("the client could not connect")),
        None => None,
    };
    stage.acted(before).await?;
    stage.proxy.clear();

    // The same client if it can; else a new one, as after a restart.
    if let Some(client) = client {
        let goes_on = stage.try_publish(&client, 20, SMALL).await?;
        ensure!(
            goes_on || !survivable,
            "the publisher did not go on afterwards"
        );
        stage.close(client).await?;
    }
    let client = stage.connect().await??;
    stage.publish(&client, 20, SMALL).await?;
    stage.judge(outsider, client).await
}

/// Strikes at the cell's moment: what is in flight then, and how often faults had acted before.
async fn strike<F: Proxied>(stage: &mut Stage<F>, client: &F::Broker) -> Check<(Pending<F>, u64)> {
    let passed = stage.proxy.counters();
    match stage.cell.moment {
        Moment::Idle | Moment::Handshake => Ok((Pending::<F>::new(), stage.strike())),
        Moment::MidFrame => {
            stage.proxy.set(Direction::ToBroker, NARROW);
            // One byte a write is slow work for a machine that has other work.
            let count = if stage.cell.toxic == Toxic::Slices {
                3
            } else {
                8
            };
            let pending = stage.enqueue(client, count, LARGE).await?;
            let part = passed.to_broker + 16_384;
            let some = stage.until(|now| now.to_broker >= part).await?;
            let all = passed.to_broker + u64::try_from(count * LARGE)?;
            ensure!(some.to_broker < all, "all had passed already");
            Ok((pending, stage.strike()))
        }
        Moment::MidCommit => {
            stage.proxy.set(Direction::ToClient, Fault::BlackHole);
            let pending = stage.enqueue(client, 20, SMALL).await?;
            // The broker has answered.
            stage.until(|now| now.acted > passed.acted).await?;
            Ok((pending, stage.strike_alone()))
        }
    }
}

const SMALL: usize = 1000;
const LARGE: usize = 32_768;
