//! Layers of a worker: any tower layer, or one that also has a say in the consume plan.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use crate::{ConsumePlan, Outcome, Received};

/// A layer that adds to the consume plan, such as the delays that a retry may ask for.
///
/// Its value is not itself a tower layer; it turns into one once it has had its say.
pub trait PlanLayer {
    /// The tower layer.
    type Layer;

    /// Adds to the plan and gives the tower layer.
    fn plan(self, plan: &mut ConsumePlan) -> Self::Layer;
}

/// What [`Worker::layer`](crate::Worker::layer) takes: a tower layer, or a [`PlanLayer`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no layer for a worker",
    note = "a layer is a `tower::Layer` over services of `Received`, or a `PlanLayer`"
)]
pub trait IntoLayer<Via> {
    /// The tower layer.
    type Layer;

    /// Adds to the plan, if it has something to add, and gives the tower layer.
    fn into_layer(self, plan: &mut ConsumePlan) -> Self::Layer;
}

/// Marks a plain tower layer.
#[derive(Debug)]
#[non_exhaustive]
pub struct ViaTower;

/// Marks a [`PlanLayer`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ViaPlan;

#[diagnostic::do_not_recommend]
impl<L: Layer<Probe>> IntoLayer<ViaTower> for L {
    type Layer = L;

    fn into_layer(self, _plan: &mut ConsumePlan) -> L {
        self
    }
}

#[diagnostic::do_not_recommend]
impl<P: PlanLayer> IntoLayer<ViaPlan> for P {
    type Layer = P::Layer;

    fn into_layer(self, plan: &mut ConsumePlan) -> P::Layer {
        self.plan(plan)
    }
}

/// A service that stands for any handler, so that the compiler can tell a tower layer by asking
/// whether it wraps this one. It acknowledges.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Probe;

impl Service<Received> for Probe {
    type Response = Outcome;
    type Error = Infallible;
    type Future = Ready<Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Received) -> Self::Future {
        ready(Ok(Outcome::ack()))
    }
}
