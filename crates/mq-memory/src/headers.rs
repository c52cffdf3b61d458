//! What this broker reads from a message, and what it refuses.

use mq_core::{Destination, Message, Result, headers};
use tokio::time::Instant;

use crate::error;

/// Checks what a real broker's wire would not carry.
pub(crate) fn check(
    to: &Destination,
    message: &Message,
    limit: usize,
    repeated: bool,
) -> Result<()> {
    let size = message.size();
    if size > limit {
        return Err(error::too_large(to, size, limit));
    }
    let headers = message.headers();
    if headers.is_empty() {
        return Ok(());
    }
    if let Some((name, _)) = headers.iter().find(|(name, _)| headers::is_mapped(name)) {
        let why = "this header stands for a field of the message: set the field";
        return Err(error::invalid_message(to, why, name));
    }
    match headers.repeated() {
        Some(name) if !repeated => {
            let why = "a header name stands more than once, which this shape does not keep";
            Err(error::invalid_message(to, why, name))
        }
        _ => Ok(()),
    }
}

/// The number of the first attempt here: a retry copy has some behind it.
pub(crate) fn attempt(message: &Message) -> u32 {
    let headers = message.headers();
    let behind = if headers.is_empty() {
        None
    } else {
        headers.text(headers::ATTEMPT)
    };
    behind
        .and_then(|text| text.parse().ok())
        .unwrap_or(0_u32)
        .saturating_add(1)
}

/// When the message is no longer worth delivering.
pub(crate) fn expires(message: &Message) -> Option<Instant> {
    // The clock is read only for a message that can expire.
    let life = message.expires_in()?;
    Instant::now().checked_add(life)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_attempt_header_counts_as_none() {
        for (text, expected) in [("2", 3), ("x", 1), ("-1", 1), ("4294967295", u32::MAX)] {
            let message = Message::new("")
                .header(headers::ATTEMPT, text.to_owned())
                .build();
            assert_eq!(attempt(&message), expected, "{text}");
        }
    }
}
