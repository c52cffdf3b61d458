//! A handler returns what is no outcome.

use mq_core::{Attempt, Subscription, Worker};

async fn handle(_: Attempt) -> u32 {
    7
}

fn main() {
    let broker = mq_memory::Memory::new();
    let _ = Worker::new(&broker, Subscription::queue("orders")).run(handle);
}
