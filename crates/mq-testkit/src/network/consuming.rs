//! The fault strikes a consumer.

use std::{future::poll_fn, pin::pin, task::Poll};

use mq_core::{Broker, Consumer};

use super::{
    Proxied,
    matrix::{Moment, NARROW, Toxic},
    stage::{ConsumerOf, Stage, within},
};
use crate::{
    Check, Failure,
    failure::ensure,
    proxy::{Direction, Fault},
};

pub(super) async fn run<F: Proxied>(mut stage: Stage<F>) -> Check {
    let outsider = stage.outsider().await?;
    stage.publish(&outsider, 40, SMALL).await?;
    let survivable = stage.cell.survivable();
    let (opened, before) = if stage.cell.moment == Moment::Handshake {
        handshake(&stage).await?
    } else {
        let client = stage.connect().await??;
        let mut consumer = stage.consumer(&client).await??;
        let before = strike(&mut stage, &outsider, &mut consumer).await?;
        stage.look();
        (Some((client, consumer)), before)
    };
    // Under load.
    stage.publish(&outsider, 40, SMALL).await?;
    match opened {
        Some((client, consumer)) if stage.cell.toxic == Toxic::SlowClose => {
            let _ = within("closing the consumer", consumer.close()).await?;
            stage.close(client).await?;
        }
        Some((client, mut consumer)) => {
            let mut goes_on = stage.receive_through(&mut consumer, before).await?;
            // What was marked may be lost on its way; then it comes again.
            let settled = within("settled", consumer.settled()).await?;
            ensure!(
                (goes_on && settled.is_ok()) || !survivable,
                "the consumer did not go on: {settled:?}"
            );
            stage.acted(before).await?;
            stage.proxy.clear();
            if goes_on {
                stage.publish(&outsider, 20, SMALL).await?;
                goes_on = stage.receive(&mut consumer).await?;
                ensure!(
                    goes_on || !survivable,
                    "the consumer did not go on afterwards"
                );
            }
            let _ = within("closing the consumer", consumer.close()).await?;
            stage.close(client).await?;
        }
        None if survivable => return Err(Failure::new("the client could not connect")),
        None => {}
    }
    stage.acted(before).await?;
    stage.proxy.clear();
    stage.publish(&outsider, 20, SMALL).await?;
    let client = stage.connect().await??;
    stage.judge(outsider, client).await
}

type Opened<F> = Option<(<F as Proxied>::Broker, ConsumerOf<F>)>;

/// Connects and opens a consumer while the fault strikes.
async fn handshake<F: Proxied>(stage: &Stage<F>) -> Check<(Opened<F>, u64)> {
    let opening = async {
        let Ok(client) = stage.connect().await? else {
            return Ok(None);
        };
        match stage.consumer(&client).await? {
            Ok(consumer) => Ok(Some((client, consumer))),
            Err(_) => {
                let _ = within("close", client.close()).await?;
                Ok(None)
            }
        }
    };
    stage.struck_meanwhile(opening).await
}

/// Strikes at the cell's moment, and says how often faults had acted before.
async fn strike<F: Proxied>(
    stage: &mut Stage<F>,
    outsider: &F::Broker,
    consumer: &mut ConsumerOf<F>,
) -> Check<u64> {
    let open = stage.take(consumer, 40).await?;
    if stage.cell.moment != Moment::MidCommit {
        for delivery in open {
            delivery.ack()?;
        }
        within("settled", consumer.settled()).await??;
        if stage.cell.moment == Moment::MidFrame {
            let passed = stage.proxy.counters();
            stage.proxy.set(Direction::ToClient, NARROW);
            stage.publish(outsider, 8, LARGE).await?;
            let part = passed.to_client + 16_384;
            let some = stage.until(|now| now.to_client >= part).await?;
            let all = passed.to_client + 8 * u64::try_from(LARGE)?;
            ensure!(some.to_client < all, "all had passed already");
        }
        return Ok(stage.strike());
    }
    let passed = stage.proxy.counters();
    stage.proxy.set(Direction::ToBroker, Fault::BlackHole);
    for delivery in open {
        delivery.ack()?;
    }
    let mut settled = pin!(consumer.settled());
    let pending = poll_fn(|context| Poll::Ready(settled.as_mut().poll(context).is_pending())).await;
    ensure!(pending, "settled before it could be");
    tokio::select! {
        settled = &mut settled => {
            return Err(Failure::new(format!("settled through a black hole: {settled:?}")));
        }
        held = stage.until(|now| now.acted > passed.acted) => held?,
    };
    let before = stage.strike_alone();
    let settled = within("settled", settled).await?;
    ensure!(settled.is_ok() || !stage.cell.survivable(), "{settled:?}");
    Ok(before)
}

const SMALL: usize = 1000;
const LARGE: usize = 16_384;
