//! Extractors: what a handler function takes as its arguments.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// Where the scope of one attempt lies while the handler runs.
pub struct Slot<U>(Mutex<Place<U>>);

enum Place<U> {
    /// Nobody asked for it: nothing is allocated.
    Here(U),
    /// Where leases put it back.
    Lent(Home<U>),
    Gone,
}

type Home<U> = Arc<Mutex<Option<U>>>;

impl<U> Slot<U> {
    pub(crate) fn new(scope: U) -> Self {
        Self(Mutex::new(Place::Here(scope)))
    }

    /// Takes the scope until the lease is dropped; `None` if somebody has it.
    pub fn lease(&self) -> Option<Lease<U>> {
        let mut place = self.lock();
        let (scope, home) = match mem::replace(&mut *place, Place::Gone) {
            Place::Here(scope) => (Some(scope), Home::default()),
            Place::Lent(home) => {
                let scope = lock(&home).take();
                (scope, home)
            }
            Place::Gone => return None,
        };
        *place = Place::Lent(Arc::clone(&home));
        Some(Lease {
            scope: Some(scope?),
            home,
        })
    }

    pub(crate) fn take(&self) -> Option<U> {
        match mem::replace(&mut *self.lock(), Place::Gone) {
            Place::Here(scope) => Some(scope),
            Place::Lent(home) => lock(&home).take(),
            Place::Gone => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place<U>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<U>(home: &Home<U>) -> MutexGuard<'_, Option<U>> {
    home.lock().unwrap_or_else(PoisonError::into_inner)
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
    home: Home<U>,
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
        *lock(&self.home) = self.scope.take();
    }
}

impl<U> fmt::Debug for Lease<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_with_one_at_a_time_and_goes_back() {
        let slot = Slot::new(vec![1]);
        let mut lease = slot.lease().expect("nobody has it");
        assert!(slot.lease().is_none(), "somebody has it");
        lease.push(2);
        drop(lease);
        let lease = slot.lease().expect("it went back");
        assert_eq!(*lease, [1, 2]);
        drop(lease);
        assert_eq!(slot.take(), Some(vec![1, 2]));
        assert!(slot.take().is_none() && slot.lease().is_none());
    }

    #[test]
    fn a_scope_that_nobody_asked_for_is_taken_as_it_is() {
        assert_eq!(Slot::new(7).take(), Some(7));
    }

    #[test]
    fn a_scope_that_is_kept_too_long_is_gone_for_the_attempt() {
        let slot = Slot::new(7);
        let lease = slot.lease();
        assert_eq!(slot.take(), None);
        drop(lease);
        assert_eq!(slot.take(), None);
    }
}
