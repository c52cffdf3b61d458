//! Handlers: async functions with extractors, or tower services, behind one seam.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use futures::FutureExt;
use tower_service::Service;

use crate::{
    BoxError, Broker, Received, Result,
    extract::{Context, FromReceived, Slot},
    guarantee::{Entry, Guarantee},
    outcome::{Failure, IntoOutcome, Outcome},
};

/// An async function whose arguments are extractors and whose result is an outcome.
///
/// It is implemented for functions and closures of up to eight arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler for a worker with state `{S}`",
    note = "a handler is an async function; each argument is an extractor (`Json<T>`, `State<T>`, `Attempt`, `Received` …)",
    note = "it returns `()`, `Outcome`, `Publish<T>` or a `Result` of one of them, and its future is `Send`"
)]
pub trait Handler<Args, S, U>: Clone + Send + Sync + 'static {
    /// Calls it on one message.
    ///
    /// # Errors
    /// The outcome of a message that an extractor could not take apart.
    fn call(
        &self,
        context: &Context<'_, S, U>,
    ) -> Result<impl Future<Output = Outcome> + Send + 'static, Outcome>;
}

macro_rules! handler {
    ($($arg:ident),*) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, unused_variables, reason = "one identifier serves as type and name")]
        impl<F, Fut, S, U, $($arg,)*> Handler<($($arg,)*), S, U> for F
        where
            F: Fn($($arg),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output: IntoOutcome> + Send + 'static,
            $($arg: FromReceived<S, U>,)*
        {
            fn call(
                &self,
                context: &Context<'_, S, U>,
            ) -> Result<impl Future<Output = Outcome> + Send + 'static, Outcome> {
                $(let $arg = $arg::from_received(context)?;)*
                Ok(self($($arg),*).map(IntoOutcome::into_outcome))
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);
handler!(A, B, C, D);
handler!(A, B, C, D, E);
handler!(A, B, C, D, E, G);
handler!(A, B, C, D, E, G, H);
handler!(A, B, C, D, E, G, H, I);

/// What [`Worker::run`](crate::Worker::run) takes: a [`Handler`] function, or a
/// `tower::Service<Received, Response = Outcome>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a handler function nor a service for this worker",
    note = "a handler is an async function; each argument is an extractor (`Json<T>`, `State<T>`, `Attempt`, `Received` …)",
    note = "it returns `()`, `Outcome`, `Publish<T>` or a `Result` of one of them, and its future is `Send`",
    note = "`State<T>` needs `.state(value)` of that type; here the state is `{S}` and the guarantee `{G}`",
    note = "a service is a `tower::Service<Received, Response = Outcome>` that is `Clone`"
)]
pub trait IntoService<Via, B, G, S> {
    /// The innermost service: it opens the guarantee's scope, calls the handler, closes the scope.
    type Service: Service<Received, Response = Outcome, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static;

    /// The service, for a worker with this guarantee and state.
    fn into_service(self, guarantee: G, state: S) -> Self::Service;
}

/// Marks a handler function.
#[derive(Debug)]
#[non_exhaustive]
pub struct ViaFunction;

/// Marks a tower service.
#[derive(Debug)]
#[non_exhaustive]
pub struct ViaService;

#[diagnostic::do_not_recommend]
impl<H, Args, B, G, S> IntoService<(ViaFunction, Args), B, G, S> for H
where
    H: Handler<Args, S, G::Scope>,
    Args: 'static,
    B: Broker,
    G: Guarantee<B>,
    S: Clone + Send + Sync + 'static,
{
    type Service = Scoped<Function<H, Args, S>, G, B>;

    fn into_service(self, guarantee: G, state: S) -> Self::Service {
        let inner = Function {
            handler: self,
            state,
            args: PhantomData,
        };
        Scoped {
            inner,
            guarantee,
            broker: PhantomData,
        }
    }
}

#[diagnostic::do_not_recommend]
impl<T, B, G, S> IntoService<ViaService, B, G, S> for T
where
    T: Service<Received, Response = Outcome, Error: Into<BoxError> + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Broker,
    G: Guarantee<B>,
{
    type Service = Scoped<Called<T>, G, B>;

    fn into_service(self, guarantee: G, _state: S) -> Self::Service {
        Scoped {
            inner: Called(self),
            guarantee,
            broker: PhantomData,
        }
    }
}

