//! What a connection tells, traces and counts, for all its parts.

use std::sync::Arc;

use mq_core::{flow::Flow, trace::Tracer};

use super::Counters;

/// Where the parts of a connection tell, trace and count what they do. A clone shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    pub(crate) flow: Flow,
    pub(crate) tracer: Tracer,
    pub(crate) counters: Arc<Counters>,
}
