//! Tables and diagrams in the documentation that are made from runs, so that they say what was seen and nothing else.

use std::path::Path;

use crate::Result;
use crate::records::Record;
use crate::{evidence, interop, promises, run};

/// A table between two comments of a page.
struct Table {
    file: &'static str,
    name: &'static str,
    /// Its records come from the peers too.
    of_peers: bool,
    render: fn(&[Record]) -> Result<String>,
}

const TABLES: [Table; 5] = [
    Table {
        file: "README.md",
        name: "patterns",
        of_peers: false,
        render: promises::markdown,
    },
    Table {
        file: "docs/guides/interop.md",
        name: "interop",
        of_peers: true,
        render: interop::markdown,
    },
    Table {
        file: EVIDENCE,
        name: "conformance",
        of_peers: false,
        render: evidence::conformance,
    },
    Table {
        file: EVIDENCE,
        name: "planted-bugs",
        of_peers: false,
        render: evidence::planted,
    },
    Table {
        file: EVIDENCE,
        name: "network",
        of_peers: false,
        render: evidence::network,
    },
];

const EVIDENCE: &str = "docs/evidence.md";

/// The page with the diagrams, and which of them it has: the files that the example `flow` writes.
const DIAGRAMS: (&str, [&str; 8]) = (
    "docs/guides/patterns.md",
    [
        "rabbitmq-work_queue",
        "rabbitmq-producer_consumer",
        "rabbitmq-fan_out",
        "rabbitmq-routing",
        "kafka-consumer_group",
        "kafka-pipeline",
        "rabbitmq-retry",
        "kafka-retry",
    ],
);

/// Compares each diagram with that of the run of the examples, which is in this folder, or writes it.
///
/// # Errors
/// Names each diagram that differs, or that no run has drawn.
pub(crate) fn diagrams(root: &Path, folder: &Path, update: bool) -> Result {
    let (file, names) = DIAGRAMS;
    let mut wrong = Vec::new();
    for name in names {
        let drawn = std::fs::read_to_string(folder.join(format!("{name}.mmd")))
            .map_err(|error| format!("no run has drawn it: {error}").into())
            .and_then(|drawn| {
                let fenced = format!("```mermaid\n{drawn}```\n");
                write(root, file, &format!("flow {name}"), &fenced, update)
            });
        if let Err(error) = drawn {
            wrong.push(format!("{file}, diagram {name}: {error}"));
        }
    }
    verdict(&wrong)
}

/// Compares each table with the records, or writes it; without the peers only the tables that need none.
///
/// # Errors
/// Names each page whose table is not what the records say, and the records that make no table.
pub(crate) fn check(root: &Path, records: &[Record], peers: bool, update: bool) -> Result {
    let mut wrong = Vec::new();
    for table in TABLES.iter().filter(|table| peers || !table.of_peers) {
        if let Err(error) = table.check(root, records, update) {
            wrong.push(format!("{}, table {}: {error}", table.file, table.name));
        }
    }
    verdict(&wrong)
}

fn verdict(wrong: &[String]) -> Result {
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

impl Table {
    fn check(&self, root: &Path, records: &[Record], update: bool) -> Result {
        let rendered = (self.render)(records)?;
        write(root, self.file, self.name, &rendered, update)
    }
}

/// Compares what stands between the comments of a page, or writes it.
fn write(root: &Path, file: &str, name: &str, rendered: &str, update: bool) -> Result {
    let path = root.join(file);
    let page = std::fs::read_to_string(&path)?;
    let wanted = replaced(&page, name, rendered)?;
    if without_runs(&page) == without_runs(&wanted) && !(update && page != wanted) {
        return Ok(());
    }
    if !update {
        return Err("it is not what the run says; `cargo xtask e2e --update` writes it".into());
    }
    println!("{file} is written");
    Ok(std::fs::write(path, wanted)?)
}

/// The page without the lines that name the run that made a table.
fn without_runs(page: &str) -> String {
    let begins = format!("{} `", run::LINE);
    let kept = page.lines().filter(|line| !line.starts_with(&begins));
    kept.collect::<Vec<_>>().join("\n")
}

/// The page with what stands between the comments replaced.
fn replaced(page: &str, name: &str, table: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- begin {name}"), format!("<!-- end {name} -->"));
    let parts = page.split_once(&begin).and_then(|(before, rest)| {
        let (comment, rest) = rest.split_once("-->\n")?;
        let (_, after) = rest.split_once(&end)?;
        Some(format!(
            "{before}{begin}{comment}-->\n\n{table}\n{end}{after}"
        ))
    });
    parts.ok_or_else(|| format!("the comments `{begin} … -->` and `{end}` are not there").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "a\n<!-- begin t: made by x -->\n\nold\n\n<!-- end t -->\nb\n";

    #[test]
    fn only_what_stands_between_the_comments_is_replaced() {
        let new = replaced(PAGE, "t", "| new |\n").unwrap();
        let expected = "a\n<!-- begin t: made by x -->\n\n| new |\n\n<!-- end t -->\nb\n";
        assert_eq!(new, expected);
        assert_eq!(replaced(&new, "t", "| new |\n").unwrap(), new);
        assert!(replaced("no comments", "t", "x").is_err());
        assert!(replaced("<!-- begin t -->\n", "t", "x").is_err());
    }

    #[test]
    fn a_page_that_differs_is_an_error_until_it_is_updated() {
        let root = std::env::temp_dir().join(format!("xtask-pages-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("p.md"), PAGE).unwrap();
        let table = Table {
            file: "p.md",
            name: "t",
            of_peers: false,
            render: |_| Ok("| new |\n".to_owned()),
        };
        let differs = table.check(&root, &[], false);
        let written = table.check(&root, &[], true);
        let same = table.check(&root, &[], false);
        let page = std::fs::read_to_string(root.join("p.md")).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        assert!(differs.unwrap_err().to_string().contains("--update"));
        assert!(written.is_ok() && same.is_ok() && page.contains("| new |"));
    }

    #[test]
    fn the_name_of_the_run_is_no_difference() {
        let one = without_runs("a\nRun `1` on x.\n| b |\n");
        assert_eq!(one, without_runs("a\nRun `2` on y.\n| b |\n"));
        assert_ne!(one, without_runs("a\nRun `2` on y.\n| c |\n"));
    }

    #[test]
    fn every_page_has_its_comments() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for table in &TABLES {
            let page = std::fs::read_to_string(root.join(table.file)).unwrap();
            assert!(replaced(&page, table.name, "x\n").is_ok(), "{}", table.file);
        }
        let (file, names) = DIAGRAMS;
        let page = std::fs::read_to_string(root.join(file)).unwrap();
        for name in names {
            let name = format!("flow {name}");
            assert!(replaced(&page, &name, "x\n").is_ok(), "{name}");
        }
    }

    #[test]
    fn a_diagram_that_no_run_has_drawn_is_named() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let error = diagrams(&root, Path::new("no such folder"), false).unwrap_err();
        let text = error.to_string();
        assert_eq!(
            text.matches("no run has drawn it").count(),
            DIAGRAMS.1.len()
        );
    }
}
