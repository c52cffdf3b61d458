//! The table pattern × broker: how many of a pattern's promises held, from the records of suite `patterns`.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::records::{Record, has_failed};

/// The suite whose records these are.
const SUITE: &str = "patterns";
/// The patterns, in the order of the table, with their heading.
const PATTERNS: [(&str, &str); 6] = [
    ("work_queue", "Work queue"),
    ("producer_consumer", "Producer-consumer"),
    ("fan_out", "Fan-out"),
    ("routing", "Routing"),
    ("consumer_group", "Consumer group"),
    ("pipeline", "Pipeline"),
];
/// The brokers of a column, as records name them.
const COLUMNS: [(&str, &[&str]); 3] = [
    ("RabbitMQ", &["mq-amqp"]),
    ("Kafka", &["mq-kafka"]),
    ("in-process", &["mq-memory", "mq-memory (log)"]),
];
/// The page that has a section for each pattern.
const PAGE: &str = "docs/guides/patterns.md";

/// The table as Markdown.
///
/// # Errors
/// If a pattern has no records on a broker, or one did not pass: a table with holes would mislead.
pub(crate) fn markdown(records: &[Record]) -> Result<String> {
    if let Some(record) = has_failed(records, SUITE)? {
        let (case, broker, result) = (&record.case, &record.broker, &record.result);
        return Err(format!("{case} on {broker}: {result}").into());
    }
    let records = records.iter().filter(|record| record.suite == SUITE);
    let records: Vec<(&str, &Record)> = records
        .map(|record| Some((record.case.split_once(": ")?.0, record)))
        .collect::<Option<_>>()
        .ok_or("a case of suite patterns is not `<pattern>: <sentence>`")?;
    if let Some((pattern, _)) = records
        .iter()
        .find(|(name, _)| PATTERNS.iter().all(|(known, _)| known != name))
    {
        return Err(format!("the table does not know the pattern {pattern}").into());
    }
    let mut text = String::from("| pattern |");
    for (column, _) in COLUMNS {
        text.push_str(&format!(" {column} |"));
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(COLUMNS.len())));
    for (pattern, heading) in PATTERNS {
        let anchor = pattern.replace('_', "-");
        text.push_str(&format!("| [{heading}]({PAGE}#{anchor}) |"));
        for (column, brokers) in COLUMNS {
            let of_it = |(name, record): &&(&str, &Record)| {
                *name == pattern && brokers.contains(&record.broker.as_str())
            };
            let found: Vec<&Record> = records
                .iter()
                .filter(of_it)
                .map(|(_, record)| *record)
                .collect();
            let cell = cell(&found).ok_or_else(|| format!("no record of {pattern} on {column}"))?;
            text.push_str(&format!(" {cell} |"));
        }
        text.push('\n');
    }
    Ok(text)
}

/// How many promises held, and what is not declared. In a column of several brokers a promise counts once.
fn cell(records: &[&Record]) -> Option<String> {
    let mut promises: BTreeMap<&str, (bool, &str)> = BTreeMap::new();
    for record in records {
        let (held, why) = promises.entry(&record.case).or_default();
        *held |= record.result == "passed";
        *why = &record.detail;
    }
    let held = promises.values().filter(|(held, _)| *held).count();
    let mut cell = format!("{held} of {}", promises.len());
    let lacking: BTreeSet<&str> = promises
        .values()
        .filter(|(held, _)| !held)
        .map(|(_, why)| *why)
        .collect();
    if !lacking.is_empty() {
        let lacking: Vec<&str> = lacking.into_iter().collect();
        cell.push_str(&format!("; not declared: {}", lacking.join(", ")));
    }
    (!promises.is_empty()).then_some(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(broker: &str, case: &str, result: &str) -> Record {
        let json = format!(
            r#"{{"suite":"patterns","broker":"{broker}","version":"v","case":"{case}","result":"{result}","detail":"priority"}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn all() -> Vec<Record> {
        let brokers = COLUMNS.iter().flat_map(|(_, brokers)| *brokers);
        brokers
            .flat_map(|broker| {
                PATTERNS.map(|(pattern, _)| record(broker, &format!("{pattern}: a"), "passed"))
            })
            .collect()
    }

    #[test]
    fn counts_what_held_and_names_what_is_not_declared() {
        let mut records = all();
        records.push(record("mq-kafka", "fan_out: b", "not-declared"));
        records.push(record("mq-memory", "fan_out: b", "passed"));
        records.push(record("mq-memory (log)", "fan_out: b", "not-declared"));
        let text = markdown(&records).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| pattern | RabbitMQ | Kafka | in-process |");
        assert_eq!(
            lines[4],
            "| [Fan-out](docs/guides/patterns.md#fan-out) | 1 of 1 | 1 of 2; not declared: priority | 2 of 2 |"
        );
        assert_eq!(lines.len(), 2 + PATTERNS.len());
    }

    #[test]
    fn a_promise_that_did_not_hold_or_was_not_tried_is_no_table() {
        for (broken, reason) in [("failed", "failed"), ("ignored", "ignored")] {
            let mut records = all();
            records.push(record("mq-amqp", "routing: b", broken));
            let error = markdown(&records).unwrap_err().to_string();
            assert_eq!(error, format!("routing: b on mq-amqp: {reason}"));
        }
        let mut records = all();
        records
            .retain(|record| !(record.broker == "mq-kafka" && record.case.starts_with("routing")));
        assert_eq!(
            markdown(&records).unwrap_err().to_string(),
            "no record of routing on Kafka"
        );
        records.push(record("mq-kafka", "saga: a", "passed"));
        assert!(markdown(&records).unwrap_err().to_string().contains("saga"));
    }

    #[test]
    fn each_pattern_has_a_section_on_its_page() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join(PAGE)).unwrap();
        for (_, heading) in PATTERNS {
            assert!(page.contains(&format!("\n## {heading}\n")), "{heading}");
        }
    }
}
