//! The program of the README is the example that runs.

const README: &str = include_str!("../README.md");
const EXAMPLE: &str = include_str!("../examples/check_a_run.rs");

#[test]
fn the_program_is_the_example_and_has_less_than_forty_lines() {
    let (_, program) = EXAMPLE.split_once("\n\n").unwrap_or_default();
    assert!(
        README.contains(&format!("```rust\n{program}```\n")),
        "they differ"
    );
    let lines = program.lines().count();
    assert!(lines < 40, "{lines} lines");
}
