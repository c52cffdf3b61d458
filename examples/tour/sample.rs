//! The built-in records, and the trouble that some of them make on purpose.

use mq_core::Failure;
use serde::Deserialize;

use crate::input::Record;

/// Orders as JSON lines.
pub(crate) const SAMPLE: &str = r#"
{"order": 1, "customer": "ada", "article": "tea"}
{"order": 2, "customer": "bob", "article": "coffee"}
{"order": 3, "customer": "ada", "article": "milk"}
{"order": 4, "customer": "eve", "article": "sugar", "trouble": "once"}
{"order": 5, "customer": "eve", "article": "tea"}
{"order": 6, "customer": "bob", "article": "phlogiston", "trouble": "poison"}
{"order": 7, "customer": "bob", "article": "cups"}
{"order": 8, "customer": "ada", "article": "unobtainium", "trouble": "always"}
{"order": 9, "customer": "ada", "article": "honey"}
{"order": 10, "customer": "eve", "article": "lemons"}
"#;

/// The field of the sample that is its ordering key.
pub(crate) const SAMPLE_KEY: &str = "customer";

/// How a record of the sample fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trouble {
    /// The first attempt fails.
    Once,
    /// Every attempt fails.
    Always,
    /// No attempt can ever succeed, and the handler knows it.
    Poison,
}

impl Trouble {
    /// What a record says about itself.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        #[derive(Deserialize)]
        struct Order {
            trouble: Option<Trouble>,
        }
        serde_json::from_str::<Order>(record.body.get())
            .ok()?
            .trouble
    }

    /// The failure of this attempt, if it fails.
    pub(crate) fn failure(self, attempt: u32) -> Option<Failure> {
        match self {
            Self::Once if attempt > 1 => None,
            Self::Once => Some(Failure::transient("the shop does not answer")),
            Self::Always => Some("the shelf is empty".into()),
            Self::Poison => Some(Failure::permanent("there is no such article")),
        }
    }
}
