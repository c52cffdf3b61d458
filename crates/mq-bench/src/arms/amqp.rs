//! RabbitMQ: publishes with confirms, and deliveries with acknowledgements.

pub(crate) mod lapin;
#[cfg(feature = "mq-bridge")]
pub(crate) mod mq_bridge;
pub(crate) mod ours;
#[cfg(feature = "ruststream")]
pub(crate) mod ruststream;

/// Publishes without an outcome.
const WINDOW: usize = 1000;
const PREFETCH: u16 = 300;
