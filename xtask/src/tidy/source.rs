//! A small reader of Rust source: enough to look at code without its comments and strings.

/// The code alone. Comments, strings and characters become blanks; lines and columns stay where they are.
pub(super) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest, out.chars().next_back()).unwrap_or(0);
        let (taken, keep) = if length > 0 {
            (length, false)
        } else {
            (first.len_utf8(), true)
        };
        for character in rest[..taken].chars() {
            out.push(if keep || character == '\n' {
                character
            } else {
                ' '
            });
        }
        rest = &rest[taken..];
    }
    out
}

/// How many bytes at the start of `rest` are a comment, a string or a character.
fn skipped(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    let in_word = before.is_some_and(|character| character.is_alphanumeric() || character == '_');
    if !in_word && let Some(length) = raw_string(rest) {
        return Some(length);
    }
    if rest.starts_with('\'') {
        // 'a' and '\n' are characters; 'a alone is a lifetime.
        let mut characters = rest.chars().skip(1);
        let escaped = characters.next() == Some('\\');
        if escaped || characters.next() == Some('\'') {
            return Some(quoted(rest, '\''));
        }
    }
    None
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let (step, change) = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth = depth.saturating_add_signed(change);
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - inside.len();
    Some(
        inside
            .find(&end)
            .map_or(rest.len(), |at| start + at + end.len()),
    )
}

/// The code before the inline tests: what the library is made of.
pub(super) fn without_tests(text: &str) -> &str {
    match text.find("\n#[cfg(test)]") {
        Some(at) => &text[..=at],
        None => text,
    }
}

/// The first thing in a `lib.rs` or `mod.rs` that is neither documentation, attribute, `mod` nor `use`: (line, text).
pub(super) fn first_logic(text: &str) -> Option<(usize, String)> {
    let code = code(without_tests(text));
    let mut rest = code.as_str();
    let mut only_a_doctest = false;
    loop {
        rest = rest.trim_start();
        let line = code[..code.len() - rest.len()].matches('\n').count() + 1;
        if rest.is_empty() {
            return None;
        }
        // The end of an inline module, whose content went through this loop.
        if let Some(after) = rest.strip_prefix('}') {
            rest = after;
        } else if rest.starts_with('#') {
            let (attribute, after) = rest.split_at(brackets(rest));
            only_a_doctest |= attribute == "#[cfg(doctest)]";
            rest = after;
        } else {
            let item = without_visibility(rest);
            let end = match item.split_whitespace().next() {
                Some("use" | "extern") => rest.find(';'),
                Some("mod") => rest.find([';', '{']),
                // The way to test the programs of a README that is nobody's crate page.
                Some("struct") if only_a_doctest => rest.find(';'),
                _ => None,
            };
            let Some(end) = end else {
                return Some((
                    line,
                    rest.lines()
                        .next()
                        .unwrap_or_default()
                        .trim_end()
                        .to_owned(),
                ));
            };
            rest = &rest[end + 1..];
            only_a_doctest = false;
        }
    }
}

/// The length of an attribute: up to the bracket that closes its first one.
fn brackets(rest: &str) -> usize {
    let mut depth = 0_usize;
    for (at, character) in rest.char_indices() {
        match character {
            '[' => depth += 1,
            ']' if depth == 1 => return at + 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    rest.len()
}

fn without_visibility(item: &str) -> &str {
    let Some(after) = item.strip_prefix("pub") else {
        return item;
    };
    match after
        .strip_prefix('(')
        .and_then(|inside| inside.split_once(')'))
    {
        Some((_, after)) => after.trim_start(),
        None if after.starts_with(char::is_whitespace) => after.trim_start(),
        None => item,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_comments_and_strings_but_not_lifetimes() {
        let text =
            "a // b\n/* c /* d */ e */ f \"g \\\" h\" 'i' '\\'' &'j k r#\"l \" m\"# n\nvar\"o\"";
        let code = code(text);
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "f", "&'j", "k", "n", "var"]);
        assert_eq!(code.chars().count(), text.chars().count());
        assert_eq!(code.lines().count(), 3);
    }

    #[test]
    fn text_that_ends_within_a_string_or_comment_is_read_to_its_end() {
        for text in ["\"open", "/* open", "r#\"open\"", "'\\", "'", "ä'ö'"] {
            assert_eq!(code(text).chars().count(), text.chars().count(), "{text}");
        }
    }

    #[test]
    fn docs_modules_and_uses_are_no_logic() {
        let text = "//! Docs.\n#![doc = include_str!(\"../README.md\")]\n#[cfg(feature = \"a\")]\npub mod a;\nmod b;\npub(crate) use b::{C, d::*};\npub mod prelude {\n    pub use crate::a::E;\n}\n#[cfg(test)]\nmod tests { fn x() {} }\n";
        assert_eq!(first_logic(text), None);
        let readme = "#[cfg(doctest)]\n#[doc = include_str!(\"../README.md\")]\nstruct Readme;\n";
        assert_eq!(first_logic(readme), None);
        assert!(first_logic(&format!("{readme}struct Other;\n")).is_some());
    }

    #[test]
    fn finds_logic_with_its_line() {
        let text = "//! Docs.\nmod a;\n\npub fn b() {}\n";
        assert_eq!(first_logic(text), Some((4, "pub fn b() {}".into())));
        assert_eq!(
            first_logic("mod a {\n struct B;\n}\n"),
            Some((2, "struct B;".into()))
        );
        assert!(first_logic("public_macro!();\n").is_some());
    }
}
