//! What an example should print: which file says so for a broker, and whether an output is what it says.

use crate::brokers::Kind;

/// The in-process broker, as an example is told of it.
pub(super) const MEMORY: &str = "memory";
/// The output expected on every broker without a file of its own.
const ALL: &str = "expected.txt";

/// Picks out of a folder's files those with an expected output.
///
/// One that names no broker would be a broker on which the example is never run, and nobody would see it.
pub(super) fn expectations(files: Vec<String>) -> std::result::Result<Vec<String>, String> {
    let is_one = |file: &String| file.starts_with("expected") && file.ends_with(".txt");
    let known: Vec<String> = std::iter::once(MEMORY)
        .chain(Kind::ALL.map(Kind::service))
        .map(own)
        .chain([ALL.to_owned()])
        .collect();
    let found: Vec<String> = files.into_iter().filter(is_one).collect();
    if let Some(stray) = found.iter().find(|file| !known.contains(file)) {
        return Err(format!(
            "{stray} names no broker; there may be {}",
            known.join(", ")
        ));
    }
    if found.is_empty() {
        return Err(format!(
            "it names no broker: beside it is none of {}",
            known.join(", ")
        ));
    }
    Ok(found)
}

/// The file with the output that is expected on a broker; `None` if the example does not name it.
pub(super) fn expectation<'a>(named: &'a [String], broker: &str) -> Option<&'a str> {
    let find = |wanted: &str| named.iter().find(|file| *file == wanted);
    find(&own(broker)).or_else(|| find(ALL)).map(String::as_str)
}

fn own(broker: &str) -> String {
    format!("expected.{broker}.txt")
}

/// Compares line by line. In `expected`, `{token}` and `{broker}` are filled in, `...` within a line is any text, and a line of
/// `...` alone is any number of lines.
pub(super) fn compare(
    expected: &str,
    actual: &str,
    broker: &str,
    token: &str,
) -> std::result::Result<(), String> {
    let filled = expected
        .replace("{token}", token)
        .replace("{broker}", broker);
    let expected: Vec<&str> = filled.trim_end().lines().map(str::trim_end).collect();
    let actual: Vec<&str> = actual.trim_end().lines().map(str::trim_end).collect();
    // How many of the expected lines the best attempt got through, for the message.
    let mut best = 0;
    if lines_match(&expected, &actual, 0, &mut best) {
        return Ok(());
    }
    match expected.get(best) {
        Some(line) => Err(format!("line {}: not found: {line}", best + 1)),
        None => Err("the program printed more lines than it has".into()),
    }
}

fn lines_match(expected: &[&str], actual: &[&str], done: usize, best: &mut usize) -> bool {
    *best = done.max(*best);
    match expected.split_first() {
        None => actual.is_empty(),
        Some((&"...", rest)) => {
            (0..=actual.len()).any(|skipped| lines_match(rest, &actual[skipped..], done + 1, best))
        }
        Some((line, rest)) => actual.split_first().is_some_and(|(first, others)| {
            text_matches(line, first) && lines_match(rest, others, done + 1, best)
        }),
    }
}

/// Whether the word stands by itself somewhere. In the name of a queue it says nothing: the program made that name itself.
pub(super) fn came_back(text: &str, token: &str) -> bool {
    let of_a_name = |beside: Option<char>| {
        beside.is_some_and(|beside| beside.is_alphanumeric() || matches!(beside, '-' | '_' | '@'))
    };
    text.match_indices(token).any(|(at, _)| {
        let after = &text[at + token.len()..];
        !of_a_name(text[..at].chars().next_back()) && !of_a_name(after.chars().next())
    })
}

fn text_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "broker: {broker}\n...\nreceived {token} after ... ms\n...\ndone\n";

    #[test]
    fn accepts_what_fits_the_placeholders_and_wildcards() {
        let output = "broker: kafka\nhello\nworld\nreceived x7 after 12.5 ms\ndone\n";
        assert_eq!(compare(EXPECTED, output, "kafka", "x7"), Ok(()));
    }

    #[test]
    fn names_the_first_expected_line_that_is_not_there() {
        let output = "broker: kafka\nreceived x7 after 3 ms\ncrashed\n";
        assert_eq!(
            compare(EXPECTED, output, "kafka", "x7").unwrap_err(),
            "line 5: not found: done"
        );
        let more = "broker: kafka\nreceived x7 after 3 ms\ndone\nand more\n";
        assert!(compare(EXPECTED, more, "kafka", "x7").is_err());
    }

    #[test]
    fn a_word_in_a_name_has_not_come_back() {
        for output in ["anything", "declared jobs-x7", "x7_1 a@x7 x77 -x7"] {
            assert!(!came_back(output, "x7"), "{output}");
        }
        for output in ["x7", "token x7, in jobs-x7", "jobs-x7 (x7)"] {
            assert!(came_back(output, "x7"), "{output}");
        }
    }

    #[test]
    fn a_wildcard_in_a_line_matches_only_where_both_ends_do() {
        for (pattern, text, expected) in [
            ("a...c", "abc", true),
            ("a...c", "ac", true),
            ("a...c", "abcd", false),
            ("ab...bc", "abc", false),
            ("...", "", true),
            ("a...b...c", "a1b2c", true),
            ("a...b...c", "acb", false),
            ("plain", "plain!", false),
        ] {
            assert_eq!(text_matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    fn names(files: &[&str]) -> std::result::Result<Vec<String>, String> {
        expectations(files.iter().map(|file| (*file).to_owned()).collect())
    }

    #[test]
    fn a_broker_has_its_own_file_or_the_one_for_all() {
        let all = names(&["main.rs", "expected.txt", "expected.kafka.txt"]).unwrap();
        assert_eq!(expectation(&all, "kafka"), Some("expected.kafka.txt"));
        assert_eq!(expectation(&all, "rabbitmq"), Some("expected.txt"));
        assert_eq!(expectation(&all, "memory"), Some("expected.txt"));
    }

    #[test]
    fn an_example_does_not_run_on_a_broker_that_it_does_not_name() {
        let one = names(&["main.rs", "expected.rabbitmq.txt"]).unwrap();
        assert_eq!(expectation(&one, "rabbitmq"), Some("expected.rabbitmq.txt"));
        assert_eq!(expectation(&one, "kafka"), None);
        assert_eq!(expectation(&one, "memory"), None);
    }

    #[test]
    fn an_example_that_names_no_broker_is_an_error() {
        let error = names(&["main.rs", "notes.txt"]).unwrap_err();
        assert!(error.contains("names no broker"), "{error}");
    }

    #[test]
    fn a_file_for_a_broker_that_there_is_not_is_an_error() {
        let error = names(&["expected.txt", "expected.rabbit.txt"]).unwrap_err();
        assert!(error.starts_with("expected.rabbit.txt"), "{error}");
    }
}
