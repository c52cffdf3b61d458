//! What `kcat` and the Java console tools read of us, and what we read of them, field by field. It
//! needs the broker, and as peers `kcat` (on the `PATH`, or named by `MQ_PEER_KCAT`) and the tools
//! (`MQ_PEER_KAFKA_TOOLS`); `cargo xtask test` provides them.
//!
//! A case is named `<field> to <peer>` or `<field> from <peer>`: the matrix in
//! `docs/guides/interop.md` is made from these names.
#![allow(clippy::expect_used, reason = "a test may panic")]

#[path = "interop/groups.rs"]
mod groups;
#[path = "interop/peer.rs"]
mod peer;
#[path = "interop/read.rs"]
mod read;
#[path = "interop/written.rs"]
mod written;

use std::process::ExitCode;

use mq_testkit::Suite;
use peer::Peer;

fn main() -> ExitCode {
    mq_testkit::run([suite(Peer::Kcat), suite(Peer::Java)])
}

fn suite(peer: Peer) -> Suite {
    let mut suite = Suite::new("interop", "mq-kafka", peer.address());
    for (field, check) in written::cases(peer) {
        suite = suite.case(peer.case(field, "to"), move |servers| async move {
            check(written::messages(&servers, peer).await?)
        });
    }
    for (field, check) in read::cases(peer) {
        suite = suite.case(peer.case(field, "from"), move |servers| async move {
            check(read::messages(&servers, peer).await?)
        });
    }
    groups::add(suite, peer)
}
