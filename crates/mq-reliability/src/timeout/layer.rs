//! What a worker takes as its layer.

use std::time::Duration;

use tower_layer::Layer;

use super::TimeoutService;

/// Ends a handler that takes too long. A tower layer, for a worker or outside of one.
#[derive(Debug, Clone)]
pub struct Timeout {
    limit: Duration,
}

impl Timeout {
    /// Each call may take this long.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for Timeout {
    type Service = TimeoutService<S>;

    fn layer(&self, inner: S) -> TimeoutService<S> {
        TimeoutService::new(inner, self.limit)
    }
}
