//! What the programs share that kill brokers, `mq-chaos` and the tests here: the containers of `compose/`, and a cluster as
//! its operator sees it. This file only names them.

pub mod cluster;
pub mod containers;
