//! Connections that live for 0.5 to 1.5 s: each that a proxy carries is ended when its time has come.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mq_chaos::containers::now;
use mq_testkit::proxy::Direction;
use tokio::time::{interval, sleep_until};

use super::{Run, faults::Made};
use crate::{
    Result, in_flight,
    schedule::{Dice, Step},
};

impl Run {
    /// Ends connections until the step is over: every other one by a reset, as a firewall does, the rest by a regular end.
    pub(super) async fn short_lives(&mut self, step: Step) -> Result<Made> {
        let links = self.links.as_ref().ok_or("there is no proxy")?;
        let mut dice = Dice::new(self.plan.seed);
        let mut ends: [HashMap<u64, Instant>; 2] = Default::default();
        let (files, struck) = (self.crew.files(None), now());
        let start = Instant::now();
        let mut ticks = interval(LOOK);
        let mut ended = 0_u64;
        while start.elapsed() < step.lasts {
            ticks.tick().await;
            for (proxy, ends) in links.all().into_iter().zip(&mut ends) {
                let there = proxy.connections();
                ends.retain(|number, _| there.iter().any(|one| one.number() == *number));
                for connection in there {
                    let number = connection.number();
                    let end = ends
                        .entry(number)
                        .or_insert_with(|| Instant::now() + dice.between(LIFE));
                    if *end > Instant::now() {
                        continue;
                    }
                    match number.is_multiple_of(2) {
                        true => connection.cut(),
                        false => connection.set(Direction::Both, mq_testkit::proxy::Fault::Reset),
                    }
                    // Until it is gone from the list.
                    *end += Duration::from_secs(1);
                    ended += 1;
                }
            }
        }
        let in_flight = in_flight::at(&files, struck, struck)?;
        self.broker_answers().await?;
        // A process that has just lost its connection starts, or connects, once more.
        sleep_until((Instant::now() + Duration::from_secs(2)).into()).await;
        self.crew.ready(super::faults::READY).await?;
        Ok(Made {
            in_flight,
            ended,
            ..Made::default()
        })
    }
}

/// Milliseconds that a connection lives.
const LIFE: [u64; 2] = [500, 1_500];
const LOOK: Duration = Duration::from_millis(20);
