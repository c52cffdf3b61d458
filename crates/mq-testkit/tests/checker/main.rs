//! The checker: each class of finding by example, and all of them against a naive model.
#![allow(
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "a test, with its helpers in files of their own: a panic is its failure"
)]

mod findings;
mod histories;
mod memory;
mod model;
