//! The proxy: each fault has its effect, is seen at once, ends when it is cleared; nothing is left.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod ends;
mod faults;
#[cfg(feature = "kafka-proxy")]
mod kafka;
mod peer;
mod scripts;