/// Calls a function or a service within a scope; the seam between the two kinds of handler.
pub trait Call<U>: Clone + Send + Sync + 'static {
    /// The outcome of one attempt.
    fn call(self, received: Received, scope: &Slot<U>) -> impl Future<Output = Outcome> + Send;
}

/// A handler function with its state.
pub struct Function<H, Args, S> {
    handler: H,
    state: S,
    args: PhantomData<fn() -> Args>,
}

/// A tower service.
#[derive(Debug, Clone)]
pub struct Called<T>(T);

impl<H, Args, S, U> Call<U> for Function<H, Args, S>
where
    H: Handler<Args, S, U>,
    Args: 'static,
    S: Clone + Send + Sync + 'static,
    U: Send,
{
    async fn call(self, received: Received, scope: &Slot<U>) -> Outcome {
        match self
            .handler
            .call(&Context::new(&received, &self.state, scope))
        {
            Ok(future) => future.await,
            Err(outcome) => outcome,
        }
    }
}

impl<T, U> Call<U> for Called<T>
where
    T: Service<Received, Response = Outcome, Error: Into<BoxError> + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    U: Send,
{
    async fn call(mut self, received: Received, _scope: &Slot<U>) -> Outcome {
        ready_call(&mut self.0, received).await
    }
}

impl<H: Clone, Args, S: Clone> Clone for Function<H, Args, S> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            state: self.state.clone(),
            args: PhantomData,
        }
    }
}

impl<H, Args, S> fmt::Debug for Function<H, Args, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Function")
    }
}

/// The innermost service of a worker: one attempt in the scope of its guarantee.
///
/// A panic of the handler is a failed attempt here, so that layers see it as one.
pub struct Scoped<C, G, B> {
    inner: C,
    guarantee: G,
    broker: PhantomData<fn() -> B>,
}

impl<C: Clone, G: Clone, B> Clone for Scoped<C, G, B> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            guarantee: self.guarantee.clone(),
            broker: PhantomData,
        }
    }
}

impl<C, G, B> fmt::Debug for Scoped<C, G, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scoped")
    }
}

impl<C, G, B> Service<Received> for Scoped<C, G, B>
where
    C: Call<G::Scope>,
    G: Guarantee<B>,
    B: Broker,
{
    type Response = Outcome;
    type Error = std::convert::Infallible;
    // Boxed: the futures of a `Guarantee` have no names.
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, received: Received) -> Self::Future {
        let Self {
            inner, guarantee, ..
        } = self.clone();
        Box::pin(async move { Ok(attempt(inner, guarantee, received).await) })
    }
}

async fn attempt<C, G, B>(inner: C, guarantee: G, received: Received) -> Outcome
where
    C: Call<G::Scope>,
    G: Guarantee<B>,
    B: Broker,
{
    let scope = match guarantee.open(&received).await {
        Ok(Entry::Run(scope)) => scope,
        Ok(Entry::Done(outcome)) => return outcome,
        Err(error) => return Outcome::retry(Failure::infrastructure(error)),
    };
    let slot = Slot::new(scope);
    let call = async { inner.call(received, &slot).await };
    let outcome = AssertUnwindSafe(call)
        .catch_unwind()
        .await
        .unwrap_or_else(panicked);
    let Some(scope) = slot.take() else {
        return Outcome::retry(
            "the handler kept the scope of its attempt (its transaction) past its own end",
        );
    };
    match guarantee.close(scope, outcome).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::retry(Failure::infrastructure(error)),
    }
}

/// Waits until a service is ready, calls it, and turns its error into a failed attempt.
pub(crate) async fn ready_call<T>(service: &mut T, received: Received) -> Outcome
where
    T: Service<Received, Response = Outcome, Error: Into<BoxError>>,
{
    match poll_fn(|cx| service.poll_ready(cx)).await {
        Ok(()) => match service.call(received).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::retry(error.into()),
        },
        Err(error) => Outcome::retry(error.into()),
    }
}

/// The outcome of an attempt that panicked.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Outcome {
    Outcome::retry(panic_failure(&*panic))
}

/// A panic as the failure of an attempt.
pub(crate) fn panic_failure(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is no text");
    Failure::from(format!("the handler panicked: {text}"))
}
