//! Reading along with Kafka's protocol, so that no broker's own address reaches a client.

mod answers;
mod limits;
mod nodes;
mod requests;
mod rewrite;

pub(super) use nodes::Nodes;
