//! A history: what the processes of a run did, as lines of JSON that survive `kill -9`.
//!
//! Each process appends to a file of its own in one folder, through a [`Recorder`]. The
//! [`Checker`](crate::checker::Checker) reads the folder when the run is over.
//!
//! # What to record, and when
//!
//! | event | recorded by whom, when |
//! |---|---|
//! | [`send`](Event::send) | the producer, **before** it publishes |
//! | [`ok`](Event::ok), [`rejected`](Event::rejected), [`unknown`](Event::unknown) | the producer, once it knows; [`outcome`](Event::outcome) chooses. Neither of them, as after a crash, means unknown |
//! | [`deliver`](Event::deliver), [`corrupt`](Event::corrupt) | the consumer, where its handler gets the message |
//! | [`effect`](Event::effect) | the consumer, **after** the effect is in the world and before it acknowledges. What is put aside as a dead letter has its effect where it ends: record it there |
//! | [`ack`](Event::ack) | the consumer, once it believes the message settled |
//! | [`commit`](Event::commit) | whoever knows the committed offset: the first one that is *not* done |
//! | [`assign`](Event::assign), [`revoke`](Event::revoke), [`lost`](Event::lost) | the consumer, before it reads; **before** it lets go |
//! | [`committed`](Event::committed), [`aborted`](Event::aborted) | who runs the transaction, once it knows |
//! | [`fault`](Event::fault), [`healed`](Event::healed) | who makes faults: before and after |
//! | [`drained`](Event::drained) | who knows from the broker that nothing is left to read |
//!
//! All of them are optional: what is not recorded is not checked.
//!
//! # The format
//!
//! A file `<process>.<life>.jsonl` has a first line
//! `{"format":1,"run":"…","process":"…","life":0}`, then one event a line:
//!
//! ```json
//! {"at":1764000000000000,"op":"effect","group":"orders","producer":"shop.0","seq":7,"key":"alice"}
//! ```
//!
//! `at` is in microseconds since 1970 and never falls within a file. The other fields are `run`
//! (of a message of another run), `producer`, `seq`, `key`, `group`, `log`, `partition`, `offset`,
//! `epoch`, `tx` and `name`. A process in any language can write it: one unbuffered write a line.

mod error;
mod event;
mod reader;
mod recorder;
mod tag;

pub use error::HistoryError;
pub use event::Event;
pub(crate) use event::Op;
pub(crate) use reader::{History, Seen};
pub use recorder::{Recorder, Tags};
pub use tag::{Corrupt, Tag};
