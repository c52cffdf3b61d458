//! Tests that a guide names: each has to be there.
//!
//! A guide writes the crate and the test program, then the names of cases:
//! `` `mq-amqp/faults`: `one_case`, `another` (RabbitMQ), `a_third` ``. The program `conformance` stands for the cases of
//! mq-testkit, and the cases of `network` are those of its matrix.

use std::path::Path;

use super::files;
use crate::Result;

/// The guides whose every claim names its tests.
const GUIDES: [&str; 4] = [
    "docs/guides/rabbitmq-or-kafka.md",
    "docs/guides/delivery-guarantees.md",
    "docs/guides/what-happens-when.md",
    "docs/guides/quiz.md",
];

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for guide in GUIDES {
        let page = std::fs::read_to_string(root.join(guide))?;
        let claims = claims(&page);
        if claims.is_empty() {
            broken.push(format!("{guide}: it names no test"));
        }
        for (line, program, case) in claims {
            let source = source(root, program)?;
            if !has(&source, case) {
                broken.push(format!(
                    "{guide}: line {line}: `{program}` has no case `{case}`"
                ));
            }
        }
    }
    Ok(broken)
}

/// Line, program and case of each name.
fn claims(page: &str) -> Vec<(usize, &str, &str)> {
    let mut claims = Vec::new();
    let mut fenced = false;
    for (number, line) in page.lines().enumerate() {
        fenced ^= line.starts_with("```");
        if fenced {
            continue;
        }
        // Text and code in turn.
        let parts: Vec<&str> = line.split('`').collect();
        let mut program = None;
        for at in (1..parts.len()).step_by(2) {
            let (before, code) = (parts[at - 1], parts[at]);
            let after = parts.get(at + 1).copied().unwrap_or_default();
            let first = before == ": ";
            let further = before == ", " || (before.starts_with(" (") && before.ends_with("), "));
            match program {
                Some(program) if first || further => claims.push((number + 1, program, code)),
                _ if after == ": " && (code == "conformance" || code.contains('/')) => {
                    program = Some(code);
                }
                _ => program = None,
            }
        }
    }
    claims
}

/// The text of a test program, with that of the files beside it.
fn source(root: &Path, program: &str) -> Result<String> {
    let crates = root.join("crates");
    let (folder, name) = program
        .split_once('/')
        .unwrap_or(("mq-testkit", "conformance"));
    let tests = crates.join(folder).join("tests");
    let shared = crates.join("mq-testkit/src");
    let (file, beside) = match name {
        "conformance" => (shared.join("suite.rs"), shared.join("cases")),
        "network" => (shared.join("network/matrix.rs"), tests.join("network")),
        "compile_fail" => (tests.join("compile_fail.rs"), tests.join("ui")),
        _ => (tests.join(format!("{name}.rs")), tests.join(name)),
    };
    let mut source = String::new();
    if file.exists() {
        source.push_str(&std::fs::read_to_string(file)?);
    }
    if beside.exists() {
        for file in files::walk(&beside)? {
            if name == "compile_fail" {
                // What must not compile is named by its file.
                let stem = file.file_stem().unwrap_or_default().to_string_lossy();
                source.push_str(&format!("\nfn {stem}(\n"));
            }
            source.push_str(&std::fs::read_to_string(file)?);
        }
    }
    Ok(source)
}

/// Whether there is a function or a string of that name; or `<pattern>::<function>, "<sentence>"`.
fn has(source: &str, case: &str) -> bool {
    let literal = |text: &str| format!("\"{text}\"");
    let named = [format!("fn {case}("), format!("fn {case}<"), literal(case)];
    if named.iter().any(|name| source.contains(name)) {
        return true;
    }
    // The cases of the network matrix are made of three lists of words.
    if let Some((side, rest)) = case.split_once(": ")
        && let Some((toxic, moment)) = rest.split_once(", ")
        && [side, toxic, moment]
            .iter()
            .all(|word| source.contains(&format!(", {})", literal(word))))
    {
        return true;
    }
    case.split_once(": ").is_some_and(|(pattern, sentence)| {
        let (pattern, sentence) = (format!("{pattern}::"), literal(sentence));
        let mut lines = source.lines().map(str::trim_start);
        lines.any(|line| line.starts_with(&pattern) && line.contains(&sentence))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_behind_their_program() {
        let page = "A `word`: `no`.\n| `a/b`: `one`, `two` (Kafka), `three: x`; `conformance`: `four` and `no` |\n\
                    ```\n`a/b`: `no`\n```\n`c/d` and `no`, `no`";
        let found = claims(page);
        let expected = [
            ("a/b", "one"),
            ("a/b", "two"),
            ("a/b", "three: x"),
            ("conformance", "four"),
        ];
        assert_eq!(found, expected.map(|(program, case)| (2, program, case)));
    }

    #[test]
    fn a_case_is_a_function_a_string_or_a_sentence_of_its_pattern() {
        let source = "async fn one<F: Fixture>(\nfn two() {\n  .case(\"three, x\", f)\n  fan_out::f, \"four\";\n\
                      (S, \"side\"),\n(T, \"a toxic\"),\n(M, \"moment\"),\n";
        for case in [
            "one",
            "two",
            "three, x",
            "fan_out: four",
            "side: a toxic, moment",
        ] {
            assert!(has(source, case), "{case}");
        }
        for case in [
            "on",
            "wo",
            "three",
            "routing: four",
            "fan_out: fou",
            "side: a toxic, other",
        ] {
            assert!(!has(source, case), "{case}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_has_no_cases() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(source(&root, "mq-amqp/nothing").unwrap(), "");
        assert!(!source(&root, "mq-core/compile_fail").unwrap().is_empty());
    }
}
