//! The records of a run: one JSON line per case, for the table that is made from them.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

/// One case on one broker.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    /// The run it belongs to: what `MQ_TEST_RUN` says.
    pub(crate) run: &'a str,
    pub(crate) suite: &'a str,
    pub(crate) broker: &'a str,
    /// The broker's product and version; empty where nobody asked it.
    pub(crate) version: &'a str,
    /// What the case is about, for cases that come in groups.
    pub(crate) group: &'a str,
    pub(crate) case: &'a str,
    /// What the case needs, or empty.
    pub(crate) capability: &'a str,
    /// `passed`, `failed`, `ignored` or `not-declared`.
    pub(crate) result: &'a str,
    pub(crate) seconds: f64,
    /// Why it failed or was ignored.
    pub(crate) detail: &'a str,
}

impl Record<'_> {
    /// Appends the record to `<folder>/<suite>.jsonl` if `MQ_TEST_RECORDS` names a folder.
    pub(crate) fn write(&self) -> io::Result<()> {
        match env::var_os("MQ_TEST_RECORDS").filter(|folder| !folder.is_empty()) {
            Some(folder) => self.append_to(Path::new(&folder)),
            None => Ok(()),
        }
    }

    fn append_to(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let path = folder.join(format!("{}.jsonl", self.suite));
        // One write per line: several test programs append to the same file.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?
            .write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_one_json_object_per_line() {
        let folder = env::temp_dir().join(format!("mq-testkit-records-{}", std::process::id()));
        let record = Record {
            run: "1",
            suite: "conformance",
            broker: "mq-memory",
            version: "",
            group: "settlement",
            case: "an_acked_message_does_not_come_again",
            capability: "",
            result: "failed",
            seconds: 0.5,
            detail: "two\nlines",
        };
        record.append_to(&folder).expect("written");
        record.append_to(&folder).expect("appended");
        let text = fs::read_to_string(folder.join("conformance.jsonl")).expect("readable");
        fs::remove_dir_all(&folder).expect("removed");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["detail"], "two\nlines");
        assert_eq!(lines[1]["seconds"], 0.5);
    }
}
