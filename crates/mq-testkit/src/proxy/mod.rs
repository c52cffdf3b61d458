//! A proxy that makes the faults of a network: between a client and its broker, on demand.
//!
//! Needs feature `proxy`; a proxy in front of Kafka needs `kafka-proxy`.
//!
//! ```
//! use mq_testkit::proxy::{Direction, Fault, Proxy};
//! use std::time::Duration;
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A server that answers "pong" to whatever comes. It could be a broker.
//! let server = TcpListener::bind("127.0.0.1:0").await?;
//! let upstream = server.local_addr()?.to_string();
//! tokio::spawn(async move {
//!     let (mut client, _) = server.accept().await?;
//!     while client.read(&mut [0; 64]).await? > 0 {
//!         client.write_all(b"pong").await?;
//!     }
//!     Ok::<_, std::io::Error>(())
//! });
//!
//! let proxy = Proxy::start(upstream).await?;
//! let mut client = TcpStream::connect(proxy.address()).await?;
//! let mut answer = [0; 4];
//!
//! // Half open: the question arrives, the answer does not.
//! proxy.set(Direction::ToClient, Fault::BlackHole);
//! client.write_all(b"ping").await?;
//! proxy.until(|counters| counters.acted > 0).await; // the answer waits in the proxy
//! let lost = tokio::time::timeout(Duration::from_millis(50), client.read_exact(&mut answer));
//! assert!(lost.await.is_err());
//!
//! // As in a network that works again, what waited arrives.
//! proxy.clear();
//! client.read_exact(&mut answer).await?;
//! assert_eq!(&answer, b"pong");
//!
//! proxy.close().await; // no task and no socket is left
//! # Ok(())
//! # }
//! ```
//!
//! # Faults
//!
//! A [`Fault`] is set for a [`Direction`], for all connections there are and to come
//! ([`Proxy::set`]) or for one of them ([`Connection::set`]). Faults of different kinds add up; one of
//! the same kind replaces the one before. What a client writes after `set` has returned is subject to
//! it. [`Proxy::counters`] says what passed and how often a fault acted, and
//! [`Proxy::until`] waits for that, so that a test can strike at the right moment instead of
//! sleeping.
//!
//! # Scripts
//!
//! A [`Script`] is a list of faults and quiet phases, written by hand or drawn from a seed. It runs
//! beside the test ([`Proxy::run`]), is printed as text, and is read from that text again.
//!
//! *Deterministic*: the steps that a seed draws, in every version of this crate; and the jitter: the
//! n-th connection of a proxy draws the same delays, in the same order, for each direction.
//! *Not deterministic*: which client is the n-th, how a stream falls into chunks (each has one draw),
//! and what the scheduler of the machine adds.
//!
//! # What it holds
//!
//! Each connection has one task and fixed buffers: 64 KiB a direction, 1 MiB where latency keeps
//! bytes on their way. When they are full it stops to read, so that the sender notices as it would
//! without a proxy. The end of one direction is passed on as that (half close), a reset as a reset.
//! Dropping the [`Proxy`] ends all its tasks and sockets.
//!
//! # Kafka
//!
//! A Kafka client connects to the addresses that brokers advertise, past a plain proxy.
//! `Proxy::start_kafka` reads along and puts addresses of its own in their place. TLS hides them: use
//! a listener without TLS. For AMQP and other protocols of one connection TLS passes as it is.

mod carry;
mod counters;
mod error;
mod fault;
mod faults;
#[cfg(feature = "kafka-proxy")]
mod kafka;
mod pump;
mod random;
mod registry;
mod script;
mod server;
mod text;

pub use counters::Counters;
pub use error::ProxyError;
pub use fault::{Direction, Fault};
pub use registry::Connection;
pub use script::{Run, Script, Step};
pub use server::Proxy;
