//! Draws what really happened: a sink for flow events that writes a Mermaid sequence diagram and a
//! table of counts.
//!
//! ```
//! use std::sync::Arc;
//! use mq_core::{Broker, ConsumePlan, Consumer, Destination, Message, Publisher, Subscription};
//! use mq_testkit::flow::FlowRecorder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let recorder = Arc::new(FlowRecorder::new());
//! let broker = mq_memory::Memory::builder().name("shop").flow(recorder.clone()).build();
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! broker.publisher().publish(&orders, Message::new("7")).await?;
//!
//! let packer = broker.client_named("packer");
//! let mut consumer = packer.consumer(&Subscription::queue("orders"), ConsumePlan::new()).await?;
//! consumer.receive().await?.expect("an order").ack()?;
//!
//! assert_eq!(recorder.drawing().diagram(), "\
//! sequenceDiagram
//!     participant p1 as shop
//!     participant p2 as queue orders
//!     participant p3 as packer
//!     p1->>p2: publish m1
//!     p2-->>p1: confirm m1
//!     p3->>p2: consume
//!     p2->>p3: deliver m1
//!     p3->>p2: ack m1
//! ");
//! # Ok(())
//! # }
//! ```

mod drawing;
mod fold;
mod line;
mod names;
mod recorder;
mod step;
mod summary;
mod text;

pub use drawing::Drawing;
pub use recorder::FlowRecorder;
pub use step::FlowStep;
