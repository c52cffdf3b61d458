//! How long the files are and how much each crate shows, so that growth is seen in review. Nothing here is a limit.

use std::fmt::Write as _;
use std::path::Path;

use super::{files, source};
use crate::Result;
use crate::workspace::Workspace;

/// A file with more lines than this, inline tests left out, is named.
const LONG: usize = 300;

/// A line for each package; then the long files.
pub(super) fn report(workspace: &Workspace) -> Result<String> {
    let mut text = format!(
        "{:<16}{:>6}{:>8}{:>8}{:>8}{:>14}\n",
        "package", "files", "lines", "median", "longest", "public items"
    );
    let mut long = Vec::new();
    for package in &workspace.packages {
        let mut lengths = Vec::new();
        let mut items = 0;
        for path in rust_files(&package.folder().join("src"))? {
            let content = std::fs::read_to_string(&path)?;
            let library = source::without_tests(&content);
            let length = library.lines().count();
            items += public_items(library);
            if length > LONG {
                long.push((
                    length,
                    path.strip_prefix(&workspace.root)
                        .unwrap_or(&path)
                        .display()
                        .to_string(),
                ));
            }
            lengths.push(length);
        }
        lengths.sort_unstable();
        let total: usize = lengths.iter().sum();
        let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
        let longest = lengths.last().copied().unwrap_or(0);
        let _ = writeln!(
            text,
            "{:<16}{:>6}{total:>8}{median:>8}{longest:>8}{items:>14}",
            package.name,
            lengths.len()
        );
    }
    long.sort_unstable();
    for (length, path) in long.iter().rev() {
        let _ = writeln!(text, "long: {path}, {length} lines");
    }
    Ok(text)
}

fn rust_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let files = if folder.is_dir() {
        files::walk(folder)?
    } else {
        Vec::new()
    };
    Ok(files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect())
}

/// Items that begin a line with `pub`. Methods are indented, and what is public within the crate says `pub(crate)`.
fn public_items(text: &str) -> usize {
    const ITEMS: [&str; 8] = [
        "fn", "struct", "enum", "trait", "type", "const", "static", "union",
    ];
    let code = source::code(text);
    let is_item = |line: &&str| {
        let mut words = line
            .split_whitespace()
            .filter(|word| !matches!(*word, "async" | "unsafe"));
        words.next() == Some("pub") && words.next().is_some_and(|word| ITEMS.contains(&word))
    };
    code.lines()
        .filter(|line| line.starts_with("pub"))
        .filter(is_item)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_items_but_not_methods_nor_re_exports() {
        let text = "pub struct A;\npub async fn b() {}\npub use c::D;\npub mod e;\npub(crate) fn f() {}\nimpl A {\n    pub fn g() {}\n}\n// pub fn h() {}\n";
        assert_eq!(public_items(text), 2);
    }
}
