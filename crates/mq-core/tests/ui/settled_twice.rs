//! A delivery is settled once.

use mq_core::Settlement;

fn settle(settlement: Settlement) {
    let _ = settlement.ack();
    let _ = settlement.requeue();
}

fn main() {}
