//! The name of a run, which every record of it carries.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::Result;

/// What a line of a page begins with that names the run; it is not compared.
pub(crate) const LINE: &str = "Run";
/// The suite of the records that say which brokers answered.
pub(crate) const BROKERS: &str = "brokers";
/// The variable that tells tests the name.
pub(crate) const VARIABLE: &str = "MQ_TEST_RUN";

/// The name of this run: when it began, in UTC, and the process.
pub(crate) fn id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.map_or(0, |since| since.as_secs());
        format!("{}-{:x}", utc(seconds), std::process::id())
    })
}

/// Writes down that a broker answered, and what it said it is.
pub(crate) fn record_broker(records: &Path, broker: &str, answer: &str) -> Result {
    let line = serde_json::json!({
        "run": id(),
        "suite": BROKERS,
        "broker": broker,
        "version": answer,
        "case": "it_answers",
        "result": "passed",
    });
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(records.join(format!("{BROKERS}.jsonl")))?;
    Ok(writeln!(file, "{line}")?)
}

/// `20261123T224501Z` (days to dates after Howard Hinnant's civil calendar).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_when_it_began() {
        assert_eq!(utc(0), "19700101T000000Z");
        assert_eq!(utc(951_827_696), "20000229T123456Z");
        assert_eq!(utc(1_795_473_901), "20261123T224501Z");
        assert_eq!(id(), id());
    }
}
