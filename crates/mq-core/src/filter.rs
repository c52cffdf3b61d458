//! Filters of a subscription: all, exact routing key, pattern, headers.

use crate::{
    Error, ErrorKind, Result,
    headers::{self, Headers},
};

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

    /// Checks the filter against the rules that hold on every broker.
    ///
    /// A backend calls it before it declares or opens a subscription, and adds its own rules.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) for a key or pattern of more than 255 bytes, and for a filter by
    /// headers that names none, or one twice, or one which stands for another field of the message
    /// ([`is_mapped`](headers::is_mapped)).
    pub fn check(&self, operation: &'static str) -> Result<()> {
        let refused = |text: &'static str, shown: &str| {
            let shown: String = shown.chars().take(64).collect();
            let error = Error::new(ErrorKind::Config, operation, text);
            Err(error.with("filter", shown.escape_debug()))
        };
        match self {
            Self::All => Ok(()),
            Self::Exact(key) | Self::Pattern(key) if key.len() > MAX_KEY => {
                refused("a routing key has at most 255 bytes", key)
            }
            Self::Exact(_) | Self::Pattern(_) => Ok(()),
            Self::AllHeaders(pairs) | Self::AnyHeader(pairs) => {
                if pairs.is_empty() {
                    return refused("a filter by headers names at least one header", "");
                }
                for (at, (name, _)) in pairs.iter().enumerate() {
                    if headers::is_mapped(name) {
                        return refused(
                            "this header stands for a field of the message; filter by one of your own",
                            name,
                        );
                    }
                    if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                        return refused("a filter names each header once", name);
                    }
                }
                Ok(())
            }
        }
    }
}

/// The most bytes of a routing key: an AMQP short string (AMQP 0-9-1, section 4.2.5.3).
const MAX_KEY: usize = 255;

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

    #[test]
    fn what_no_broker_can_hold_is_refused_by_its_name() {
        let pairs = |name: &str| vec![(name.to_owned(), "x".to_owned())];
        let long = "k".repeat(256);
        let refused = [
            (Filter::exact(&long), &long[..64]),
            (Filter::pattern(&long), &long[..64]),
            (Filter::AllHeaders(Vec::new()), ""),
            (Filter::AnyHeader(Vec::new()), ""),
            (Filter::AnyHeader(pairs("mq-id")), "mq-id"),
            (Filter::AllHeaders(pairs("content-type")), "content-type"),
            (Filter::AnyHeader([pairs("a"), pairs("a")].concat()), "a"),
        ];
        for (filter, shown) in refused {
            let error = filter.check("declare").expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(error.context("filter"), Some(shown));
        }
        let taken = [
            Filter::All,
            Filter::exact(""),
            Filter::pattern("k".repeat(255)),
            Filter::AllHeaders(pairs("mq-attempt")),
        ];
        for filter in taken {
            assert!(filter.check("declare").is_ok(), "{filter:?}");
        }
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

        #[test]
        fn headers_match_as_the_definition_says(
            has in proptest::collection::vec(("[ab]", "[xy]"), 0..5),
            wanted in proptest::collection::vec(("[ab]", "[xy]"), 1..4),
        ) {
            let headers: Headers = has.iter().cloned().collect();
            // A name that stands more than once has each of its values.
            let met = wanted.iter().filter(|pair| has.contains(pair)).count();
            let all = Filter::AllHeaders(wanted.clone()).takes(None, &headers);
            let any = Filter::AnyHeader(wanted.clone()).takes(None, &headers);
            proptest::prop_assert_eq!((all, any), (met == wanted.len(), met > 0));
        }
    }
}
