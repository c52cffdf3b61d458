//! The publisher that waits for no answer cannot stand in for one that does.

use mq_core::{Broker, Publisher};

fn needs_confirms(_: impl Publisher) {}

fn main() {
    needs_confirms(mq_memory::Memory::new().unconfirmed());
}
