//! Why a history cannot be written or read.

use std::{io, path::PathBuf};

/// Why a history cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The file or folder could not be opened, read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not an event. The last line of a file may be torn; every other one has to be whole.
    #[error("{file}, line {line}: {why}", file = file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The folder holds no history.
    #[error("{folder} holds no file *.jsonl: is it the folder the recorders were given?", folder = folder.display())]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// Files of two runs lie in one folder.
    #[error("{file} is of the run {found}, others are of {expected}; give each run a folder of its own", file = file.display())]
    MixedRuns {
        /// The file that is of another run.
        file: PathBuf,
        /// Its run.
        found: String,
        /// The run of the files before it.
        expected: String,
    },
    /// A run, process, producer or key is not allowed as a name.
    #[error("{name:?} is no {what}: {rule}")]
    Name {
        /// What it was given for.
        what: &'static str,
        /// The name; a long one is cut.
        name: String,
        /// What a name may be.
        rule: &'static str,
    },
    /// An earlier event could not be written whole, so the file must not grow any more.
    #[error("{path}: an earlier event was not written; this history ends there", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
}
