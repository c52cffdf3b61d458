//! Producers with planted bugs, on the in-process broker.

use mq_memory::{
    Memory,
    core::{Broker, Destination, ErrorKind, Publisher},
};
use mq_testkit::history::Event;

use crate::lab::{Bench, Lab, QUEUE, handle_the_rest, message, record, some};

const COUNT: u64 = 40;

/// The queue is full now and then.
pub(crate) fn ignore_a_nack(lab: &Lab) {
    lab.block_on(async {
        let room = 5 + lab.below(20) as usize;
        let bench = Bench::on(Memory::builder().max_messages(room).build()).await;
        let recorder = lab.recorder("producer");
        let publisher = bench.broker.publisher();
        for tag in some(&recorder.tags(), COUNT) {
            loop {
                record(&recorder, Event::send(&tag));
                let outcome = publisher.publish(&bench.queue, message(&tag)).await;
                if outcome.is_ok() || lab.bug {
                    record(&recorder, Event::ok(&tag));
                    break;
                }
                record(&recorder, Event::outcome(&tag, QUEUE, &outcome));
                handle_the_rest(lab, &bench).await;
            }
        }
        handle_the_rest(lab, &bench).await;
        lab.drained(&bench).await;
    });
}

/// Some messages go to a queue that is not there.
pub(crate) fn unroutable(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.bench().await;
        let nowhere = Destination::queue("ordres");
        let recorder = lab.recorder("producer");
        let publisher = bench.broker.publisher();
        for tag in some(&recorder.tags(), COUNT) {
            record(&recorder, Event::send(&tag));
            let to = if lab.below(5) == 0 {
                &nowhere
            } else {
                &bench.queue
            };
            let outcome = publisher.publish(to, message(&tag)).await;
            let returned = outcome
                .as_ref()
                .is_err_and(|e| e.kind() == ErrorKind::Unroutable);
            assert_eq!(returned, to == &nowhere, "{outcome:?}");
            if returned && lab.bug {
                record(&recorder, Event::ok(&tag));
            } else {
                record(&recorder, Event::outcome(&tag, QUEUE, &outcome));
            }
            if returned && !lab.bug {
                bench.send(&recorder, &tag).await;
            }
        }
        handle_the_rest(lab, &bench).await;
        lab.drained(&bench).await;
    });
}

/// The relay dies between its two steps. A message is promised once its row is committed.
pub(crate) fn mark_before_publish(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.bench().await;
        let recorder = lab.recorder("service");
        let mut rows = Vec::new();
        for tag in some(&recorder.tags(), COUNT) {
            record(&recorder, Event::send(&tag));
            rows.push((tag.clone(), false));
            record(&recorder, Event::ok(&tag));
        }
        let dies_at = lab.below(COUNT) as usize;
        for life in 0..2 {
            for (number, (tag, marked)) in rows.iter_mut().enumerate() {
                if *marked {
                    continue;
                }
                let dies = life == 0 && number == dies_at;
                if lab.bug {
                    *marked = true;
                    if dies {
                        break;
                    }
                }
                let sent = bench
                    .broker
                    .publisher()
                    .publish(&bench.queue, message(tag))
                    .await;
                sent.expect("confirmed");
                if dies {
                    break;
                }
                *marked = true;
            }
        }
        handle_the_rest(lab, &bench).await;
        lab.drained(&bench).await;
    });
}

/// Some transactions of the service's database are rolled back.
pub(crate) fn phantom(lab: &Lab) {
    lab.block_on(async {
        let bench = lab.bench().await;
        let recorder = lab.recorder("service");
        let publisher = bench.broker.publisher();
        for tag in some(&recorder.tags(), COUNT) {
            let rolled_back = lab.below(4) == 0;
            if lab.bug {
                publisher
                    .publish(&bench.queue, message(&tag))
                    .await
                    .expect("confirmed");
            }
            if rolled_back {
                continue;
            }
            record(&recorder, Event::send(&tag));
            record(&recorder, Event::ok(&tag));
            if !lab.bug {
                publisher
                    .publish(&bench.queue, message(&tag))
                    .await
                    .expect("confirmed");
            }
        }
        handle_the_rest(lab, &bench).await;
        lab.drained(&bench).await;
    });
}
