//! A work queue: jobs are submitted once and done by one of many workers (EIP *Competing
//! Consumers* over a *Point-to-Point Channel*; one type of job, so a *Datatype Channel*).
//!
//! [`WorkQueue`] puts the parts together: the queue with its dead-letter home, jobs of one type
//! with their key and headers, confirmed submits, and a [`Worker`](mq_core::Worker) set up for a
//! queue whose jobs take their time.
//!
//! # What it guarantees
//!
//! | | RabbitMQ | Kafka | in-process |
//! |---|---|---|---|
//! | a confirmed job | is stored by the quorum queue | is stored by the topic's in-sync replicas | is stored while the process lives |
//! | it is done | at least once | at least once | at least once |
//! | one worker dies | its unsettled jobs go to others when its connection ends | its partitions go to others when its session ends | its unsettled jobs go to others at once |
//! | a slow worker holds up | at most its prefetch | the partitions it has | at most its prefetch |
//! | workers at a time | any number | as many as the topic has partitions; others stand by | any number |
//! | jobs of one key stay in order | in one worker with `ordered_by_key` | with `ordered_by_key`, in all workers together | in one worker with `ordered_by_key` |
//!
//! A job whose attempts are used up, or that cannot be decoded, goes to the dead-letter home
//! `<queue>.dead`.
//!
//! # What it does not
//!
//! A job can be done twice: after a crash, a lost connection, or a submit whose outcome was
//! unknown and that was made again. Make jobs idempotent. The length of the queue is not limited
//! here: what is submitted faster than it is done piles up on the broker.
//!
//! # Tests
//!
//! `tests/work_queue.rs` on the in-process broker. On all three, in `tests/promises`:
//!
//! * `work_queue: each job is done once, by one of several workers`
//! * `work_queue: the jobs of a killed worker are done by others` (a process that is killed, on the
//!   brokers that outlive one)
//! * `work_queue: a slow worker holds up at most its prefetch, or the partitions it has`
//! * `work_queue: a job that never succeeds goes to the dead letters`
//!
//! # Example
//!
//! ```
//! use mq_core::Json;
//! use mq_memory::Memory;
//! use mq_patterns::work_queue::WorkQueue;
//! use serde::{Deserialize, Serialize};
//! use tokio::sync::mpsc;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Resize {
//!     picture: String,
//!     width: u32,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let queue = WorkQueue::new(&broker, "resize")
//!     .envelope(|job: &Resize, message| message.key(&job.picture));
//! queue.declare().await?;
//! queue.submit(&Resize { picture: "cat".into(), width: 640 }).await?;
//!
//! let (done, mut finished) = mpsc::channel(1);
//! queue
//!     .worker(4)
//!     .run(move |Json(job): Json<Resize>| {
//!         let done = done.clone();
//!         async move { done.try_send(job.width).map_err(|_| "nobody listens") }
//!     })
//!     .with_graceful_shutdown(async move { assert_eq!(finished.recv().await, Some(640)) })
//!     .await
//! # }
//! ```

mod queue;

pub use queue::WorkQueue;
