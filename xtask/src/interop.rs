//! The interop matrix: which field goes which way between us and which peer, from the records of suite `interop`.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::records::{Record, aligned, has_failed};

/// The suite whose records these are.
pub(crate) const SUITE: &str = "interop";
/// The directions of each peer, as the cases name them and as the table does.
const COLUMNS: [(&str, &str); 6] = [
    (" to pika", "to pika"),
    (" from pika", "from pika"),
    (" to kcat", "to kcat"),
    (" from kcat", "from kcat"),
    (" to java", "to Java"),
    (" from java", "from Java"),
];

/// The matrix as text.
pub(crate) fn table(records: &[Record]) -> Result<String> {
    let mut lines = vec![vec![SUITE.to_owned()]];
    lines[0].extend(COLUMNS.map(|(_, shown)| shown.to_owned()));
    for (field, cells) in rows(records)? {
        let mut line = vec![format!("  {field}")];
        line.extend(cells.map(|cell| cell.map_or_else(String::new, str::to_owned)));
        lines.push(line);
    }
    Ok(aligned(&lines))
}

/// The matrix as Markdown.
///
/// # Errors
/// If there are no records, or one did not pass: a table with holes would mislead.
pub(crate) fn markdown(records: &[Record]) -> Result<String> {
    if let Some(record) = has_failed(records, SUITE)? {
        return Err(format!("{}: {}", record.case, record.result).into());
    }
    let mut text = String::from("| field |");
    for (_, shown) in COLUMNS {
        text.push_str(&format!(" {shown} |"));
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(COLUMNS.len())));
    for (field, cells) in rows(records)? {
        let cells = cells.map(|cell| if cell.is_some() { "yes" } else { "–" });
        text.push_str(&format!("| {field} | {} |\n", cells.join(" | ")));
    }
    Ok(text)
}

type Row<'a> = (&'a str, [Option<&'a str>; COLUMNS.len()]);

/// The fields that concern most peers first.
fn rows(records: &[Record]) -> Result<Vec<Row<'_>>> {
    let mut rows: BTreeMap<&str, [Option<&str>; COLUMNS.len()]> = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for record in records.iter().filter(|record| record.suite == SUITE) {
        let place = COLUMNS
            .iter()
            .enumerate()
            .find_map(|(column, (suffix, _))| Some((record.case.strip_suffix(suffix)?, column)));
        let Some((field, column)) = place else {
            unknown.insert(record.case.as_str());
            continue;
        };
        let cell = &mut rows.entry(field).or_default()[column];
        // A case that ran twice shows its failure.
        if *cell != Some("FAILED") {
            *cell = Some(match record.result.as_str() {
                "passed" => "yes",
                "failed" => "FAILED",
                other => other,
            });
        }
    }
    if let Some(case) = unknown.first() {
        return Err(format!("the interop case `{case}` names no peer").into());
    }
    let mut rows: Vec<Row<'_>> = rows.into_iter().collect();
    rows.sort_by_key(|(_, cells)| std::cmp::Reverse(cells.iter().flatten().count()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(case: &str, result: &str) -> Record {
        let json =
            format!(r#"{{"suite":"interop","broker":"b","case":"{case}","result":"{result}"}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_row_for_each_field_and_a_column_for_each_way() {
        let records = [
            record("answer to a request from pika", "passed"),
            record("key to kcat", "passed"),
            record("key from java", "passed"),
            record("key to pika", "passed"),
        ];
        let expected = "\
| field | to pika | from pika | to kcat | from kcat | to Java | from Java |
|---|---|---|---|---|---|---|
| key | yes | – | yes | – | – | yes |
| answer to a request | – | yes | – | – | – | – |
";
        assert_eq!(markdown(&records).unwrap(), expected);
    }

    #[test]
    fn a_failed_or_skipped_case_shows_in_the_text_and_is_no_page() {
        let mut records = vec![
            record("key to pika", "failed"),
            record("key to pika", "passed"),
        ];
        let expected = "\
interop  to pika  from pika  to kcat  from kcat  to Java  from Java
  key    FAILED
";
        assert_eq!(table(&records).unwrap(), expected);
        assert!(markdown(&records).is_err());
        records = vec![record("key from kcat", "ignored")];
        assert!(table(&records).unwrap().contains("ignored"));
        assert_eq!(
            markdown(&records).unwrap_err().to_string(),
            "key from kcat: ignored"
        );
    }

    #[test]
    fn without_records_or_with_a_case_of_no_peer_there_is_no_matrix() {
        assert!(markdown(&[]).is_err());
        let error = table(&[record("key", "passed")]).unwrap_err();
        assert_eq!(error.to_string(), "the interop case `key` names no peer");
    }
}
