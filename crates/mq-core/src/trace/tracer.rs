//! A client's way to its spans.

use std::{fmt, sync::Arc};

use tracing::Span;

use super::{Handled, Propagator, Sending, Sent, Spans};
use crate::{Destination, Headers, Message, Position, Received, Subscription, headers};

/// A client's way to its spans and its trace context; what a backend holds, and a worker asks for.
///
/// Its default makes no span. A clone costs a count.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    spans: Box<dyn Spans>,
    propagator: Option<Arc<dyn Propagator>>,
}

impl Tracer {
    /// The spans of a client, and how their context travels, if it does.
    pub fn new(spans: impl Spans, propagator: Option<Arc<dyn Propagator>>) -> Self {
        Self(Some(Arc::new(Inner {
            spans: Box::new(spans),
            propagator,
        })))
    }

    /// A message that is about to be published. It gets the context of its span, unless it has one.
    #[inline]
    pub fn send(&self, to: &Destination, message: &mut Message) -> Sending {
        let Some(inner) = &self.0 else {
            return Sending::none();
        };
        let Some(propagator) = &inner.propagator else {
            let span = inner.spans.send(to, Sent::One(message), false);
            return Sending::one(span, self);
        };
        let relayed = carries(message.headers());
        let span = inner.spans.send(to, Sent::One(message), !relayed);
        if relayed {
            link(&**propagator, &span, message.headers());
        } else {
            inject(&**propagator, &span, message);
        }
        Sending::one(span, self)
    }

    /// A batch that is about to be published: one span, and for each message without a context a
    /// *create* span whose context it gets. Where those are filtered out it gets the batch's.
    pub fn send_batch(&self, to: &Destination, messages: &mut [Message]) -> Sending {
        let Some(inner) = &self.0 else {
            return Sending::none();
        };
        let many = Sent::Many(messages.len());
        let Some(propagator) = &inner.propagator else {
            return Sending::many(inner.spans.send(to, many, false));
        };
        let mut bare = false;
        for message in messages.iter_mut().filter(|m| !carries(m.headers())) {
            let created = inner.spans.create(to, message);
            if !created.is_disabled() {
                propagator.inject(&created, message.headers_mut());
            }
            bare |= !carries(message.headers());
        }
        let span = inner.spans.send(to, many, bare);
        for message in messages {
            if carries(message.headers()) {
                link(&**propagator, &span, message.headers());
            } else {
                inject(&**propagator, &span, message);
            }
        }
        Sending::many(span)
    }

    /// A copy of a delivered message that is about to be published: it keeps the context of its
    /// original, and gets none of its own. Outside of any span it belongs to the original's trace.
    #[inline]
    pub fn send_copy(&self, to: &Destination, copy: &Message) -> Sending {
        let Some(inner) = &self.0 else {
            return Sending::none();
        };
        let span = inner.spans.send(to, Sent::One(copy), false);
        if let Some(propagator) = &inner.propagator
            && !span.is_disabled()
            && carries(copy.headers())
        {
            if Span::current().is_disabled() {
                propagator.parent(&span, copy.headers());
            }
            propagator.link(&span, copy.headers());
        }
        Sending::one(span, self)
    }

    /// These were handed out by a consumer just now.
    #[inline]
    pub fn received<'a>(
        &self,
        source: &Subscription,
        messages: impl ExactSizeIterator<Item = &'a Received>,
    ) {
        if let Some(inner) = &self.0
            && messages.len() > 0
        {
            let span = inner.spans.receive(source, messages.len());
            inner.link_each(&span, messages.map(|one| one.headers()));
        }
    }

    /// The span in which a message is handled; its parent is the context that the message carries.
    /// `tag` is the backend's own of the delivery, 0 if it was settled before.
    #[inline]
    pub fn process(&self, source: &Subscription, received: &Received, tag: u64) -> Span {
        let Some(inner) = &self.0 else {
            return Span::none();
        };
        let span = inner.spans.process(source, Handled::One(received, tag));
        if let Some(propagator) = &inner.propagator
            && !span.is_disabled()
            && carries(received.headers())
        {
            propagator.parent(&span, received.headers());
            propagator.link(&span, received.headers());
        }
        span
    }

    /// The span in which a batch is handled: a trace of its own, with a link to each message.
    #[inline]
    pub fn process_batch(&self, source: &Subscription, batch: &[Received]) -> Span {
        let Some(inner) = &self.0 else {
            return Span::none();
        };
        let span = inner.spans.process(source, Handled::Many(batch.len()));
        inner.link_each(&span, batch.iter().map(|one| one.headers()));
        span
    }

    /// The span in which verdicts go to the broker.
    #[inline]
    pub fn settle(
        &self,
        source: &Subscription,
        operation: &'static str,
        messages: Option<usize>,
    ) -> Span {
        match &self.0 {
            Some(inner) => inner.spans.settle(source, operation, messages),
            None => Span::none(),
        }
    }

    pub(super) fn stored(&self, span: &Span, at: Position) {
        if let Some(inner) = &self.0 {
            inner.spans.stored(span, at);
        }
    }
}

impl Inner {
    fn link_each<'a>(&self, span: &Span, each: impl Iterator<Item = &'a Headers>) {
        if let Some(propagator) = &self.propagator
            && !span.is_disabled()
        {
            for headers in each.filter(|headers| carries(headers)) {
                propagator.link(span, headers);
            }
        }
    }
}

fn carries(headers: &Headers) -> bool {
    headers.get(headers::TRACEPARENT).is_some()
}

fn link(propagator: &dyn Propagator, span: &Span, headers: &Headers) {
    if !span.is_disabled() {
        propagator.link(span, headers);
    }
}

/// A span that is filtered out, for all or for who traces, has no context: then the message belongs
/// to what its caller is doing.
fn inject(propagator: &dyn Propagator, span: &Span, message: &mut Message) {
    if !span.is_disabled() {
        propagator.inject(span, message.headers_mut());
    }
    if !carries(message.headers()) {
        propagator.inject(&Span::current(), message.headers_mut());
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carries = self.0.as_ref().map(|inner| inner.propagator.is_some());
        f.debug_struct("Tracer")
            .field("carries_context", &carries)
            .finish_non_exhaustive()
    }
}
