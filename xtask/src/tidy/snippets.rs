//! Code in a guide that comes from a file of the workspace: it has to be what stands there.

use std::path::Path;

use crate::Result;

/// The guides whose blocks are marked with the file that they come from.
const GUIDES: [&str; 2] = [
    "docs/guides/writing-a-broker.md",
    "docs/guides/observability.md",
];
const FROM: &str = "<!-- from ";

pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for guide in GUIDES {
        let page = std::fs::read_to_string(root.join(guide))?;
        let read = |file: &str| Ok(std::fs::read_to_string(root.join(file))?);
        let wanted = with_blocks(&page, read).map_err(|error| format!("{guide}: {error}"))?;
        let differs = page.lines().zip(wanted.lines()).position(|(a, b)| a != b);
        if page != wanted {
            let line = differs.unwrap_or_else(|| page.lines().count()) + 1;
            broken.push(format!(
                "{guide}: line {line}: the block is not what stands in the file that it comes from; \
                 `MQ_UPDATE_GUIDES=1 cargo xtask tidy` writes it"
            ));
            if std::env::var_os("MQ_UPDATE_GUIDES").is_some() {
                std::fs::write(root.join(guide), wanted)?;
            }
        }
    }
    Ok(broken)
}

/// The page with each marked block as its file has it.
fn with_blocks(page: &str, read: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut text = String::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let Some(mark) = line.strip_prefix(FROM) else {
            continue;
        };
        let mark = mark
            .strip_suffix(" -->")
            .and_then(|mark| mark.split_once(": "));
        let (file, name) = mark.ok_or_else(|| format!("`{line}` is not `{FROM}FILE: NAME -->`"))?;
        text.push_str(&format!(
            "```rust,ignore\n{}```\n",
            region(&read(file)?, name)?
        ));
        if lines.peek().is_some_and(|line| line.starts_with("```")) {
            lines.next();
            lines.by_ref().find(|line| line.starts_with("```"));
        }
    }
    Ok(text)
}

/// What stands between `// guide: NAME` and `// guide: end`.
fn region(source: &str, name: &str) -> Result<String> {
    let begin = format!("// guide: {name}\n");
    let region = source
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once("// guide: end"));
    match region {
        Some((region, _)) => Ok(region.to_owned()),
        None => Err(format!("there is no `// guide: {name}` with an end").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "use x;\n// guide: a\nfn a() {}\n// guide: end\nfn b() {}\n";

    #[test]
    fn a_block_is_what_stands_in_its_file() {
        let read = |_: &str| Ok(SOURCE.to_owned());
        let page = "text\n<!-- from f.rs: a -->\nmore\n";
        let wanted = "text\n<!-- from f.rs: a -->\n```rust,ignore\nfn a() {}\n```\nmore\n";
        assert_eq!(with_blocks(page, read).unwrap(), wanted);
        assert_eq!(with_blocks(wanted, read).unwrap(), wanted);
        let old = wanted.replace("fn a() {}", "fn old() {}\nfn older() {}");
        assert_eq!(with_blocks(&old, read).unwrap(), wanted);
        assert!(with_blocks("<!-- from f.rs: c -->\n", read).is_err());
        assert!(with_blocks("<!-- from f.rs -->\n", read).is_err());
    }
}
