//! What a crate's README promises to a reader who copies it: the `cargo add` lines and the first complete program.

use std::collections::BTreeMap;

/// A dependency that `cargo add` would write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) features: Vec<String>,
    pub(crate) no_default_features: bool,
}

/// The dependencies of all `cargo add` lines. Features belong to the last crate of their line.
pub(crate) fn added(readme: &str) -> BTreeMap<String, Added> {
    let mut added: BTreeMap<String, Added> = BTreeMap::new();
    for line in readme.lines() {
        let line = line.trim().trim_matches('`').trim_start_matches("$ ");
        let Some(arguments) = line.strip_prefix("cargo add ") else {
            continue;
        };
        let arguments = arguments
            .split(['#', '`', '&', ';'])
            .next()
            .unwrap_or_default();
        let mut names = Vec::new();
        let mut last = Added::default();
        let mut words = arguments.split_whitespace();
        while let Some(word) = words.next() {
            let features = match word.split_once('=') {
                Some(("--features" | "-F", value)) => Some(value),
                _ if matches!(word, "--features" | "-F") => words.next(),
                _ => None,
            };
            match features {
                Some(list) => last
                    .features
                    .extend(list.trim_matches(['"', '\'']).split(',').map(str::to_owned)),
                None if word == "--no-default-features" => last.no_default_features = true,
                None if !word.starts_with('-') => {
                    names.push(word.split('@').next().unwrap_or(word).to_owned())
                }
                None => {}
            }
        }
        for name in &names {
            added.entry(name.clone()).or_default();
        }
        if let Some(name) = names.last() {
            added.insert(name.clone(), last);
        }
    }
    added
}

/// The first block of Rust that has a `main`. Lines that rustdoc hides (`# …`) are part of it.
pub(crate) fn program(readme: &str) -> Option<String> {
    let mut block: Option<Vec<&str>> = None;
    for line in readme.lines() {
        match &mut block {
            None if line.starts_with("```rust") => block = Some(Vec::new()),
            None => {}
            Some(lines) if line.starts_with("```") => {
                let text = lines.join("\n");
                if text.contains("fn main(") {
                    return Some(text + "\n");
                }
                block = None;
            }
            Some(lines) if line == "#" => lines.push(""),
            Some(lines) => lines.push(line.strip_prefix("# ").unwrap_or(line)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_crates_and_features_from_the_add_lines() {
        let readme = "Text.\n```sh\ncargo add mq-amqp\ncargo add tokio --features full\n$ cargo add serde -F derive,rc  # why\ncargo add a b@1 --no-default-features --features=x\n```\n";
        let added = added(readme);
        assert_eq!(
            added.keys().collect::<Vec<_>>(),
            ["a", "b", "mq-amqp", "serde", "tokio"]
        );
        assert_eq!(added["tokio"].features, ["full"]);
        assert_eq!(added["serde"].features, ["derive", "rc"]);
        assert_eq!(
            added["b"],
            Added {
                features: vec!["x".into()],
                no_default_features: true
            }
        );
        assert_eq!(added["a"], Added::default());
    }

    #[test]
    fn takes_the_first_block_that_is_a_whole_program() {
        let readme = "```rust\nlet x = 1;\n```\n```text\nfn main() {}\n```\n```rust,no_run\n# use a::B;\n#\n#[tokio::main]\nasync fn main() {}\n```\n```rust\nfn main() { second() }\n```\n";
        assert_eq!(
            program(readme).unwrap(),
            "use a::B;\n\n#[tokio::main]\nasync fn main() {}\n"
        );
        assert_eq!(program("```rust\nlet x = 1;\n```\n"), None);
    }
}
