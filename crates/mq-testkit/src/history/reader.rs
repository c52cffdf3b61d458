//! The reader: the files of a folder as one history, in the order of time.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Event, HistoryError};

/// The events of a folder, merged by time.
#[derive(Debug)]
pub(crate) struct History {
    files: Vec<Source>,
    /// The time of each file's next event; of equal times the file whose name comes first.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    run: String,
    /// The file whose event was handed out last and has to be moved on.
    taken: Option<usize>,
    number: u64,
}

/// One event, and where it was read.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) event: Event<'a>,
    /// Its number in the merged history, the same each time the folder is read.
    pub(crate) number: u64,
    /// Its file, as [`History::path`] has it.
    pub(crate) file: usize,
    pub(crate) line: u64,
    pub(crate) text: &'a str,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    line: u64,
    at: u64,
    torn: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    dead_code,
    reason = "process and life are for human readers; they have to be there"
)]
struct Header {
    format: u64,
    run: String,
    process: String,
    life: u64,
}

impl History {
    /// Opens every `*.jsonl` of a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, HistoryError> {
        let io = |source| HistoryError::Io {
            path: folder.to_path_buf(),
            source,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
            {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            let folder = folder.to_path_buf();
            return Err(HistoryError::Empty { folder });
        }
        paths.sort();
        let mut history = Self {
            files: Vec::with_capacity(paths.len()),
            next: BinaryHeap::new(),
            run: String::new(),
            taken: None,
            number: 0,
        };
        for path in paths {
            history.add(path)?;
        }
        Ok(history)
    }

    /// The next event; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Seen<'_>>, HistoryError> {
        if let Some(index) = self.taken.take()
            && let Some(at) = self.files[index].advance()?
        {
            self.next.push(Reverse((at, index)));
        }
        let Some(Reverse((_, index))) = self.next.pop() else {
            return Ok(None);
        };
        self.taken = Some(index);
        let number = self.number;
        self.number += 1;
        let source = &self.files[index];
        let (event, text) = source.event()?;
        Ok(Some(Seen {
            event,
            number,
            file: index,
            line: source.line,
            text,
        }))
    }

    /// The run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// The path of a file.
    pub(crate) fn path(&self, file: usize) -> &Path {
        &self.files[file].path
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// How many files end in a torn line, once all is read.
    pub(crate) fn torn(&self) -> usize {
        self.files.iter().filter(|source| source.torn).count()
    }

    fn add(&mut self, path: PathBuf) -> Result<(), HistoryError> {
        let file = File::open(&path).map_err(|source| HistoryError::Io {
            path: path.clone(),
            source,
        })?;
        let mut source = Source {
            path,
            reader: BufReader::with_capacity(BUFFER, file),
            buffer: Vec::new(),
            line: 0,
            at: 0,
            torn: false,
        };
        if let Some(header) = source.header()? {
            if self.run.is_empty() {
                self.run = header.run;
            } else if self.run != header.run {
                return Err(HistoryError::MixedRuns {
                    file: source.path,
                    found: header.run,
                    expected: self.run.clone(),
                });
            }
            if let Some(at) = source.advance()? {
                self.next.push(Reverse((at, self.files.len())));
            }
        }
        self.files.push(source);
        Ok(())
    }
}

impl Source {
    /// The first line; `None` if the process died before it was written whole.
    fn header(&mut self) -> Result<Option<Header>, HistoryError> {
        if !self.fill()? {
            return Ok(None);
        }
        let header: Header = match serde_json::from_slice(&self.buffer) {
            Ok(header) => header,
            Err(_) if self.torn => return Ok(None),
            Err(error) => return Err(self.malformed(format!("no header: {error}"))),
        };
        match header.format {
            FORMAT => Ok(Some(header)),
            other => Err(self.malformed(format!("format {other}, and this reads {FORMAT}"))),
        }
    }

    /// Reads the next line; its time, or `None` at the end.
    fn advance(&mut self) -> Result<Option<u64>, HistoryError> {
        if !self.fill()? {
            return Ok(None);
        }
        if self.torn && self.event().is_err() {
            return Ok(None);
        }
        let at = match self.time() {
            Some(at) => at,
            None => self.event()?.0.at,
        };
        if at < self.at {
            return Err(self.malformed("its time is before that of the line above".to_owned()));
        }
        self.at = at;
        Ok(Some(at))
    }

    /// The time, where it is the first field as a recorder writes it: the whole line is parsed only
    /// once, when its turn comes.
    fn time(&self) -> Option<u64> {
        let rest = self.buffer.strip_prefix(b"{\"at\":")?;
        let end = rest.iter().position(|byte| *byte == b',')?;
        str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }

