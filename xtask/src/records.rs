//! Reads the records that the test harnesses leave, and prints them as tables of cases by brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::Result;
use crate::interop;

/// One case on one broker: one JSON line of `MQ_TEST_RECORDS/<suite>.jsonl`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Record {
    #[serde(default)]
    pub(crate) run: String,
    pub(crate) suite: String,
    pub(crate) broker: String,
    #[serde(default)]
    pub(crate) version: String,
    /// What the case is about, for cases that come in groups.
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) case: String,
    pub(crate) result: String,
    #[serde(default)]
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) detail: String,
}

/// Reads every `.jsonl` file of the folder. A line that is no record is an error: a table with holes would mislead.
pub(crate) fn read(folder: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            records.extend(
                parse(&std::fs::read_to_string(&path)?)
                    .map_err(|error| format!("{}: {error}", path.display()))?,
            );
        }
    }
    Ok(records)
}

fn parse(text: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        records.push(
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?,
        );
    }
    Ok(records)
}

/// A table for each suite, with a column for each broker that it ran on; then the details of what failed.
///
/// # Errors
/// If a case is named so that it has no place in its table.
pub(crate) fn tables(records: &[Record]) -> Result<String> {
    let mut suites: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        suites.entry(&record.suite).or_default().push(record);
    }
    let mut text = String::new();
    for (suite, of_suite) in suites {
        let table = match suite {
            interop::SUITE => interop::table(records)?,
            _ => table(suite, &of_suite),
        };
        let _ = writeln!(text, "{table}");
    }
    for record in records.iter().filter(|record| record.result == "failed") {
        let (case, broker, detail) = (&record.case, &record.broker, record.detail.trim());
        let _ = writeln!(text, "FAILED {case} on {broker}: {detail}");
    }
    Ok(text)
}

/// A record of the suite that neither passed nor needs what its broker does not declare.
///
/// # Errors
/// If the suite has no records.
pub(crate) fn has_failed<'a>(records: &'a [Record], suite: &str) -> Result<Option<&'a Record>> {
    let mut of_suite = records
        .iter()
        .filter(|record| record.suite == suite)
        .peekable();
    if of_suite.peek().is_none() {
        return Err(format!("there is no record of suite {suite}").into());
    }
    Ok(of_suite.find(|record| !["passed", "not-declared"].contains(&record.result.as_str())))
}

fn table(suite: &str, records: &[&Record]) -> String {
    let brokers: BTreeSet<(u8, &str)> = records
        .iter()
        .map(|record| (rank(&record.broker), record.broker.as_str()))
        .collect();
    let mut lines = vec![vec![suite.to_owned()], vec![String::new()]];
    for (_, broker) in &brokers {
        let mut versions = records.iter().filter(|record| record.broker == *broker);
        let version = versions.find(|record| !record.version.is_empty());
        lines[0].push((*broker).to_owned());
        lines[1].push(version.map_or_else(String::new, |record| record.version.clone()));
    }
    lines.retain(|line| line.iter().any(|cell| !cell.is_empty()));

    let mut rows: BTreeMap<&str, BTreeMap<&str, &Record>> = BTreeMap::new();
    for record in records {
        let cells = rows.entry(&record.case).or_default();
        // A case that ran twice shows its failure.
        let shown = cells.entry(&record.broker).or_insert(record);
        if record.result == "failed" {
            *shown = record;
        }
    }
    for (case, cells) in &rows {
        let mut line = vec![format!("  {case}")];
        line.extend(brokers.iter().map(|(_, broker)| match cells.get(broker) {
            Some(record) => cell(record),
            None => "no record".to_owned(),
        }));
        lines.push(line);
    }
    aligned(&lines)
}

fn cell(record: &Record) -> String {
    match record.result.as_str() {
        "passed" => format!("passed {:>7.2} s", record.seconds),
        "failed" => format!("FAILED {:>7.2} s", record.seconds),
        "not-declared" => "not declared".to_owned(),
        other => other.to_owned(),
    }
}

/// The in-process broker first, then the others by name.
fn rank(broker: &str) -> u8 {
    u8::from(!broker.contains("memory"))
}

/// The cells in columns.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"suite":"conformance","broker":"mq-amqp","version":"RabbitMQ 4.3.6","case":"unroutable","capability":"unroutable","result":"passed","seconds":0.12,"detail":""}
{"suite":"conformance","broker":"mq-memory","version":"","case":"unroutable","capability":"unroutable","result":"failed","seconds":1.5,"detail":"confirmed instead"}
{"suite":"conformance","broker":"mq-memory","version":"","case":"priority","capability":"priority","result":"not-declared","seconds":0,"detail":""}
"#;

    #[test]
    fn prints_a_row_for_each_case_and_a_column_for_each_broker() {
        let expected = "\
conformance   mq-memory         mq-amqp
                                RabbitMQ 4.3.6
  priority    not declared      no record
  unroutable  FAILED    1.50 s  passed    0.12 s

FAILED unroutable on mq-memory: confirmed instead
";
        assert_eq!(tables(&parse(LINES).unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_suite_of_one_broker_has_one_column() {
        let one = r#"{"suite":"faults","broker":"mq-amqp","case":"cut","result":"passed"}"#;
        let records = parse(&format!("{LINES}{one}")).unwrap();
        assert!(
            tables(&records)
                .unwrap()
                .contains("\nfaults  mq-amqp\n  cut   passed    0.00 s\n")
        );
    }

    #[test]
    fn a_failure_is_not_hidden_by_a_second_run() {
        let mut records = parse(LINES).unwrap();
        let mut again = records[1].clone();
        again.result = "passed".into();
        records.push(again);
        assert!(tables(&records).unwrap().contains("FAILED    1.50 s"));
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error_with_its_number() {
        let error = parse("\n{\"suite\":\"x\"}\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2: "), "{error}");
    }
}
