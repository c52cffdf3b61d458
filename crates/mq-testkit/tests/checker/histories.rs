//! Histories as short lines of text, written as the files that a checker reads.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use mq_testkit::{
    checker::{Checker, Claim, Report},
    history::HistoryError,
};
use serde_json::{Value, json};

/// One event. Its process is its file.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: u64,
    pub(crate) process: String,
    pub(crate) op: String,
    pub(crate) message: Option<(String, u64)>,
    pub(crate) key: Option<String>,
    pub(crate) group: Option<String>,
    /// Log, partition and, but for an assignment, offset.
    pub(crate) place: Option<(String, u32, Option<u64>)>,
    pub(crate) epoch: Option<u64>,
    pub(crate) tx: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) name: Option<String>,
}

/// As the file has it, so that a failing history can be read.
impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.process, self.json())
    }
}

impl Step {
    fn json(&self) -> Value {
        let mut line = json!({ "at": self.at, "op": self.op });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                line[name] = value;
            }
        };
        put("producer", self.message.as_ref().map(|m| json!(m.0)));
        put("seq", self.message.as_ref().map(|m| json!(m.1)));
        put("key", self.key.as_ref().map(|text| json!(text)));
        put("group", self.group.as_ref().map(|text| json!(text)));
        put("log", self.place.as_ref().map(|p| json!(p.0)));
        put("partition", self.place.as_ref().map(|p| json!(p.1)));
        let offset = self.place.as_ref().and_then(|place| place.2);
        put("offset", offset.map(|offset| json!(offset)));
        put("epoch", self.epoch.map(|epoch| json!(epoch)));
        put("tx", self.tx.as_ref().map(|text| json!(text)));
        put("run", self.run.as_ref().map(|text| json!(text)));
        put("name", self.name.as_ref().map(|text| json!(text)));
        line
    }
}

/// `[time] process: op p#0 @log/0:5 g=group k=key e=1 tx=t run=r n=name`, one a line. A line
/// without a time is 10 µs after the one above.
pub(crate) fn steps(text: &str) -> Vec<Step> {
    let mut at = 0;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.split_whitespace().peekable();
            at = match words.peek().and_then(|word| word.parse().ok()) {
                Some(time) => {
                    words.next();
                    time
                }
                None => at + 10,
            };
            let process = words.next().expect("a process").trim_end_matches(':');
            let mut step = Step {
                at,
                process: process.to_owned(),
                op: words.next().expect("an op").to_owned(),
                ..Step::default()
            };
            words.for_each(|word| fill(&mut step, word));
            step
        })
        .collect()
}

fn fill(step: &mut Step, word: &str) {
    if let Some((producer, seq)) = word.split_once('#') {
        step.message = Some((producer.to_owned(), seq.parse().expect("a seq")));
    } else if let Some(place) = word.strip_prefix('@') {
        let (log, rest) = place.split_once('/').expect("a log");
        let (partition, offset) = match rest.split_once(':') {
            Some((partition, offset)) => (partition, Some(offset.parse().expect("an offset"))),
            None => (rest, None),
        };
        let partition = partition.parse().expect("a partition");
        step.place = Some((log.to_owned(), partition, offset));
    } else {
        let (name, value) = word.split_once('=').expect("name=value");
        let value = value.to_owned();
        match name {
            "g" => step.group = Some(value),
            "k" => step.key = Some(value),
            "tx" => step.tx = Some(value),
            "run" => step.run = Some(value),
            "n" => step.name = Some(value),
            "e" => step.epoch = Some(value.parse().expect("an epoch")),
            other => panic!("{other}?"),
        }
    }
}

/// Writes the files of a history and checks them.
pub(crate) fn try_check(claim: Claim, steps: &[Step]) -> Result<Report, HistoryError> {
    let folder = folder();
    fs::create_dir_all(&folder).expect("a folder");
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for step in steps {
        let header = json!({ "format": 1, "run": "r", "process": step.process, "life": 0 });
        let file = files.entry(&step.process).or_insert(format!("{header}\n"));
        writeln!(file, "{}", step.json()).expect("written");
    }
    for (process, text) in files {
        fs::write(folder.join(format!("{process}.0.jsonl")), text).expect("written");
    }
    let report = Checker::new(claim).check(&folder);
    fs::remove_dir_all(&folder).expect("removed");
    report
}

/// Checks a history written as text.
pub(crate) fn check(claim: Claim, text: &str) -> Report {
    try_check(claim, &steps(text)).expect("a whole history")
}

/// A folder that no other test has.
pub(crate) fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("mq-history-{}-{number}", std::process::id()))
}
