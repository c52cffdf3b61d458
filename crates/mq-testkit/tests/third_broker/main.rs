//! A third broker, as small as one can be: a server on a TCP port that has queues and nothing else,
//! and the crate that plugs it in. It proves the guide *Writing a broker crate*, which shows it.

mod capabilities;
mod connection;
mod consumer;
mod error;
mod headers;
mod publisher;
mod server;
mod settle;
mod topology;

use std::{net::SocketAddr, process::ExitCode};

use connection::Courier;
use mq_core::Result;
use mq_testkit::{Address, Fixture, Suite};

// guide: fixture
struct Local(SocketAddr);

impl Fixture for Local {
    type Broker = Courier;

    /// A client of its own, as another process would have it.
    async fn connect(&self) -> Result<Courier> {
        Courier::connect(self.0).await
    }
}

fn main() -> ExitCode {
    let address = server::start();
    Suite::new("conformance", "third-broker", Address::in_process())
        .conformance(
            move |_| Local(address),
            include_str!("conformance.expected"),
        )
        .run()
}
// guide: end
