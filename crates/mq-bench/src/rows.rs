//! What is measured: the rows of the table, each with ours, the best bare client, and the others.

use crate::arms::find;

/// What a run needs before it, and what is looked at after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// An empty queue, which holds all messages afterwards.
    Publish,
    /// A queue with all messages, which is empty afterwards.
    Consume,
    /// A topic with all messages, which a fresh group reads.
    Read,
    /// The same, and an empty topic, which holds all messages afterwards.
    Copy,
    /// Nothing outside of the process.
    Alone,
}

impl Work {
    /// True if all arms of a row read the same topic, which is dear to fill.
    pub(crate) fn shares_a_topic(self) -> bool {
        matches!(self, Self::Read | Self::Copy)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    Memory,
    Amqp,
    Kafka,
}

impl Broker {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Amqp => "amqp",
            Self::Kafka => "kafka",
        }
    }
}

/// A row of the report.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) broker: Broker,
    pub(crate) work: Work,
    /// `classic` or `quorum`; empty where there is no choice.
    pub(crate) queue: &'static str,
    pub(crate) size: usize,
    pub(crate) ours: &'static str,
    /// The arm that is measured against itself, so that the noise of the machine is known.
    pub(crate) control: &'static str,
    pub(crate) peers: &'static [Peer],
    /// Messages of the first run of each arm, from which the others are made to last as long as they should.
    pub(crate) first: u64,
}

/// What ours is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) arm: &'static str,
    /// Ours to it, in messages a second.
    pub(crate) floor: Option<f64>,
    pub(crate) aim: Option<f64>,
    /// Ours to it, in processor time of a message: at most.
    pub(crate) cpu: Option<f64>,
    /// The best bare client: ours has as much to do, so half of all blocks are below a ratio of one, and what is judged is the
    /// median. Elsewhere it is the worse end of the interval.
    pub(crate) best: bool,
}

const fn peer(arm: &'static str, floor: f64, aim: f64) -> Peer {
    Peer {
        arm,
        floor: Some(floor),
        aim: Some(aim),
        cpu: None,
        best: false,
    }
}

/// The best use of the bare client.
const fn best(arm: &'static str, floor: f64, aim: f64, cpu: Option<f64>) -> Peer {
    Peer {
        cpu,
        best: true,
        ..peer(arm, floor, aim)
    }
}

const fn with_cpu(arm: &'static str, floor: f64, aim: f64, cpu: f64) -> Peer {
    Peer {
        cpu: Some(cpu),
        ..peer(arm, floor, aim)
    }
}

/// Measured beside the others, without a goal.
const fn beside(arm: &'static str) -> Peer {
    Peer {
        arm,
        floor: None,
        aim: None,
        cpu: None,
        best: false,
    }
}

const PUBLISH: &[Peer] = &[
    beside("amqp/lapin, publish and confirm awaited each"),
    peer("amqp/lapin, publishes awaited, confirms joined", 1.8, 2.5),
    // Two shapes, since which one is the best depends on the machine: ours is to be as good as both.
    best("amqp/lapin at its best, bursts", 0.95, 1.0, Some(1.1)),
    best(
        "amqp/lapin at its best, polled at once",
        0.95,
        1.0,
        Some(1.1),
    ),
    peer("amqp/RustStream, transactions of 1000", 2.0, 2.3),
    beside("amqp/RustStream, 1000 polled at once"),
    peer("amqp/mq-bridge, send_batch", 1.7, 2.2),
    beside("amqp/mq-bridge, 8 send_batch at once"),
    beside("amqp/ours, batches"),
];
/// Those with a goal: a whole run is to end within an hour.
const PUBLISH_BRIEFLY: &[Peer] = &[PUBLISH[1], PUBLISH[2], PUBLISH[3], PUBLISH[4], PUBLISH[6]];
const CONSUME: &[Peer] = &[
    peer("amqp/lapin, each ack awaited", 2.5, 4.0),
    best("amqp/lapin at its best, consume", 0.95, 1.0, Some(1.1)),
    beside("amqp/RustStream, stream"),
];

