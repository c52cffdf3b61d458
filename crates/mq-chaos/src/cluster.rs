//! A cluster as its operator sees it: who leads, and whether everyone has everything. Nodes are counted from 0; their services
//! in `compose/` are counted from 1.

pub mod kafka;
pub mod rabbitmq;
