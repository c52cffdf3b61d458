//! Was anything in flight when a fault struck? A kill between two messages proves nothing, so it does not count.

use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// How many messages were open in processes when a fault struck: sent and not answered, or delivered and without effect. By the
/// ends of their files of the history, which survive their deaths.
///
/// The times are in microseconds since 1970: when the fault was asked for, and when it struck. A publish that became unknown
/// between them was open: a client may learn of a death sooner than we do.
pub(crate) fn at(files: &[PathBuf], asked: u64, struck: u64) -> std::io::Result<usize> {
    let open = |file: &PathBuf| Ok(open(&tail(file)?, asked, struck));
    files.iter().map(open).sum()
}

fn open(text: &str, asked: u64, struck: u64) -> usize {
    let mut open = HashSet::new();
    // The first line may begin in the middle, and the last one may be torn.
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Line<'_>>(line) else {
            continue;
        };
        if event.at > struck {
            break;
        }
        let message = (event.producer.to_owned(), event.seq);
        match event.op {
            "send" | "deliver" => {
                open.insert(message);
            }
            "unknown" if event.at >= asked => {}
            "ok" | "rejected" | "unknown" | "effect" => {
                open.remove(&message);
            }
            _ => {}
        }
    }
    open.len()
}

/// The end of a file, more than long enough for a window of messages.
fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(2 * TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is read of an event.
#[derive(Deserialize)]
struct Line<'a> {
    at: u64,
    op: &'a str,
    #[serde(default)]
    producer: &'a str,
    #[serde(default)]
    seq: u64,
}

const TAIL: u64 = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"cer":"p.0","seq":1}
{"at":10,"op":"send","producer":"p.0","seq":2,"key":"k"}
{"at":20,"op":"send","producer":"p.0","seq":3,"key":"k"}
{"at":30,"op":"ok","producer":"p.0","seq":2,"log":"orders","partition":0,"offset":7}
{"at":40,"op":"deliver","group":"orders","producer":"q.0","seq":2}
{"at":50,"op":"effect","group":"orders","producer":"q.0","seq":2}
{"at":60,"op":"unknown","producer":"p.0","seq":3}
{"at":70,"op":"sen"#;

    #[test]
    fn counts_what_has_no_answer_and_no_effect_at_that_time() {
        let at = [(5, 0), (10, 1), (25, 2), (35, 1), (45, 2), (55, 1), (99, 0)];
        for (time, expected) in at {
            assert_eq!(open(LINES, u64::MAX, time), expected, "at {time}");
        }
    }

    #[test]
    fn what_became_unknown_by_the_fault_was_open() {
        assert_eq!(open(LINES, 60, 65), 1);
        assert_eq!(open(LINES, 61, 65), 0);
    }
}