/// A row of RabbitMQ, without its arms.
const fn amqp(name: &'static str, work: Work, queue: &'static str) -> Row {
    Row {
        name,
        broker: Broker::Amqp,
        work,
        queue,
        size: 256,
        ours: "",
        control: "",
        peers: &[],
        first: 20_000,
    }
}

/// A row of Kafka, without its arms.
const fn kafka(name: &'static str, work: Work, first: u64) -> Row {
    Row {
        name,
        broker: Broker::Kafka,
        work,
        queue: "",
        size: 256,
        ours: "",
        control: "",
        peers: &[],
        first,
    }
}

/// A row in one process, without its arms.
const fn memory(name: &'static str) -> Row {
    Row {
        name,
        broker: Broker::Memory,
        work: Work::Alone,
        queue: "",
        size: 64,
        ours: "",
        control: "",
        peers: &[],
        first: 500_000,
    }
}

/// All rows, in the order of the report.
pub(crate) const ROWS: &[Row] = &[
    Row {
        ours: "amqp/ours, publish",
        control: "amqp/lapin at its best, bursts",
        peers: PUBLISH,
        ..amqp(
            "publish with confirms, classic queue",
            Work::Publish,
            "classic",
        )
    },
    Row {
        ours: "amqp/ours, publish",
        control: "amqp/lapin at its best, bursts",
        peers: PUBLISH_BRIEFLY,
        ..amqp(
            "publish with confirms, quorum queue",
            Work::Publish,
            "quorum",
        )
    },
    Row {
        ours: "amqp/ours, consume",
        control: "amqp/lapin at its best, consume",
        peers: CONSUME,
        ..amqp(
            "consume with acknowledgements, classic queue",
            Work::Consume,
            "classic",
        )
    },
    Row {
        ours: "amqp/ours, consume",
        control: "amqp/lapin at its best, consume",
        peers: CONSUME,
        ..amqp(
            "consume with acknowledgements, quorum queue",
            Work::Consume,
            "quorum",
        )
    },
    Row {
        ours: "amqp/ours, worker",
        control: "amqp/ours, consume",
        peers: &[
            with_cpu("amqp/RustStream, app", 2.2, 2.9, 0.35),
            peer("amqp/mq-bridge, route", 1.3, 1.6),
            beside("amqp/ours, consume"),
        ],
        ..amqp(
            "consume through worker and handler, classic queue",
            Work::Consume,
            "classic",
        )
    },
    Row {
        ours: "amqp/ours, worker",
        control: "amqp/ours, consume",
        // A route of mq-bridge declares its queue, as a classic one.
        peers: &[
            with_cpu("amqp/RustStream, app", 2.2, 2.9, 0.35),
            beside("amqp/ours, consume"),
        ],
        ..amqp(
            "consume through worker and handler, quorum queue",
            Work::Consume,
            "quorum",
        )
    },
    Row {
        ours: "amqp/ours, worker with retries",
        control: "amqp/ours, worker",
        peers: &[peer("amqp/ours, worker", 0.9, 0.97)],
        ..amqp(
            "worker with the layer of retries, classic queue",
            Work::Consume,
            "classic",
        )
    },
    Row {
        ours: "kafka/ours, produce",
        control: "kafka/krafka at its best, produce",
        peers: &[
            best("kafka/krafka at its best, produce", 0.95, 1.0, None),
            // Ours gives each message an id, which for a record is a header.
            best(
                "kafka/krafka at its best, produce with ids",
                0.95,
                1.0,
                None,
            ),
            peer("kafka/rdkafka at its best, futures", 0.85, 1.1),
            peer("kafka/rdkafka at its best, callbacks", 0.85, 1.1),
            peer("kafka/RustStream, produce", 1.5, 1.8),
            peer("kafka/mq-bridge, send_batch", 1.3, 1.6),
        ],
        ..kafka(
            "produce, idempotent, acks=all, one partition",
            Work::Publish,
            300_000,
        )
    },
    Row {
        ours: "kafka/ours, consume",
        control: "kafka/krafka at its best, consume",
        peers: &[
            best("kafka/krafka at its best, consume", 0.92, 0.98, None),
            peer("kafka/rdkafka at its best, stream", 0.7, 1.0),
            peer("kafka/rdkafka at its best, polled", 0.7, 1.0),
        ],
        ..kafka("consume and commit, one partition", Work::Read, 1_000_000)
    },
    Row {
        ours: "kafka/ours, worker",
        control: "kafka/ours, consume",
        peers: &[
            peer("kafka/RustStream, app", 0.8, 1.1),
            beside("kafka/mq-bridge, route"),
            beside("kafka/ours, consume"),
        ],
        ..kafka(
            "consume through worker and handler, one partition",
            Work::Read,
            1_000_000,
        )
    },
    Row {
        ours: "kafka/ours, worker by key",
        control: "kafka/krafka at its best, consume",
        peers: &[
            best("kafka/krafka at its best, consume", 0.6, 0.85, None),
            beside("kafka/ours, worker"),
        ],
        ..kafka(
            "consume in the order of 10,000 keys, 16 runners",
            Work::Read,
            1_000_000,
        )
    },
    Row {
        ours: "kafka/ours, copy exactly once",
        control: "kafka/ours, copy at least once",
        peers: &[
            peer("kafka/ours, copy at least once", 0.8, 0.95),
            best("kafka/krafka, copy at least once", 0.8, 0.95, None),
        ],
        ..kafka(
            "copy exactly once, commit every 100 ms",
            Work::Copy,
            100_000,
        )
    },
    Row {
        ours: "kafka/ours, worker with retries",
        control: "kafka/ours, worker",
        peers: &[peer("kafka/ours, worker", 0.9, 0.97)],
        ..kafka(
            "worker with the layer of retries, one partition",
            Work::Read,
            1_000_000,
        )
    },
    Row {
        ours: "memory/ours, worker",
        control: "memory/tokio mpsc",
        peers: &[
            peer("memory/tokio mpsc", 0.6, 0.75),
            beside("memory/RustStream, app"),
            beside("memory/mq-bridge, route"),
            beside("memory/ours, one by one"),
        ],
        ..memory("publish, handle, acknowledge")
    },
    Row {
        ours: "memory/ours, one by one",
        control: "memory/tokio mpsc",
        peers: &[
            peer("memory/tokio mpsc", 0.6, 0.75),
            beside("memory/RustStream, stream"),
        ],
        ..memory("publish, take, acknowledge")
    },
    Row {
        ours: "memory/ours, batches of 128",
        control: "memory/tokio mpsc, recv_many",
        peers: &[
            peer("memory/mq-bridge, batches of 128", 1.0, 1.5),
            beside("memory/tokio mpsc, recv_many"),
            beside("memory/ours, worker with batches of 128"),
        ],
        ..memory("publish, take, acknowledge, in batches")
    },
    Row {
        ours: "memory/ours, worker with retries",
        control: "memory/ours, worker",
        peers: &[peer("memory/ours, worker", 0.9, 0.97)],
        ..memory("worker with the layer of retries")
    },
];

impl Row {
    /// Ours, the peers that this program was built with, and the control, each once.
    pub(crate) fn arms(&self) -> Vec<&'static str> {
        let mut arms = vec![self.ours];
        for peer in self.peers {
            if find(peer.arm).is_some() && !arms.contains(&peer.arm) {
                arms.push(peer.arm);
            }
        }
        if !arms.contains(&self.control) {
            arms.push(self.control);
        }
        arms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brief_row_has_the_peers_with_a_goal() {
        let goals = PUBLISH.iter().filter(|peer| peer.floor.is_some());
        assert!(
            goals
                .map(|peer| peer.arm)
                .eq(PUBLISH_BRIEFLY.iter().map(|peer| peer.arm))
        );
    }

    #[test]
    fn every_row_names_arms_that_are_there() {
        for row in ROWS {
            assert!(find(row.ours).is_some(), "{}", row.ours);
            assert!(find(row.control).is_some(), "{}", row.control);
            let word = format!("{}/", row.broker.word());
            for arm in row.peers.iter().map(|peer| peer.arm).chain([row.ours]) {
                assert!(arm.starts_with(&word), "{arm} in {}", row.name);
            }
        }
    }
}
