//! A handler takes a state that the worker does not have.

use mq_core::{State, Subscription, Worker};

async fn handle(State(_): State<String>) {}

fn main() {
    let broker = mq_memory::Memory::new();
    let _ = Worker::new(&broker, Subscription::queue("orders")).state(7_u32).run(handle);
}
