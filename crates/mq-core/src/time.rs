//! Times on the wire: whole milliseconds since 1970, as decimal text.

use std::time::{Duration, SystemTime};

/// A duration in whole milliseconds, at most `u64::MAX`.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970; 0 for anything earlier.
pub fn to_millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, millis)
}

/// The time that many milliseconds after 1970; `None` if this system has no such time.
pub fn from_millis(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip_and_hostile_numbers() {
        let time = from_millis(1_700_000_000_123).expect("a time");
        assert_eq!(to_millis(time), 1_700_000_000_123);
        assert_eq!(
            to_millis(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            0
        );
        let _ = from_millis(u64::MAX);
    }
}
