//! The way of one message through the cascade: where it enters, and the key that leads it.

use std::time::{Duration, SystemTime};

use lapin::types::ShortString;
use mq_core::{Error, ErrorKind, Result};

use super::parts::{LEVELS, level};

/// When and by what way a message gets to its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Later {
    /// The exchange of its highest level.
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    /// It is not there before this time.
    pub(crate) due: SystemTime,
}

impl Later {
    /// From now on in this time or, since the cascade knows whole seconds, up to one second more.
    ///
    /// # Errors
    /// `Unsupported` for a delay over [`MAX_DELAY`], and for a queue whose name has no place in a
    /// key.
    pub(crate) fn after(operation: &'static str, queue: &str, delay: Duration) -> Result<Self> {
        let seconds = whole_seconds(operation, delay)?;
        let mut key = String::with_capacity(2 * LEVELS as usize + queue.len());
        for bit in (0..LEVELS).rev() {
            key.push(if seconds >> bit & 1 == 1 { '1' } else { '0' });
            key.push('.');
        }
        key.push_str(queue);
        let due = SystemTime::now() + Duration::from_secs(seconds.into());
        Ok(Self {
            exchange: level(seconds.ilog2()).into(),
            key: short(operation, queue, key)?,
            due,
        })
    }
}

/// A delay in the steps of the cascade: whole seconds, never less than asked, at least one.
pub(super) fn whole_seconds(operation: &'static str, delay: Duration) -> Result<u32> {
    let up = u64::from(delay.subsec_nanos() > 0);
    match u32::try_from(delay.as_secs().saturating_add(up).max(1)) {
        Ok(seconds) if seconds < 1 << LEVELS => Ok(seconds),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            operation,
            "the delay is longer than the delay cascade can make it",
        )
        .with("seconds", delay.as_secs())
        .with("most", (1_u32 << LEVELS) - 1)),
    }
}

/// What binds a queue to the end of the cascade. Only that many `*` keep the bits apart from a name:
/// `#` would let a message to `a.orders` reach `orders` too.
pub(super) fn binding(operation: &'static str, queue: &str) -> Result<ShortString> {
    if queue.split('.').any(|word| matches!(word, "*" | "#")) {
        let text = "a queue with the words `*` or `#` in its name would get the delayed messages of others";
        return Err(Error::new(ErrorKind::Unsupported, operation, text).with("queue", queue));
    }
    short(operation, queue, "*.".repeat(LEVELS as usize) + queue)
}

fn short(operation: &'static str, queue: &str, key: String) -> Result<ShortString> {
    let most = 255 - 2 * LEVELS as usize;
    ShortString::try_new(key).map_err(|_| {
        let text = "a queue that messages are delayed for has a shorter name";
        Error::new(ErrorKind::Unsupported, operation, text)
            .with("queue", queue)
            .with("bytes", queue.len())
            .with("most", most)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(delay: Duration) -> Result<u32> {
        whole_seconds("test", delay)
    }

    proptest! {
        #[test]
        fn a_delay_is_never_shorter_and_less_than_a_second_longer(nanos in 0_u64..(1 << 27) * 1_000_000_000) {
            let asked = Duration::from_nanos(nanos);
            let made = Duration::from_secs(seconds(asked).unwrap().into());
            prop_assert!(made >= asked);
            prop_assert!(made < asked + Duration::from_secs(1) || made == Duration::from_secs(1));
        }

        #[test]
        fn the_key_is_the_delay_in_binary_and_then_the_queue(delay in 1_u32..1 << LEVELS, queue in "[a-z@.]{1,40}") {
            let later = Later::after("test", &queue, Duration::from_secs(delay.into())).unwrap();
            let key = later.key.as_str();
            let bits: String = key[..56].split('.').collect();
            prop_assert_eq!(u32::from_str_radix(&bits, 2).unwrap(), delay);
            prop_assert_eq!(&key[56..], &queue);
            prop_assert_eq!(later.exchange.as_str(), level(delay.ilog2()));
        }
    }

    #[test]
    fn a_delay_ends_with_the_last_bit() {
        let longest = (1 << LEVELS) - 1;
        assert_eq!(
            seconds(Duration::from_secs(longest)).unwrap(),
            (1 << LEVELS) - 1
        );
        for long in [
            Duration::from_secs(longest) + Duration::from_nanos(1),
            Duration::MAX,
        ] {
            let error = seconds(long).expect_err("too long");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.context("most"), Some("268435455"));
        }
    }

    #[test]
    fn a_queue_that_has_no_place_in_a_key_is_named() {
        let longest = "q".repeat(199);
        assert_eq!(binding("test", &longest).unwrap().as_str().len(), 255);
        for bad in [format!("{longest}q"), "a.*".into(), "#".into()] {
            let error = binding("test", &bad).expect_err("no place");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.context("queue"), Some(&*bad));
        }
        // Inside a word they are letters like any other.
        assert!(binding("test", "a*b.c#").is_ok());
    }
}
