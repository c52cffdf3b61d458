//! A worker is asked for a guarantee that its broker cannot give.

use mq_core::{
    Broker, ConsumePlan, Guarantee, Outcome, Received, Result, Settlement, Subscription, Worker,
    dynamic::AnyBroker,
    guarantee::{Entry, Undone},
};

#[derive(Clone)]
struct ExactlyOnce;

impl Guarantee<AnyBroker> for ExactlyOnce {
    type Scope = ();
    type Session = ();
    fn plan(&self, _: &mut ConsumePlan) {}
    async fn start(&self, _: &AnyBroker, _: &mut <AnyBroker as Broker>::Consumer) -> Result<()> {
        Ok(())
    }
    async fn open(&self, _: &Received) -> Result<Entry<()>> {
        Ok(Entry::Run(()))
    }
    async fn close(&self, (): (), outcome: Outcome) -> Result<Outcome> {
        Ok(outcome)
    }
    async fn settle(&self, _: &(), _: Settlement, _: Outcome) -> Result<(), Undone> {
        Ok(())
    }
}

fn main() {
    let broker = mq_memory::Memory::new();
    let _ = Worker::new(&broker, Subscription::queue("orders")).guarantee(ExactlyOnce);
}
