//! The tables of `docs/evidence.md`: conformance, planted bugs and the network matrix, from the records of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::Result;
use crate::records::{Record, has_failed};
use crate::run;

const CONFORMANCE: &str = "conformance";
const PLANTED: &str = "planted-bugs";
const NETWORK: &str = "network";
/// The columns of the conformance tables, as records name them.
const BROKERS: [&str; 4] = ["mq-memory", "mq-memory (log)", "mq-amqp", "mq-kafka"];

/// Group × broker, and below it case × broker.
///
/// # Errors
/// If a case did not pass, or has no record on a broker: a table with holes would mislead.
pub(crate) fn conformance(records: &[Record]) -> Result<String> {
    if let Some(record) = has_failed(records, CONFORMANCE)? {
        let (case, broker, result) = (&record.case, &record.broker, &record.result);
        return Err(format!("{case} on {broker}: {result}").into());
    }
    let mut groups: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, &Record>>> = BTreeMap::new();
    let of_suite = records.iter().filter(|r| r.suite == CONFORMANCE);
    for record in of_suite.filter(|record| !record.group.is_empty()) {
        let cases = groups.entry(&record.group).or_default();
        let cells = cases.entry(&record.case).or_default();
        cells.insert(&record.broker, record);
    }
    let (mut counts, mut all) = (String::new(), String::new());
    let mut sums = [(0, 0); BROKERS.len()];
    for (group, cases) in &groups {
        let mut of_group = [(0, 0); BROKERS.len()];
        for (case, cells) in cases {
            let _ = write!(all, "| {group} | {} |", case.replace('_', " "));
            for (column, broker) in BROKERS.iter().enumerate() {
                let record = cells.get(broker);
                let record = record.ok_or_else(|| format!("no record of {case} on {broker}"))?;
                for count in [&mut of_group[column], &mut sums[column]] {
                    match record.result == "passed" {
                        true => count.0 += 1,
                        false => count.1 += 1,
                    }
                }
                let cell = match record.result.as_str() {
                    "passed" => "passed".to_owned(),
                    _ => format!("not declared: {}", record.detail),
                };
                let _ = write!(all, " {cell} |");
            }
            all.push('\n');
        }
        let name = group.replace('_', " ");
        let _ = writeln!(counts, "| {name} |{}", counted(&of_group));
    }
    let columns = BROKERS.join(" | ");
    let rule = "---|".repeat(BROKERS.len());
    let cases: usize = groups.values().map(BTreeMap::len).sum();
    Ok(format!(
        "{}\n| about | {columns} |\n|---|{rule}\n{counts}| **all** |{}\n\n\
        <details><summary>The {cases} cases</summary>\n\n\
        | about | case | {columns} |\n|---|---|{rule}\n{all}\n</details>\n",
        made_by(records),
        counted(&sums),
    ))
}

fn counted(counts: &[(usize, usize)]) -> String {
    let cell = |(passed, lacking): &(usize, usize)| match lacking {
        0 => format!(" {passed} passed |"),
        _ => format!(" {passed} passed, {lacking} not declared |"),
    };
    counts.iter().map(cell).collect()
}

/// Bug, its finding, how many runs it took, how many without it were clean.
///
/// # Errors
/// If there is no record, or one that did not pass or does not say it all.
pub(crate) fn planted(records: &[Record]) -> Result<String> {
    if let Some(record) = has_failed(records, PLANTED)? {
        return Err(format!("{}: {}", record.case, record.result).into());
    }
    let of_suite = records.iter().filter(|record| record.suite == PLANTED);
    let mut rows = BTreeSet::new();
    for record in of_suite {
        let parts: Vec<&str> = record.detail.split("; ").collect();
        let [finding, runs, clean] = parts[..] else {
            return Err(format!("{}: {:?} is no result", record.case, record.detail).into());
        };
        rows.insert(format!(
            "| {} | {finding} | {runs} | {clean} |\n",
            record.case
        ));
    }
    let rows: String = rows.into_iter().collect();
    Ok(format!(
        "{}\n| bug (on) | its finding, and no other | found in run | clean without it |\n|---|---|---|---|\n{rows}",
        made_by(records)
    ))
}

