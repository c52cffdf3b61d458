//! Consumers with planted bugs, on the in-process broker.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use mq_memory::core::{Broker, Consumer, Message, Publisher, Subscription};
use mq_testkit::{
    checker::Claim,
    history::{Event, Tag},
};

use crate::lab::{Bench, Lab, QUEUE, ack, effect, handle_the_rest, next, received, record};

const COUNT: u64 = 40;

/// The process dies between the two steps, at one of its first messages.
pub(crate) fn ack_before_effect(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let mut consumer = bench.consumer(5).await;
        for left in (0..=lab.below(COUNT)).rev() {
            let delivery = next(&mut consumer).await.expect("a delivery");
            let tag = received(&recorder, &delivery);
            if lab.bug {
                ack(&recorder, delivery, &tag);
                if left == 0 {
                    break;
                }
                record(&recorder, Event::effect(QUEUE, &tag));
            } else {
                effect(&recorder, &delivery, &tag);
                if left == 0 {
                    break;
                }
                ack(&recorder, delivery, &tag);
            }
        }
        drop(consumer);
        handle_the_rest(lab, &bench).await;
        lab.drained(&bench).await;
    });
}

/// The process is told to stop while it holds more than it has handled.
pub(crate) fn drain_drops_leftovers(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let mut consumer = bench.consumer(8).await;
        let mut held = Vec::new();
        while held.len() < 8 {
            consumer
                .receive_many(&mut held, 8)
                .await
                .expect("deliveries");
        }
        let leftovers = held.split_off(1 + lab.below(6) as usize);
        for delivery in held {
            let tag = received(&recorder, &delivery);
            effect(&recorder, &delivery, &tag);
            ack(&recorder, delivery, &tag);
        }
        for delivery in leftovers {
            if lab.bug {
                delivery.ack().expect("not stale");
            } else {
                delivery.into_settlement().release().expect("not stale");
            }
        }
        consumer.close().await.expect("closed");
        handle_the_rest(lab, &bench).await;
        lab.drained(&bench).await;
    });
}

pub(crate) fn lively() -> Claim {
    Claim::at_least_once().stuck_after(STUCK_AFTER)
}

/// One message fails however often it is tried.
pub(crate) fn requeue_without_budget(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let poison = lab.below(COUNT);
        let mut consumer = bench.consumer(1).await;
        let begun = Instant::now();
        let end = STUCK_AFTER + STUCK_AFTER / 2;
        while begun.elapsed() < end
            && let Some(delivery) = next(&mut consumer).await
        {
            let tag = received(&recorder, &delivery);
            if tag.seq() != poison {
                effect(&recorder, &delivery, &tag);
                ack(&recorder, delivery, &tag);
            } else if lab.bug || delivery.attempt() < 3 {
                // Else the hot loop would write more than anybody wants to read.
                std::thread::sleep(Duration::from_millis(1));
                delivery.into_settlement().requeue().expect("not stale");
            } else {
                delivery
                    .into_settlement()
                    .reject("it never works")
                    .expect("not stale");
            }
        }
        drop(consumer);
        if !lab.bug {
            // Where it is put aside it has its effect.
            let dead = Subscription::queue(format!("{QUEUE}.dead"));
            let plan = mq_memory::core::ConsumePlan::new();
            let mut consumer = bench
                .broker
                .consumer(&dead, plan)
                .await
                .expect("a consumer");
            let delivery = next(&mut consumer).await.expect("the dead letter");
            let tag = Tag::from_payload(delivery.payload().expect("bytes")).expect("a tag");
            record(&recorder, Event::effect(QUEUE, &tag));
            delivery.ack().expect("not stale");
            lab.drained(&bench).await;
        }
    });
}

/// The channel is gone when the ack comes. The program remembers what it did until that is acked.
pub(crate) fn refused_ack(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let lost_at = lab.below(COUNT);
        let mut done: HashSet<Tag> = HashSet::new();
        let mut handled = 0;
        loop {
            let client = bench.broker.client();
            let plan = mq_memory::core::ConsumePlan::new().prefetch(1);
            let consumer = client.consumer(&Subscription::queue(QUEUE), plan).await;
            let mut consumer = consumer.expect("a consumer");
            let mut cut = false;
            while !cut && let Some(delivery) = next(&mut consumer).await {
                let tag = received(&recorder, &delivery);
                if !done.contains(&tag) {
                    effect(&recorder, &delivery, &tag);
                    done.insert(tag.clone());
                    handled += 1;
                    cut = handled == lost_at + 1;
                }
                if cut {
                    client.close().await.expect("closed");
                }
                let accepted = delivery.ack().is_ok();
                if accepted || lab.bug {
                    record(&recorder, Event::ack(QUEUE, &tag));
                    done.remove(&tag);
                }
            }
            if !cut {
                break;
            }
        }
        lab.drained(&bench).await;
    });
}

/// Two consumers, and a producer that sends twice what it is not sure of.
pub(crate) fn check_then_act(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.bench().await;
        let recorder = lab.recorder("producer");
        let tags = recorder.tags();
        for number in 0..COUNT {
            // Without one key for both, no broker would give the copies to two consumers at once.
            let tag = tags.next("");
            let copies = if number % 8 == lab.below(4) { 2 } else { 1 };
            for _ in 0..copies {
                record(&recorder, Event::send(&tag));
                let copy = Message::new(tag.to_payload(0));
                let outcome = bench.broker.publisher().publish(&bench.queue, copy).await;
                record(&recorder, Event::outcome(&tag, QUEUE, &outcome));
            }
        }
        let inbox = std::cell::RefCell::new(HashSet::new());
        let one = member(lab, &bench, &inbox);
        let other = member(lab, &bench, &inbox);
        tokio::join!(one, other);
        lab.drained(&bench).await;
    });
}

