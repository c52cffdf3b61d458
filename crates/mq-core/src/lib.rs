#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod codec;
pub mod filter;
pub mod headers;
pub mod rejection;
pub mod time;

mod broker;
mod capabilities;
mod consumer;
mod delivery;
mod destination;
mod error;
mod message;
mod plan;
mod publisher;
mod subscription;

pub use broker::{Broker, Declaration};
pub use capabilities::{Capabilities, Capability};
pub use consumer::Consumer;
pub use delivery::{Delivery, Received, Settle, Settlement, Verdict, stale};
pub use destination::{Destination, DestinationKind, check_name};
pub use error::{BoxError, Error, ErrorKind, Result, RetryAdvice};
pub use filter::Filter;
pub use headers::{HeaderValue, Headers};
pub use message::{Key, Message, MessageBuilder, MessageId};
pub use plan::{Acknowledge, ConsumePlan, DeadLetters};
pub use publisher::{PendingBatch, Position, Publisher, Receipt, Stored, Unconfirmed};
pub use rejection::{Reason, Rejection, dead_letter_copy};
pub use subscription::{Subscription, SubscriptionKind};