/// Toxic × side of each broker; a cell says at which moments it held.
///
/// # Errors
/// If a case did not pass, or its name has no place in the table.
pub(crate) fn network(records: &[Record]) -> Result<String> {
    let of_suite: Vec<&Record> = records.iter().filter(|r| r.suite == NETWORK).collect();
    if of_suite.is_empty() {
        return Ok("No run of these tests is recorded yet.\n".to_owned());
    }
    let mut rows: BTreeMap<&str, BTreeMap<(&str, &str), BTreeSet<&str>>> = BTreeMap::new();
    for record in &of_suite {
        let (case, result) = (&record.case, &record.result);
        if result != "passed" {
            return Err(format!("{case} on {}: {result}", record.broker).into());
        }
        // Cases about other things than a cell have other names.
        let Some((side, rest)) = case.split_once(": ") else {
            continue;
        };
        let (toxic, moment) = rest
            .split_once(", ")
            .ok_or_else(|| format!("`{case}` is not `<side>: <toxic>, <moment>`"))?;
        let cells = rows.entry(toxic).or_default();
        let column = (record.broker.as_str(), side);
        cells.entry(column).or_default().insert(moment);
    }
    let columns: BTreeSet<(&str, &str)> = rows.values().flat_map(BTreeMap::keys).copied().collect();
    let mut text = format!("{}\n| fault |", made_by(records));
    for (broker, side) in &columns {
        let _ = write!(text, " {broker} {side} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns.len()));
    for (toxic, cells) in rows {
        let _ = write!(text, "| {toxic} |");
        for column in &columns {
            let moments = cells.get(column).into_iter().flatten().copied();
            let moments: Vec<&str> = moments.collect();
            match moments.is_empty() {
                true => text.push_str(" – |"),
                false => {
                    let _ = write!(text, " {} |", moments.join(", "));
                }
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// Which run it was, on what. This line differs from run to run, and is not compared.
fn made_by(records: &[Record]) -> String {
    let run = records.iter().map(|record| record.run.as_str());
    let run = run.max().filter(|run| !run.is_empty()).unwrap_or("unknown");
    let on = records.iter().filter(|record| record.suite == run::BROKERS);
    let on: BTreeSet<&str> = on.map(|record| record.version.as_str()).collect();
    let on: Vec<&str> = on.into_iter().collect();
    let on = if on.is_empty() {
        String::new()
    } else {
        format!(" on {}", on.join(" and "))
    };
    format!("{} `{run}`{on}.\n", run::LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(suite: &str, broker: &str, case: &str, result: &str, detail: &str) -> Record {
        let json = format!(
            r#"{{"run":"r1","suite":"{suite}","broker":"{broker}","group":"settlement","case":"{case}","result":"{result}","detail":"{detail}"}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn everywhere() -> Vec<Record> {
        BROKERS
            .map(|broker| record(CONFORMANCE, broker, "an_ack", "passed", ""))
            .to_vec()
    }

    #[test]
    fn groups_are_counted_and_every_case_is_below() {
        let mut records = everywhere();
        records.extend(BROKERS.map(|b| record(CONFORMANCE, b, "a_delay", "not-declared", "defer")));
        let text = conformance(&records).unwrap();
        assert!(text.starts_with("Run `r1`.\n"), "{text}");
        let cell = "1 passed, 1 not declared |";
        assert!(
            text.contains(&format!("| settlement | {cell} {cell} {cell} {cell}\n")),
            "{text}"
        );
        assert!(
            text.contains("| settlement | a delay | not declared: defer |"),
            "{text}"
        );
    }

    #[test]
    fn a_case_that_failed_or_is_missing_on_a_broker_is_no_table() {
        let mut records = everywhere();
        records.pop();
        let error = conformance(&records).unwrap_err().to_string();
        assert_eq!(error, "no record of an_ack on mq-kafka");
        records.push(record(CONFORMANCE, "mq-kafka", "an_ack", "failed", ""));
        assert!(conformance(&records).is_err());
    }

    #[test]
    fn a_planted_bug_has_its_finding_and_the_runs() {
        let records = [record(
            PLANTED,
            "mq-testkit",
            "ack early (queues)",
            "passed",
            "lost; 1 of 3; 20 of 20",
        )];
        let text = planted(&records).unwrap();
        assert!(
            text.contains("| ack early (queues) | lost | 1 of 3 | 20 of 20 |\n"),
            "{text}"
        );
        assert!(planted(&[record(PLANTED, "mq-testkit", "x", "passed", "")]).is_err());
        assert!(planted(&[]).is_err());
    }

    #[test]
    fn a_fault_of_the_network_has_a_cell_for_each_side() {
        let one = record(
            NETWORK,
            "mq-amqp",
            "publisher: black hole, idle",
            "passed",
            "",
        );
        let other = record(
            NETWORK,
            "mq-amqp",
            "publisher: black hole, handshake",
            "passed",
            "",
        );
        let text = network(&[one.clone(), other]).unwrap();
        assert!(text.contains("| fault | mq-amqp publisher |"), "{text}");
        assert!(text.contains("| black hole | handshake, idle |"), "{text}");
        let failed = Record {
            result: "failed".into(),
            ..one
        };
        assert!(network(&[failed]).is_err());
    }
}
