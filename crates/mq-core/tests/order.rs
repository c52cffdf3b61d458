//! Order by key under concurrency, for any mix of keys, runners, delays and failures.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::HashMap, sync::Arc};

use common::{Bench, run_until};
use mq_core::{Attempt, BatchSize, Classify, Failure, Json, Message, Received, Worker};
use proptest::prelude::*;
use tokio::sync::mpsc;

/// One message: its key, if any, how often its handler yields, and how many attempts fail.
type Plan = (Option<u8>, u8, u32);

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    prop::collection::vec((prop::option::of(0..4_u8), 0..4_u8, 0..3_u32), 1..60)
}

async fn publish(plans: &[Plan]) -> Bench {
    let bench = Bench::new().await;
    for (n, (key, ..)) in plans.iter().enumerate() {
        let message = Message::json(&n).expect("JSON");
        bench
            .publish(match key {
                Some(key) => message.key(vec![*key]),
                None => message,
            })
            .await;
    }
    bench
}

/// Each message once, and those of a key in the order they were published.
fn check(plans: &[Plan], seen: &[usize]) -> Result<(), TestCaseError> {
    let mut last = HashMap::new();
    for n in seen {
        if let Some(key) = plans[*n].0 {
            let before = last.insert(key, *n);
            prop_assert!(
                before.is_none_or(|before| before < *n),
                "key {key}: {n} in {seen:?}"
            );
        }
    }
    let mut all = seen.to_vec();
    all.sort_unstable();
    prop_assert_eq!(all, (0..plans.len()).collect::<Vec<_>>());
    Ok(())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn messages_of_a_key_are_handled_in_order(plans in plans(), runners in 1..9_usize) {
        let seen = block_on(async {
            let bench = publish(&plans).await;
            let (tx, rx) = mpsc::unbounded_channel();
            let script = Arc::new(plans.clone());
            let worker = Worker::new(&bench.broker, bench.source());
            let run = worker.concurrency(runners).ordered_by_key().run(
                move |Json(n): Json<usize>, Attempt(attempt): Attempt| {
                    let (tx, script) = (tx.clone(), Arc::clone(&script));
                    async move {
                        let (key, yields, fails) = script[n];
                        for _ in 0..yields {
                            tokio::task::yield_now().await;
                        }
                        if key.is_some() && attempt <= fails {
                            return Err(Failure::from("as planned"));
                        }
                        tx.send(n).transient()
                    }
                },
            );
            run_until(run, rx, plans.len()).await
        });
        check(&plans, &seen)?;
    }

    #[test]
    fn batches_keep_the_order_of_a_key(
        plans in plans(),
        runners in 1..5_usize,
        size in 1..9_usize,
    ) {
        let seen = block_on(async {
            let bench = publish(&plans).await;
            let (tx, rx) = mpsc::unbounded_channel();
            let script = Arc::new(plans.clone());
            let size = BatchSize::new(size, std::time::Duration::from_millis(1));
            let worker = Worker::new(&bench.broker, bench.source());
            let run = worker.concurrency(runners).ordered_by_key().run_batch(
                size,
                move |batch: Vec<Received>| {
                    let (tx, script) = (tx.clone(), Arc::clone(&script));
                    async move {
                        for message in batch {
                            let n: usize = message.decode::<mq_core::codec::JsonCodec, _>()?;
                            for _ in 0..script[n].1 {
                                tokio::task::yield_now().await;
                            }
                            tx.send(n).transient()?;
                        }
                        Ok::<_, Failure>(())
                    }
                },
            );
            run_until(run, rx, plans.len()).await
        });
        check(&plans, &seen)?;
    }
}
