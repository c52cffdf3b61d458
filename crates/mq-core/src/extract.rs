//! Extractors: what a handler function takes as its arguments.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{BoxError, Outcome, Reason, Received, Rejection, Result};

/// What an extractor may look at: the message, the worker's state `S`, and the scope `U` that the
/// guarantee opened for this attempt.
#[derive(Debug)]
pub struct Context<'a, S, U> {
    received: &'a Received,
    state: &'a S,
    scope: &'a Slot<U>,
}

impl<'a, S, U> Context<'a, S, U> {
    pub(crate) fn new(received: &'a Received, state: &'a S, scope: &'a Slot<U>) -> Self {
        Self {
            received,
            state,
            scope,
        }
    }

    /// The message.
    pub fn received(&self) -> &'a Received {
        self.received
    }

    /// The worker's state.
    pub fn state(&self) -> &'a S {
        self.state
    }

    /// The scope of this attempt.
    pub fn scope(&self) -> &'a Slot<U> {
        self.scope
    }
}

/// An argument of a handler function.
///
/// The payload is bytes at hand, so extracting does not wait. What has to wait is a layer.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}` here",
    note = "the worker's state is `{S}` and the scope of its guarantee is `{U}`",
    note = "`State<T>` needs `.state(value)` with a value of type `T`; a transaction needs the guarantee that opens it"
)]
pub trait FromReceived<S, U>: Sized {
    /// Takes the argument out of the message.
    ///
    /// # Errors
    /// The outcome of a message that it cannot be taken from. A message that cannot be read is
    /// [`undecodable`]: it goes to the dead-letter home at once, since no retry makes it readable.
    fn from_received(context: &Context<'_, S, U>) -> Result<Self, Outcome>;
}

/// The whole message, with headers, key and attempt.
impl<S, U> FromReceived<S, U> for Received {
    fn from_received(context: &Context<'_, S, U>) -> Result<Self, Outcome> {
        Ok(context.received.clone())
    }
}

/// A clone of the worker's state.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::exhaustive_structs,
    reason = "handlers take it apart in their arguments"
)]
pub struct State<T>(pub T);

impl<T: Clone, U> FromReceived<T, U> for State<T> {
    fn from_received(context: &Context<'_, T, U>) -> Result<Self, Outcome> {
        Ok(Self(context.state.clone()))
    }
}

/// The number of this attempt, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "handlers take it apart in their arguments"
)]
pub struct Attempt(pub u32);

impl<S, U> FromReceived<S, U> for Attempt {
    fn from_received(context: &Context<'_, S, U>) -> Result<Self, Outcome> {
        Ok(Self(context.received.attempt()))
    }
}

macro_rules! decoded {
    ($(#[$doc:meta])* $name:ident, $codec:ident, $feature:literal) => {
        $(#[$doc])*
        #[cfg(feature = $feature)]
        #[derive(Debug, Clone, Copy)]
        #[allow(clippy::exhaustive_structs, reason = "handlers take it apart in their arguments")]
        pub struct $name<T>(pub T);

        #[cfg(feature = $feature)]
        impl<S, U, T: serde::de::DeserializeOwned> FromReceived<S, U> for $name<T> {
            fn from_received(context: &Context<'_, S, U>) -> Result<Self, Outcome> {
                context.received.decode::<crate::codec::$codec, T>().map($name).map_err(undecodable)
            }
        }

        /// `None` for a tombstone.
        #[cfg(feature = $feature)]
        impl<S, U, T: serde::de::DeserializeOwned> FromReceived<S, U> for Option<$name<T>> {
            fn from_received(context: &Context<'_, S, U>) -> Result<Self, Outcome> {
                match context.received.payload() {
                    Some(_) => $name::from_received(context).map(Some),
                    None => Ok(None),
                }
            }
        }
    };
}

decoded!(
    /// The payload, read as JSON. A payload that is not one is rejected.
    Json,
    JsonCodec,
    "json"
);
decoded!(
    /// The payload, read by postcard. A payload that is not one is rejected.
    Postcard,
    PostcardCodec,
    "postcard"
);
decoded!(
    /// The payload, read by bincode. A payload that is not one is rejected.
    Bincode,
    BincodeCodec,
    "bincode"
);

/// The outcome of a message that cannot be read: to the dead-letter home.
pub fn undecodable(error: impl Into<BoxError>) -> Outcome {
    Outcome::reject(Rejection::from_error(Reason::Undecodable, &error.into()))
}

/// Where the scope of one attempt lies while the handler runs. A clone shares it.
pub struct Slot<U>(Arc<Mutex<Option<U>>>);

impl<U> Slot<U> {
    pub(crate) fn new(scope: U) -> Self {
        Self(Arc::new(Mutex::new(Some(scope))))
    }

    /// Takes the scope until the lease is dropped; `None` if somebody has it.
    pub fn lease(&self) -> Option<Lease<U>> {
        let scope = self.take()?;
        Some(Lease {
            scope: Some(scope),
            home: self.clone(),
        })
    }

    pub(crate) fn take(&self) -> Option<U> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<U> Clone for Slot<U> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<U> fmt::Debug for Slot<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

/// The scope of an attempt in the hands of the handler; it goes back when this is dropped.
///
/// A handler that keeps it past its own end fails the attempt: the scope can't be closed.
pub struct Lease<U> {
    /// `None` only while it is dropped.
    scope: Option<U>,
    home: Slot<U>,
}

impl<U> Deref for Lease<U> {
    type Target = U;

    #[expect(clippy::expect_used, reason = "`scope` is taken in `drop` alone")]
    fn deref(&self) -> &U {
        self.scope
            .as_ref()
            .expect("a lease has its scope until it is dropped")
    }
}

impl<U> DerefMut for Lease<U> {
    #[expect(clippy::expect_used, reason = "`scope` is taken in `drop` alone")]
    fn deref_mut(&mut self) -> &mut U {
        self.scope
            .as_mut()
            .expect("a lease has its scope until it is dropped")
    }
}

impl<U> Drop for Lease<U> {
    fn drop(&mut self) {
        *self.home.0.lock().unwrap_or_else(PoisonError::into_inner) = self.scope.take();
    }
}

impl<U> fmt::Debug for Lease<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}
