//! A finding: what contradicts a claim, and the events that prove it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

/// What kind of thing was found; defined in the table of the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the table of the module defines them")]
pub enum Class {
    Lost,
    Unexpected,
    Corrupt,
    AbortedRead,
    DuplicateDelivery,
    DuplicateEffect,
    Reordered,
    CommitAhead,
    CommitBack,
    StaleWrite,
    InconsistentOffset,
    Skipped,
    TornTransaction,
    Stuck,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Its class.
    pub class: Class,
    /// What it is about and what is wrong, in words.
    pub what: String,
    /// The few events that prove it, in the order of time. Where the proof is that an event is
    /// missing, they are the events around the gap.
    pub evidence: Vec<Evidence>,
}

/// An event of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Evidence {
    /// The file.
    #[serde(serialize_with = "as_text")]
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The line's text.
    pub text: String,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 14] = [
        Self::Lost,
        Self::Unexpected,
        Self::Corrupt,
        Self::AbortedRead,
        Self::DuplicateDelivery,
        Self::DuplicateEffect,
        Self::Reordered,
        Self::CommitAhead,
        Self::CommitBack,
        Self::StaleWrite,
        Self::InconsistentOffset,
        Self::Skipped,
        Self::TornTransaction,
        Self::Stuck,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lost => "lost",
            Self::Unexpected => "unexpected",
            Self::Corrupt => "corrupt",
            Self::AbortedRead => "aborted read",
            Self::DuplicateDelivery => "duplicate delivery",
            Self::DuplicateEffect => "duplicate effect",
            Self::Reordered => "reordered",
            Self::CommitAhead => "commit ahead",
            Self::CommitBack => "commit back",
            Self::StaleWrite => "stale write",
            Self::InconsistentOffset => "inconsistent offset",
            Self::Skipped => "skipped",
            Self::TornTransaction => "torn transaction",
            Self::Stuck => "stuck",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.what)?;
        for evidence in &self.evidence {
            write!(f, "\n    {evidence}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.file_name().unwrap_or(self.file.as_os_str());
        write!(f, "{}:{}  {}", name.display(), self.line, self.text)
    }
}

/// A path that is no text would make the whole report unwritable.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
