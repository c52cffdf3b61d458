//! The command line of `mq-bench`.

use std::path::PathBuf;

xflags::xflags! {
    /// Measures the crates of this workspace beside bare clients and peers.
    cmd mq-bench {
        /// Measures the rows of a broker, and writes a report.
        cmd run {
            /// memory, amqp or kafka
            required broker: String
            /// Only rows whose name contains this
            optional --row text: String
            /// How often each arm runs, beside its first, which does not count. Default 15
            optional --blocks blocks: usize
            /// How long a run lasts. Default 3
            optional --seconds seconds: f64
            /// How many messages a run has, instead of as many as last so long
            optional --messages messages: u64
            /// The seed of the order of the arms. Default: a new one, which is in the report
            optional --seed seed: u64
            /// The broker on core 0, the clients on core 1
            optional --pinned
            /// Against a null broker, which costs next to nothing, instead of a real one
            optional --null
            /// Against this broker, which runs already, instead of a container
            optional --address address: String
            /// Where the report is written. Default docs/benchmarks
            optional --into folder: PathBuf
        }

        /// Runs one arm once, and prints what it took; started by `run`.
        cmd arm {
            required name: String
            required --address address: String
            required --queue name: String
            required --group name: String
            required --messages messages: u64
            required --size bytes: usize
            /// On one thread, on which it does the same in each run
            optional --one-thread
        }

        /// Serves as a null broker, and prints its address; started by `run --null`.
        cmd null {
            /// amqp or kafka
            required broker: String
            /// How many messages a queue or a topic has
            required --messages messages: u64
            required --size bytes: usize
        }

        /// Lists the arms that this program was built with.
        cmd arms {}
    }
}
