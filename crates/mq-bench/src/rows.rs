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
    /// Nothing outside of the process.
    Alone,
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
pub(crate) struct Peer {
    pub(crate) arm: &'static str,
    /// Ours to it, in messages a second.
    pub(crate) floor: Option<f64>,
    pub(crate) aim: Option<f64>,
    /// Ours to it, in processor time of a message: at most.
    pub(crate) cpu: Option<f64>,
}

const fn peer(arm: &'static str, floor: f64, aim: f64) -> Peer {
    Peer {
        arm,
        floor: Some(floor),
        aim: Some(aim),
        cpu: None,
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
    }
}

const PUBLISH: &[Peer] = &[
    peer("amqp/lapin, publishes awaited, confirms joined", 1.8, 2.5),
    with_cpu("amqp/lapin at its best, publish", 0.95, 1.0, 1.1),
    peer("amqp/RustStream, transactions of 1000", 2.0, 2.3),
    beside("amqp/RustStream, 1000 polled at once"),
    peer("amqp/mq-bridge, send_batch", 1.7, 2.2),
    beside("amqp/ours, batches"),
];
const CONSUME: &[Peer] = &[
    peer("amqp/lapin, each ack awaited", 2.5, 4.0),
    with_cpu("amqp/lapin at its best, consume", 0.95, 1.0, 1.1),
    beside("amqp/RustStream, stream"),
];

/// All rows, in the order of the report.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "publish with confirms, classic queue",
        broker: Broker::Amqp,
        work: Work::Publish,
        queue: "classic",
        size: 256,
        ours: "amqp/ours, publish",
        control: "amqp/lapin at its best, publish",
        peers: PUBLISH,
        first: 20_000,
    },
    Row {
        name: "publish with confirms, quorum queue",
        broker: Broker::Amqp,
        work: Work::Publish,
        queue: "quorum",
        size: 256,
        ours: "amqp/ours, publish",
        control: "amqp/lapin at its best, publish",
        peers: PUBLISH,
        first: 20_000,
    },
    Row {
        name: "consume with acknowledgements, classic queue",
        broker: Broker::Amqp,
        work: Work::Consume,
        queue: "classic",
        size: 256,
        ours: "amqp/ours, consume",
        control: "amqp/lapin at its best, consume",
        peers: CONSUME,
        first: 20_000,
    },
    Row {
        name: "consume with acknowledgements, quorum queue",
        broker: Broker::Amqp,
        work: Work::Consume,
        queue: "quorum",
        size: 256,
        ours: "amqp/ours, consume",
        control: "amqp/lapin at its best, consume",
        peers: CONSUME,
        first: 20_000,
    },
    Row {
        name: "consume through worker and handler, classic queue",
        broker: Broker::Amqp,
        work: Work::Consume,
        queue: "classic",
        size: 256,
        ours: "amqp/ours, worker",
        control: "amqp/ours, consume",
        peers: &[
            with_cpu("amqp/RustStream, app", 2.2, 2.9, 0.35),
            peer("amqp/mq-bridge, route", 1.3, 1.6),
            beside("amqp/ours, consume"),
        ],
        first: 20_000,
    },
    Row {
        name: "worker with the layer of retries, classic queue",
        broker: Broker::Amqp,
        work: Work::Consume,
        queue: "classic",
        size: 256,
        ours: "amqp/ours, worker with retries",
        control: "amqp/ours, worker",
        peers: &[peer("amqp/ours, worker", 0.9, 0.97)],
        first: 20_000,
    },
    Row {
        name: "produce, idempotent, acks=all, one partition",
        broker: Broker::Kafka,
        work: Work::Publish,
        queue: "",
        size: 256,
        ours: "kafka/ours, produce",
        control: "kafka/krafka at its best, produce",
        peers: &[
            peer("kafka/krafka at its best, produce", 0.95, 1.0),
            peer("kafka/rdkafka at its best, produce", 0.85, 1.1),
            peer("kafka/RustStream, produce", 1.5, 1.8),
            peer("kafka/mq-bridge, send_batch", 1.3, 1.6),
        ],
        first: 300_000,
    },
    Row {
        name: "consume and commit, one partition",
        broker: Broker::Kafka,
        work: Work::Read,
        queue: "",
        size: 256,
        ours: "kafka/ours, consume",
        control: "kafka/krafka at its best, consume",
        peers: &[
            peer("kafka/krafka at its best, consume", 0.92, 0.98),
            peer("kafka/rdkafka at its best, consume", 0.7, 1.0),
        ],
        first: 1_000_000,
    },
    Row {
        name: "consume through worker and handler, one partition",
        broker: Broker::Kafka,
        work: Work::Read,
        queue: "",
        size: 256,
        ours: "kafka/ours, worker",
        control: "kafka/ours, consume",
        peers: &[
            peer("kafka/RustStream, app", 0.8, 1.1),
            beside("kafka/mq-bridge, route"),
            beside("kafka/ours, consume"),
        ],
        first: 1_000_000,
    },
    Row {
        name: "consume in the order of 10,000 keys, 16 runners",
        broker: Broker::Kafka,
        work: Work::Read,
        queue: "",
        size: 256,
        ours: "kafka/ours, worker by key",
        control: "kafka/krafka at its best, consume",
        peers: &[peer("kafka/krafka at its best, consume", 0.6, 0.85)],
        first: 1_000_000,
    },
    Row {
        name: "copy exactly once",
        broker: Broker::Kafka,
        work: Work::Read,
        queue: "",
        size: 256,
        ours: "kafka/ours, copy exactly once",
        control: "kafka/ours, copy at least once",
        peers: &[peer("kafka/ours, copy at least once", 0.8, 0.95)],
        first: 200_000,
    },
    Row {
        name: "publish, take, acknowledge",
        broker: Broker::Memory,
        work: Work::Alone,
        queue: "",
        size: 64,
        ours: "memory/ours, one by one",
        control: "memory/tokio mpsc",
        peers: &[
            peer("memory/tokio mpsc", 0.6, 0.75),
            beside("memory/RustStream, stream"),
        ],
        first: 500_000,
    },
    Row {
        name: "publish, take, acknowledge, in batches",
        broker: Broker::Memory,
        work: Work::Alone,
        queue: "",
        size: 64,
        ours: "memory/ours, batches of 128",
        control: "memory/tokio mpsc, recv_many",
        peers: &[
            peer("memory/mq-bridge, batches of 128", 1.0, 1.5),
            beside("memory/tokio mpsc, recv_many"),
        ],
        first: 500_000,
    },
    Row {
        name: "publish, handle, acknowledge",
        broker: Broker::Memory,
        work: Work::Alone,
        queue: "",
        size: 64,
        ours: "memory/ours, worker",
        control: "memory/ours, one by one",
        peers: &[
            beside("memory/RustStream, app"),
            beside("memory/mq-bridge, route"),
            beside("memory/ours, one by one"),
        ],
        first: 500_000,
    },
];

impl Row {
    /// Ours, the control once more, and the peers that this program was built with.
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
