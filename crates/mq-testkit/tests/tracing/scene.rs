//! What a case has at hand: a broker whose context travels, workers beside it, and its spans.

use std::time::Duration;

use mq_core::{Broker, Destination, Message, Outcome, Publisher, Received, Subscription, Worker};
use mq_testkit::{Check, Failure};
use opentelemetry::{
    Value,
    trace::{SpanId, SpanKind, Status},
};
use opentelemetry_sdk::trace::SpanData;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use crate::w3c::finished;

pub(crate) struct Scene<B> {
    pub(crate) broker: B,
    pub(crate) words: Words,
    prefix: String,
}

/// What the broker's conventions call things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    pub(crate) system: &'static str,
    pub(crate) send: &'static str,
    pub(crate) receive: &'static str,
    /// What tells the broker of an acknowledgement, where anything does.
    pub(crate) settle: Option<&'static str>,
    /// Attributes of *send*, and of *process*, of one message to a queue beside the common ones.
    pub(crate) of_send: &'static [&'static str],
    pub(crate) of_process: &'static [&'static str],
}

impl<B: Broker> Scene<B> {
    pub(crate) fn new(broker: B, words: Words) -> Self {
        let id = mq_core::MessageId::unique().to_string();
        let run = id.rsplit('-').next().unwrap_or_default();
        Self {
            broker,
            words,
            prefix: format!("spans.{run}"),
        }
    }

    pub(crate) async fn queue(&self, what: &str) -> Check<Destination> {
        let queue = Destination::queue(format!("{}.{what}", self.prefix));
        soon(self.broker.declare(&queue)).await??;
        Ok(queue)
    }

    pub(crate) async fn publish(&self, to: &Destination, message: impl Into<Message>) -> Check {
        let publisher = self.broker.publisher();
        soon(publisher.publish(to, message.into())).await??;
        Ok(())
    }

    /// Runs a worker beside the case.
    pub(crate) fn work<F>(
        &self,
        queue: &Destination,
        decide: impl Fn(Received) -> F + Clone + Send + Sync + 'static,
    ) -> Running
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let run = Worker::new(&self.broker, Subscription::queue(queue.name().clone()))
            .run(decide)
            .with_graceful_shutdown(async move {
                let _ = stopped.await;
            });
        let task = tokio::spawn(run.into_future());
        Running { stop, task }
    }

    /// Waits until so many spans of this operation type on this queue have ended.
    pub(crate) async fn at_least(
        &self,
        kind: &str,
        of: &Destination,
        count: usize,
    ) -> Check<Vec<SpanData>> {
        let reached = async {
            loop {
                let found = of_queue(kind, of);
                if found.len() >= count {
                    return found;
                }
                // An exporter tells nobody when something comes in.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let late = |_: Failure| {
            let found = of_queue(kind, of).len();
            Failure::new(format!("{found} of {count} {kind} spans on {of}"))
        };
        soon(reached).await.map_err(late)
    }

    /// The same, and that there are no more.
    pub(crate) async fn spans(
        &self,
        kind: &str,
        of: &Destination,
        count: usize,
    ) -> Check<Vec<SpanData>> {
        let found = self.at_least(kind, of, count).await?;
        same(found.len(), count)?;
        Ok(found)
    }

    pub(crate) async fn span(&self, kind: &str, of: &Destination) -> Check<SpanData> {
        let mut one = self.spans(kind, of, 1).await?;
        Ok(one.remove(0))
    }

    pub(crate) async fn close(&self) -> Check {
        Ok(soon(self.broker.close()).await??)
    }
}

fn of_queue(kind: &str, of: &Destination) -> Vec<SpanData> {
    let wanted = |span: &SpanData| {
        text(span, "messaging.operation.type").as_deref() == Some(kind)
            && text(span, "messaging.destination.name").as_deref() == Some(&**of.name())
    };
    let mut found: Vec<_> = finished().into_iter().filter(wanted).collect();
    found.sort_by_key(|span| span.start_time);
    found
}

/// A worker beside the case.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<mq_core::Result<()>>,
}

impl Running {
    pub(crate) async fn stop(self) -> Check {
        let _ = self.stop.send(());
        Ok(soon(self.task).await???)
    }
}

pub(crate) fn value<'a>(span: &'a SpanData, name: &str) -> Option<&'a Value> {
    let found = span.attributes.iter().find(|a| a.key.as_str() == name)?;
    Some(&found.value)
}

pub(crate) fn text(span: &SpanData, name: &str) -> Option<String> {
    value(span, name).map(|value| value.to_string())
}

/// The span belongs to the other's trace, right below it.
#[track_caller]
pub(crate) fn below(span: &SpanData, above: &SpanData) -> Check {
    same(
        (span.span_context.trace_id(), span.parent_span_id),
        (above.span_context.trace_id(), above.span_context.span_id()),
    )
}

#[track_caller]
pub(crate) fn root(span: &SpanData) -> Check {
    same(span.parent_span_id, SpanId::INVALID)
}

/// The span has links to these, in this order, and no others.
#[track_caller]
pub(crate) fn linked(span: &SpanData, to: &[&SpanData]) -> Check {
    let links = span.links.iter().map(|link| link.span_context.span_id());
    let wanted: Vec<_> = to.iter().map(|span| span.span_context.span_id()).collect();
    same(links.collect::<Vec<_>>(), wanted)
}

#[track_caller]
pub(crate) fn named(span: &SpanData, kind: SpanKind, operation: &str, of: &Destination) -> Check {
    same(&*span.name, &*format!("{operation} {}", of.name()))?;
    same(&span.span_kind, &kind)
}

#[track_caller]
pub(crate) fn failed(span: &SpanData, with: Option<&str>) -> Check {
    same(text(span, "error.type").as_deref(), with)?;
    same(matches!(span.status, Status::Error { .. }), with.is_some())
}

#[track_caller]
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Check {
    match found == expected {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "found {found:?}, expected {expected:?}, at {}",
            std::panic::Location::caller()
        ))),
    }
}

pub(crate) async fn soon<T>(wait: impl Future<Output = T>) -> Check<T> {
    let late = |_| Failure::new(format!("not within {SOON:?}"));
    timeout(SOON, wait).await.map_err(late)
}

const SOON: Duration = Duration::from_secs(60);