    /// Fills the buffer with the next line; false at the end.
    fn fill(&mut self) -> Result<bool, HistoryError> {
        self.buffer.clear();
        self.line += 1;
        let mut limited = (&mut self.reader).take(LINE_BYTES);
        let read = limited.read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|source| HistoryError::Io {
            path: self.path.clone(),
            source,
        })?;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if read as u64 == LINE_BYTES {
            return Err(self.malformed(format!("longer than {LINE_BYTES} bytes")));
        } else {
            // Without its end the line is the last one: whole or torn.
            self.torn |= read > 0;
        }
        Ok(read > 0)
    }

    fn event(&self) -> Result<(Event<'_>, &str), HistoryError> {
        let text = str::from_utf8(&self.buffer);
        let text = text.map_err(|error| self.malformed(error.to_string()))?;
        let event: Event<'_> =
            serde_json::from_str(text).map_err(|error| self.malformed(error.to_string()))?;
        match event.lacks() {
            None => Ok((event, text)),
            Some(what) => Err(self.malformed(format!("{:?} needs {what}", event.op))),
        }
    }

    fn malformed(&self, why: String) -> HistoryError {
        HistoryError::Malformed {
            file: self.path.clone(),
            line: self.line,
            why,
        }
    }
}

const FORMAT: u64 = 1;
const BUFFER: usize = 64 * 1024;
/// Far longer than any event; a file without line ends must not fill the memory.
const LINE_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = r#"{"format":1,"run":"r","process":"p","life":0}"#;

    fn read(files: &[(&str, &[u8])]) -> Result<(Vec<String>, usize), HistoryError> {
        in_a_folder(files, all)
    }

    fn in_a_folder<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Path) -> T) -> T {
        let unique = format!("{:?}", std::thread::current().id());
        let folder = format!("mq-reader-{}-{unique}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).expect("made");
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("written");
        }
        let result = read(&folder);
        fs::remove_dir_all(&folder).expect("removed");
        result
    }

    fn all(folder: &Path) -> Result<(Vec<String>, usize), HistoryError> {
        let mut history = History::open(folder)?;
        let mut texts = Vec::new();
        while let Some(seen) = history.next()? {
            texts.push(seen.text.split('"').nth(9).unwrap_or_default().to_owned());
        }
        Ok((texts, history.torn()))
    }

    fn fault(at: u64, name: &str) -> String {
        format!("{{\"at\":{at},\"op\":\"fault\",\"name\":\"{name}\"}}\n")
    }

    fn file(lines: &str) -> Vec<u8> {
        format!("{HEADER}\n{lines}").into_bytes()
    }

    #[test]
    fn files_are_merged_by_time() {
        let one = file(&(fault(1, "a") + &fault(5, "d") + &fault(5, "e")));
        let two = file(&(fault(2, "b") + &fault(4, "c") + &fault(5, "f") + &fault(9, "g")));
        let (texts, torn) = read(&[("1.jsonl", &one), ("2.jsonl", &two)]).expect("whole");
        assert_eq!((texts.concat(), torn), ("abcdefg".to_owned(), 0));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_counted() {
        let whole = file(&(fault(1, "a") + &fault(2, "b")));
        for cut in 0..whole.len() {
            let (texts, torn) = read(&[("1.jsonl", &whole[..cut])]).expect("only torn");
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            // All of it but the line's end: nothing is missing.
            let complete = lines > 0 && whole[cut] == b'\n';
            assert_eq!(
                texts.len(),
                lines.saturating_sub(1) + usize::from(complete),
                "{cut}"
            );
            let at_an_end = cut == 0 || whole[cut - 1] == b'\n';
            assert_eq!(torn, usize::from(!at_an_end), "{cut}");
        }
    }

    #[test]
    fn anything_else_malformed_names_its_file_and_line() {
        let bad = [
            "no json\n".to_owned(),
            "{\"at\":2,\"op\":\"fa\n".to_owned(),
            "\n".to_owned(),
            "{\"at\":2,\"op\":\"drained\",\"more\":1}\n".to_owned(),
            "{\"at\":2,\"op\":\"effect\",\"group\":\"g\"}\n".to_owned(),
            "{\"at\":2,\"op\":\"ok\",\"producer\":\"p\",\"seq\":1,\"offset\":1}\n".to_owned(),
            fault(0, "earlier"),
            "x".repeat(70_000),
        ];
        for bad in bad {
            let bytes = file(&(fault(1, "a") + &bad + &fault(3, "b")));
            match read(&[("1.jsonl", &bytes)]).expect_err("malformed") {
                HistoryError::Malformed { file, line, .. } => {
                    assert!(file.ends_with("1.jsonl") && line == 3, "{bad}");
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn two_runs_and_no_files_are_refused() {
        let other = String::from_utf8(file(""))
            .expect("text")
            .replace("\"r\"", "\"s\"");
        let mixed = read(&[("1.jsonl", &file("")), ("2.jsonl", other.as_bytes())]);
        assert!(
            matches!(mixed, Err(HistoryError::MixedRuns { .. })),
            "{mixed:?}"
        );
        assert!(matches!(read(&[]), Err(HistoryError::Empty { .. })));
        let version = String::from_utf8(file(""))
            .expect("text")
            .replace(":1,", ":2,");
        let newer = read(&[("1.jsonl", version.as_bytes())]);
        assert!(matches!(
            newer,
            Err(HistoryError::Malformed { line: 1, .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, after_header: bool) {
            let mut all = if after_header { file("") } else { Vec::new() };
            all.extend(bytes);
            let _ = read(&[("1.jsonl", &all)]);
        }
    }
}
