//! The recorder: appends what a process does to a file of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use mq_core::Received;
use serde_json::json;

use super::{Corrupt, Event, HistoryError, Tag, tag};

/// Appends what this process does to a file of its own.
///
/// An event is in the file when [`record`](Recorder::record) returns: it is one unbuffered write,
/// so it survives the end of the process, `kill -9` included, but not that of the machine. An event
/// costs about the time of that write, a few microseconds. Share a recorder by reference or `Arc`;
/// threads take turns.
#[derive(Debug)]
pub struct Recorder {
    run: Arc<str>,
    life: String,
    path: PathBuf,
    producers: AtomicU64,
    file: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    line: Vec<u8>,
    broken: bool,
}

/// Counts the messages of one producer and makes their tags.
#[derive(Debug)]
pub struct Tags {
    run: Arc<str>,
    producer: Arc<str>,
    next: AtomicU64,
}

impl Recorder {
    /// Begins a new file `<process>.<life>.jsonl` in a folder, which is made if it is not there.
    ///
    /// A process that is started again with the same name gets the next life. All recorders of a
    /// folder have the same run.
    ///
    /// # Errors
    /// [`HistoryError::Name`] if run or process are not 1 to 100 (a process: 60) letters, digits,
    /// dots, dashes or underscores; [`HistoryError::Io`] if the file cannot be written.
    pub fn create(
        folder: impl AsRef<Path>,
        run: &str,
        process: &str,
    ) -> Result<Self, HistoryError> {
        let run = tag::name("run", run)?;
        tag::process(process)?;
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
        let (path, life, file) = next_life(folder, process)?;
        let header = json!({ "format": 1, "run": &*run, "process": process, "life": life });
        let recorder = Self {
            run,
            life: format!("{process}.{life}"),
            path,
            producers: AtomicU64::new(0),
            file: Mutex::new(Writer {
                file,
                line: Vec::new(),
                broken: false,
            }),
        };
        recorder.write(|line, _| serde_json::to_writer(line, &header))?;
        Ok(recorder)
    }

    /// Appends an event.
    ///
    /// Go on only if it succeeds: a history with a gap proves nothing. Do not call it from many
    /// tasks where a blocking write of a few microseconds is too much.
    ///
    /// # Errors
    /// [`HistoryError::Io`] if it was not written; every later one then fails as well.
    pub fn record(&self, event: Event<'_>) -> Result<(), HistoryError> {
        let mut event = event.within(&self.run);
        self.write(|line, at| {
            event.at = at;
            serde_json::to_writer(line, &event)
        })
    }

    /// Records that the handler got a message whose payload is a tag, and returns the tag, or how it
    /// is corrupt. The group is the message's [`source`](Received::source); its position is recorded
    /// as one of `log`.
    ///
    /// # Errors
    /// As [`record`](Recorder::record).
    pub fn received(
        &self,
        log: &str,
        received: &Received,
    ) -> Result<Result<Tag, Corrupt>, HistoryError> {
        let read = Tag::from_payload(received.payload().map_or(&[], |payload| payload));
        let group = received.source();
        let event = match &read {
            Ok(tag) => Event::deliver(group, tag),
            Err(corrupt) => Event::corrupt(group, corrupt),
        };
        self.record(event.maybe_at(log, received.position()))?;
        Ok(read)
    }

    /// A new producer, with a name that no other life of this process has.
    pub fn tags(&self) -> Tags {
        let number = self.producers.fetch_add(1, Ordering::Relaxed);
        Tags {
            run: Arc::clone(&self.run),
            producer: format!("{}.{number}", self.life).into(),
            next: AtomicU64::new(0),
        }
    }

    /// The run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(
        &self,
        fill: impl FnOnce(&mut Vec<u8>, u64) -> serde_json::Result<()>,
    ) -> Result<(), HistoryError> {
        let mut writer = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Writer { file, line, broken } = &mut *writer;
        if *broken {
            let path = self.path.clone();
            return Err(HistoryError::Broken { path });
        }
        line.clear();
        // The time is taken under the lock, so that it never falls within the file.
        let written = fill(line, now()).map_err(Into::into).and_then(|()| {
            line.push(b'\n');
            file.write_all(line)
        });
        written.map_err(|source| {
            *broken = true;
            io(&self.path, source)
        })
    }
}

impl Tags {
    /// The tag of the producer's next message; an empty key means that it has no order. Of a key
    /// the first 1,024 bytes count.
    pub fn next(&self, key: &str) -> Tag {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        Tag::of(&self.run, &self.producer, seq, key)
    }

    /// The producer's name.
    pub fn producer(&self) -> &str {
        &self.producer
    }
}

fn next_life(folder: &Path, process: &str) -> Result<(PathBuf, u64, File), HistoryError> {
    let mut life = 0;
    loop {
        let path = folder.join(format!("{process}.{life}.jsonl"));
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, life, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => life += 1,
            Err(source) => return Err(io(&path, source)),
        }
    }
}

/// Microseconds since 1970, each time once in this process: what one recorder wrote before another
/// one is read in that order.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    });
    let last = LAST.fetch_max(micros, Ordering::Relaxed);
    if last < micros {
        return micros;
    }
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

static LAST: AtomicU64 = AtomicU64::new(0);

fn io(path: &Path, source: std::io::Error) -> HistoryError {
    let path = path.to_path_buf();
    HistoryError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_has_a_file_and_producers_of_its_own() {
        let folder = std::env::temp_dir().join(format!("mq-recorder-{}", std::process::id()));
        let first = Recorder::create(&folder, "run", "shop").expect("a recorder");
        let second = Recorder::create(&folder, "run", "shop").expect("a recorder");
        assert!(first.path().ends_with("shop.0.jsonl") && second.path().ends_with("shop.1.jsonl"));
        let (one, other) = (first.tags(), first.tags());
        assert_eq!([one.producer(), other.producer()], ["shop.0.0", "shop.0.1"]);
        assert_eq!(second.tags().producer(), "shop.1.0");
        let seqs = [
            one.next("a").seq(),
            one.next("b").seq(),
            other.next("a").seq(),
        ];
        assert_eq!(seqs, [0, 1, 0]);
        for bad in ["", "a/b", &"x".repeat(90)] {
            assert!(Recorder::create(&folder, "run", bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn times_are_never_equal_in_a_process() {
        let threads = (0..4).map(|_| std::thread::spawn(|| (0..10_000).map(|_| now()).collect()));
        let threads: Vec<_> = threads.collect();
        let mut all: Vec<u64> = Vec::new();
        for thread in threads {
            let times: Vec<u64> = thread.join().expect("it ran");
            assert!(times.is_sorted());
            all.extend(times);
        }
        let distinct: std::collections::BTreeSet<&u64> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
