//! Transactions with planted bugs, on a small model of a log that has them: a record counts for
//! those who read committed once its partition has the marker of its transaction.

use mq_testkit::history::{Event, Tag};

use crate::{
    lab::{Lab, QUEUE, record, some},
    logs::at,
};

const COUNT: u64 = 60;
const BATCH: usize = 6;

/// A record of a transaction, and whether a marker says that it was committed.
struct Record {
    tag: Tag,
    committed: bool,
}

/// Reads a queue, writes effects and offset in one transaction, and is aborted now and then.
pub(crate) fn no_seek_back(lab: &Lab) {
    let producer = lab.recorder("producer");
    let input = some(&producer.tags(), COUNT);
    for tag in &input {
        record(&producer, Event::send(tag));
        record(&producer, Event::ok(tag));
    }
    let copier = lab.recorder("copier");
    let mut position = 0;
    let mut number = 0;
    while position < input.len() {
        number += 1;
        let tx = format!("copier-{number}");
        let batch = position..(position + BATCH).min(input.len());
        for offset in batch.clone() {
            let tag = &input[offset];
            record(
                &copier,
                Event::deliver(QUEUE, tag).at(QUEUE, at(offset as u64)),
            );
            record(&copier, Event::effect(QUEUE, tag).tx(&tx));
        }
        // The offset goes with the transaction: there is no commit of its own to record.
        if lab.below(3) == 0 {
            record(&copier, Event::aborted(&tx));
            position = if lab.bug { batch.end } else { batch.start };
        } else {
            record(&copier, Event::committed(&tx));
            position = batch.end;
        }
    }
}

pub(crate) fn read_uncommitted(lab: &Lab) {
    let log = transactions(lab, false);
    let reader = lab.recorder("reader");
    for Record { tag, committed } in log.iter().flatten() {
        if *committed || lab.bug {
            record(&reader, Event::deliver(QUEUE, tag));
            record(&reader, Event::effect(QUEUE, tag));
        }
    }
}

pub(crate) fn missing_marker(lab: &Lab) {
    let log = transactions(lab, lab.bug);
    let reader = lab.recorder("reader");
    for Record { tag, .. } in log.iter().flatten().filter(|record| record.committed) {
        record(&reader, Event::deliver(QUEUE, tag));
        record(&reader, Event::effect(QUEUE, tag));
    }
}

/// Writes transactions over two partitions, some of them aborted; a marker may be missing.
fn transactions(lab: &Lab, misses_markers: bool) -> [Vec<Record>; 2] {
    let producer = lab.recorder("producer");
    let mut partitions = [Vec::new(), Vec::new()];
    let tags = some(&producer.tags(), COUNT);
    for (number, batch) in tags.chunks(BATCH).enumerate() {
        let tx = format!("producer-{number}");
        for tag in batch {
            record(&producer, Event::send(tag).tx(&tx));
            record(&producer, Event::ok(tag));
        }
        let commits = number == 0 || lab.below(3) > 0;
        let misses = misses_markers && lab.below(2) == 0;
        for (index, tag) in batch.iter().enumerate() {
            let partition = index % 2;
            let committed = commits && !(misses && partition == 1);
            let tag = tag.clone();
            partitions[partition].push(Record { tag, committed });
        }
        let event = match commits {
            true => Event::committed(&tx),
            false => Event::aborted(&tx),
        };
        record(&producer, event);
    }
    partitions
}
