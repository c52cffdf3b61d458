#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod codec;
pub mod dynamic;
pub mod extract;
pub mod filter;
pub mod flow;
pub mod guarantee;
pub mod handler;
pub mod headers;
pub mod layer;
pub mod rejection;
pub mod time;
pub mod trace;

mod broker;
mod capabilities;
mod consumer;
mod datatype;
mod delivery;
mod destination;
mod error;
mod message;
mod outcome;
mod plan;
mod publisher;
mod subscription;
mod worker;

pub use broker::{Broker, Declaration, Deletion};
pub use capabilities::{Capabilities, Capability};
pub use consumer::Consumer;
pub use datatype::Datatype;
pub use delivery::{Delivery, Received, Settle, Settlement, Verdict, stale};
pub use destination::{Destination, DestinationKind, check_name};
pub use error::{BoxError, Error, ErrorKind, Result, RetryAdvice};
#[cfg(feature = "bincode")]
pub use extract::Bincode;
#[cfg(feature = "json")]
pub use extract::Json;
#[cfg(feature = "postcard")]
pub use extract::Postcard;
pub use extract::{Attempt, FromReceived, State};
pub use filter::Filter;
pub use guarantee::{AtLeastOnce, AtMostOnce, Guarantee};
pub use handler::{Handler, IntoService};
pub use headers::{HeaderValue, Headers};
pub use message::{Key, Message, MessageBuilder, MessageId};
#[cfg(feature = "json")]
pub use outcome::Publish;
pub use outcome::{Classify, Decision, Failure, FailureClass, IntoOutcome, Outcome};
pub use plan::{Acknowledge, ConsumePlan, DeadLetters, Deferred};
pub use publisher::{Outcomes, PendingBatch, Position, Publisher, Receipt, Stored, Unconfirmed};
pub use rejection::{Reason, Rejection, dead_letter_copy};
pub use subscription::{Subscription, SubscriptionKind};
pub use worker::{BatchHandler, BatchOutcome, BatchSize, IntoBatchOutcome, Run, Worker};
