//! What a worker takes as its layer, and the tower layer that it turns into.

use mq_core::{ConsumePlan, layer::PlanLayer};
use tower_layer::Layer;

use super::{Policy, RetryService};

/// Attempts a failed message again, by policy, then rejects it.
///
/// It goes into [`Worker::layer`](mq_core::Worker::layer), makes the policy's ceiling the worker's own
/// `max_attempts`, and puts its delays into the plan: a worker on a broker that cannot delay is refused
/// when it starts, and so is one that keeps the order by key. Outside a worker, [`RetryLayer`] is the tower layer alone.
#[derive(Debug, Clone)]
pub struct Retry {
    policy: Policy,
}

impl Retry {
    /// Retries by this policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }
}

impl PlanLayer for Retry {
    type Layer = RetryLayer;

    fn plan(self, plan: &mut ConsumePlan) -> RetryLayer {
        // One ceiling: a message that kills its process comes back without passing this layer, and
        // is stopped by the worker.
        plan.max_attempts = self.policy.attempts();
        plan.delays.extend_from_slice(self.policy.delays());
        RetryLayer::new(self.policy)
    }
}

/// The tower layer that makes a [`RetryService`].
#[derive(Debug, Clone)]
pub struct RetryLayer {
    policy: Policy,
}

impl RetryLayer {
    /// Retries by this policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = RetryService<S>;

    fn layer(&self, inner: S) -> RetryService<S> {
        RetryService::new(inner, self.policy.clone())
    }
}
