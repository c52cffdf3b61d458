//! What cases compare: numbered messages, refusals, outcomes that are known.

use std::collections::BTreeSet;

use futures::FutureExt;
use mq_core::{ErrorKind, Message, MessageBuilder, Receipt, Received};
use tokio::task::unconstrained;

use crate::{Check, Failure, failure::ensure};

/// A message whose payload is a number.
pub(crate) fn numbered(number: u64) -> MessageBuilder {
    Message::new(number.to_string())
}

/// The number in a payload.
pub(crate) fn number(message: &Message) -> Check<u64> {
    let text = message
        .payload()
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Failure::new(format!("no number in the payload of {message:?}")))
}

/// The numbers in payloads, in the order of the deliveries.
pub(crate) fn numbers<'a>(messages: impl IntoIterator<Item = &'a Received>) -> Check<Vec<u64>> {
    messages
        .into_iter()
        .map(|received| number(received.message()))
        .collect()
}

/// Passes if the numbers are exactly those of the range, each once, in any order.
pub(crate) fn each_once(numbers: &[u64], expected: std::ops::Range<u64>) -> Check {
    let found: BTreeSet<u64> = numbers.iter().copied().collect();
    let missing: Vec<u64> = expected
        .clone()
        .filter(|n| !found.contains(n))
        .take(SHOWN)
        .collect();
    let foreign: Vec<_> = found
        .iter()
        .filter(|n| !expected.contains(n))
        .take(SHOWN)
        .collect();
    let twice = numbers.len() - found.len();
    ensure!(
        missing.is_empty() && foreign.is_empty() && twice == 0,
        "{} deliveries of {expected:?}: missing {missing:?}, unexpected {foreign:?}, {twice} more than once",
        numbers.len()
    );
    Ok(())
}

/// Passes if the operation was refused with this kind of error; returns its text.
#[track_caller]
pub(crate) fn refused<T>(result: mq_core::Result<T>, kind: ErrorKind, what: &str) -> Check<String> {
    match result {
        Err(error) if error.kind() == kind => Ok(error.to_string()),
        Err(error) => Err(Failure::from(error).while_doing(&format!("{what} has to be {kind:?}"))),
        Ok(_) => Err(Failure::new(format!(
            "{what} has to be refused as {kind:?}, and was not"
        ))),
    }
}

/// Passes if every publish has its outcome already, and was confirmed.
pub(crate) fn all_known<H>(handles: Vec<H>) -> Check
where
    H: Future<Output = mq_core::Result<Receipt>>,
{
    for (n, handle) in handles.into_iter().enumerate() {
        // Without Tokio's budget, which lets a ready future wait after many polls in a row.
        match unconstrained(handle).now_or_never() {
            Some(outcome) => drop(outcome?),
            None => {
                return Err(Failure::new(format!(
                    "the outcome of message {n} is not known"
                )));
            }
        }
    }
    Ok(())
}

const SHOWN: usize = 10;