async fn member(lab: &Lab, bench: &Bench, inbox: &std::cell::RefCell<HashSet<Tag>>) {
    let recorder = lab.recorder("consumer");
    let mut consumer = bench.consumer(1).await;
    // Both are there before one of them begins.
    tokio::task::yield_now().await;
    while let Some(delivery) = next(&mut consumer).await {
        let tag = received(&recorder, &delivery);
        let is_new = if lab.bug {
            let is_new = !inbox.borrow().contains(&tag);
            // The effect takes a while.
            tokio::time::sleep(Duration::from_millis(10)).await;
            is_new
        } else {
            let is_new = inbox.borrow_mut().insert(tag.clone());
            tokio::time::sleep(Duration::from_millis(10)).await;
            is_new
        };
        if is_new {
            effect(&recorder, &delivery, &tag);
            inbox.borrow_mut().insert(tag.clone());
        }
        ack(&recorder, delivery, &tag);
    }
}

/// The inbox goes by message id. A message fails behind its effect, is put aside, and replayed.
pub(crate) fn new_id_on_replay(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let fails = lab.below(COUNT);
        let mut inbox = HashSet::new();
        for replayed in [false, true] {
            let mut consumer = bench.consumer(5).await;
            while let Some(delivery) = next(&mut consumer).await {
                let tag = received(&recorder, &delivery);
                if inbox.insert(delivery.id().clone()) {
                    effect(&recorder, &delivery, &tag);
                }
                if tag.seq() == fails && !replayed {
                    delivery
                        .into_settlement()
                        .reject("the answer was lost")
                        .expect("not stale");
                } else {
                    ack(&recorder, delivery, &tag);
                }
            }
            drop(consumer);
            if !replayed {
                replay(lab, &bench).await;
            }
        }
        lab.drained(&bench).await;
    });
}

async fn replay(lab: &Lab, bench: &Bench) {
    let dead = Subscription::queue(format!("{QUEUE}.dead"));
    let plan = mq_memory::core::ConsumePlan::new();
    let mut consumer = bench
        .broker
        .consumer(&dead, plan)
        .await
        .expect("a consumer");
    while let Some(delivery) = next(&mut consumer).await {
        let payload = delivery.payload().expect("bytes").clone();
        let copy = Message::new(payload).key(delivery.key().expect("a key").clone());
        let copy: Message = match lab.bug {
            true => copy.into(),
            false => copy.id(delivery.id().clone()).into(),
        };
        bench
            .broker
            .publisher()
            .publish(&bench.queue, copy)
            .await
            .expect("confirmed");
        delivery.ack().expect("not stale");
    }
}

/// At most once is to acknowledge, to wait for the broker's answer, and only then to begin.
pub(crate) fn late_ack(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let dies_at = lab.below(COUNT);
        let mut handled = 0;
        for _life in 0..2 {
            let recorder = lab.recorder("consumer");
            let mut consumer = bench.consumer(1).await;
            while let Some(delivery) = next(&mut consumer).await {
                handled += 1;
                let dies = handled == dies_at + 1;
                let payload = delivery.payload().expect("bytes").clone();
                let tag = Tag::from_payload(&payload).expect("a tag");
                if lab.bug {
                    record(&recorder, Event::deliver(QUEUE, &tag));
                    if dies {
                        break;
                    }
                    record(&recorder, Event::effect(QUEUE, &tag));
                    ack(&recorder, delivery, &tag);
                } else {
                    ack(&recorder, delivery, &tag);
                    consumer.settled().await.expect("settled");
                    record(&recorder, Event::deliver(QUEUE, &tag));
                    if dies {
                        break;
                    }
                    record(&recorder, Event::effect(QUEUE, &tag));
                }
            }
        }
    });
}

pub(crate) fn ordered() -> Claim {
    Claim::at_least_once().ordered()
}

/// Two runners take what comes, whatever its key; the second one is faster.
pub(crate) fn no_lanes(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let mut consumer = bench.consumer(6).await;
        loop {
            let mut held = Vec::new();
            while held.len() < 6
                && let Some(delivery) = next(&mut consumer).await
            {
                held.push(delivery);
            }
            if held.is_empty() {
                break;
            }
            if lab.bug {
                held.rotate_left(1 + lab.below(4) as usize);
            }
            for delivery in held {
                let tag = received(&recorder, &delivery);
                effect(&recorder, &delivery, &tag);
                ack(&recorder, delivery, &tag);
            }
        }
        lab.drained(&bench).await;
    });
}

/// A step in between passes on at most so many bytes.
pub(crate) fn payload_cut(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.filled(COUNT).await;
        let recorder = lab.recorder("consumer");
        let mut consumer = bench.consumer(5).await;
        while let Some(delivery) = next(&mut consumer).await {
            let payload = delivery.payload().expect("bytes");
            let limit = if lab.bug && lab.below(4) == 0 {
                70
            } else {
                usize::MAX
            };
            match Tag::from_payload(&payload[..payload.len().min(limit)]) {
                Ok(tag) => {
                    record(&recorder, Event::deliver(QUEUE, &tag));
                    effect(&recorder, &delivery, &tag);
                    ack(&recorder, delivery, &tag);
                }
                Err(corrupt) => {
                    record(&recorder, Event::corrupt(QUEUE, &corrupt));
                    delivery.ack().expect("not stale");
                }
            }
        }
        lab.drained(&bench).await;
    });
}

/// Longer than a busy machine keeps a program from running.
const STUCK_AFTER: Duration = Duration::from_secs(2);
