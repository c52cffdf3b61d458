//! Filters of a subscription: all, exact routing key, pattern, headers.

use crate::headers::Headers;

/// Which messages of a topic a subscription takes (EIP *Message Filter*).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_enums,
    reason = "every backend must map every filter; a new one must not fall through"
)]
pub enum Filter {
    /// Every message.
    #[default]
    All,
    /// Messages with exactly this routing key; a message without one has the empty key.
    Exact(String),
    /// Messages whose routing key fits a pattern of words separated by dots: `*` is one word, `#`
    /// any number of words, none included (AMQP 0-9-1, topic exchange).
    Pattern(String),
    /// Messages that have all of these headers with these values.
    AllHeaders(Vec<(String, String)>),
    /// Messages that have at least one of these headers with this value.
    AnyHeader(Vec<(String, String)>),
}

impl Filter {
    /// A filter for exactly this routing key.
    pub fn exact(key: impl Into<String>) -> Self {
        Self::Exact(key.into())
    }

    /// A filter for a pattern such as `eu.*.paid` or `eu.#`.
    pub fn pattern(pattern: impl Into<String>) -> Self {
        Self::Pattern(pattern.into())
    }

    /// True if a message with this routing key and these headers is taken.
    pub fn takes(&self, routing_key: Option<&str>, headers: &Headers) -> bool {
        let key = routing_key.unwrap_or_default();
        let has =
            |(name, value): &(String, String)| headers.all(name).any(|v| v.as_str() == Some(value));
        match self {
            Self::All => true,
            Self::Exact(exact) => exact == key,
            Self::Pattern(pattern) => fits(pattern, key),
            Self::AllHeaders(wanted) => wanted.iter().all(has),
            Self::AnyHeader(wanted) => wanted.iter().any(has),
        }
    }
}

/// Matches word by word, in at most words × words steps, so a hostile pattern cannot stall it.
fn fits(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    // The empty key has no words; `a..b` has an empty one in the middle.
    let key: Vec<&str> = if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    };
    let (mut p, mut k) = (0, 0);
    // The last `#` seen, and how far its match reaches: a mismatch lets it take one more word.
    let mut hash: Option<(usize, usize)> = None;
    while k < key.len() {
        match pattern.get(p) {
            Some(&"#") => {
                hash = Some((p, k));
                p += 1;
            }
            Some(&word) if word == "*" || word == key[k] => {
                p += 1;
                k += 1;
            }
            _ => match hash {
                Some((at, reach)) => {
                    hash = Some((at, reach + 1));
                    p = at + 1;
                    k = reach + 1;
                }
                None => return false,
            },
        }
    }
    let rest = &pattern[p..];
    // An empty pattern is one empty word and fits the empty key.
    rest.iter().all(|word| *word == "#") || (key.is_empty() && rest == [""])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_topic_exchange_does() {
        let cases = [
            ("#", "", true),
            ("#", "a.b", true),
            ("*", "", false),
            ("*", "a", true),
            ("a.*", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c.d", false),
            ("a.#.d", "a.d", true),
            ("a.#.d.#", "a.b.d.x.d.y", true),
            ("*.*.#", "a", false),
            ("", "", true),
            ("", "a", false),
            ("a..b", "a..b", true),
        ];
        for (pattern, key, taken) in cases {
            let filter = Filter::pattern(pattern);
            assert_eq!(
                filter.takes(Some(key), &Headers::new()),
                taken,
                "{pattern} on {key}"
            );
        }
    }

    #[test]
    fn headers_match_all_or_any() {
        let headers: Headers = [("region", "eu"), ("kind", "order")].into_iter().collect();
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let wanted = vec![pair("region", "eu"), pair("kind", "invoice")];
        assert!(Filter::AnyHeader(wanted.clone()).takes(None, &headers));
        assert!(!Filter::AllHeaders(wanted).takes(None, &headers));
    }

    /// The definition, word by word, with no regard for time.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => {
                naive(rest, key) || (!key.is_empty() && naive(pattern, &key[1..]))
            }
            (["*", rest @ ..], [_, tail @ ..]) => naive(rest, tail),
            ([word, rest @ ..], [first, tail @ ..]) => word == first && naive(rest, tail),
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn patterns_match_as_the_definition_says(
            pattern in proptest::collection::vec("[ab*#]", 1..7),
            key in proptest::collection::vec("[ab]", 0..7),
        ) {
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            let taken = Filter::pattern(pattern.join(".")).takes(Some(&key.join(".")), &Headers::new());
            proptest::prop_assert_eq!(taken, naive(&pattern, &key));
        }
    }
}
