//! Text that cannot break a diagram or a table, whatever it says.

/// A text as a label of a Mermaid diagram.
///
/// What is neither a letter, a digit nor harmless is written as an entity (`#59;`), which Mermaid
/// knows in place of HTML's. A long text is cut.
pub(super) fn label(text: &str) -> String {
    let mut out = String::new();
    for (at, word) in shown(text).split(' ').enumerate() {
        if at > 0 {
            out.push(' ');
        }
        // The one word that ends a block.
        if word.eq_ignore_ascii_case("end") {
            let first = word.chars().next().map_or(0, u32::from);
            out.push_str(&format!("#{first};{}", &word[1..]));
            continue;
        }
        for c in word.chars() {
            if c.is_alphanumeric() || HARMLESS.contains(c) {
                out.push(c);
            } else {
                out.push_str(&format!("#{};", u32::from(c)));
            }
        }
    }
    out
}

/// A text as a cell of a Markdown table.
pub(super) fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in shown(text).chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
    out
}

/// At most [`LONGEST`] characters, and none that is not seen or turns others around.
fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(LONGEST)
        .map(|c| match c {
            c if c.is_control() => REPLACED,
            c if c.is_whitespace() => ' ',
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => REPLACED,
            '\u{feff}' | '\u{fff0}'..='\u{fffb}' => REPLACED,
            c => c,
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    let trimmed = out.trim();
    match trimmed.is_empty() {
        true => REPLACED.to_string(),
        false => trimmed.to_owned(),
    }
}

const LONGEST: usize = 60;
const HARMLESS: &str = "._-@/(),=…×";
const REPLACED: char = '\u{fffd}';

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// True for what [`label`] may write: letters, digits, harmless signs and entities, and no word
    /// that ends a block.
    pub(in super::super) fn is_label(text: &str) -> bool {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c == '#' {
                let Some((number, after)) = rest.split_once(';') else {
                    return false;
                };
                if number
                    .parse::<u32>()
                    .ok()
                    .and_then(char::from_u32)
                    .is_none()
                {
                    return false;
                }
                rest = after;
            } else if !(c.is_alphanumeric() || HARMLESS.contains(c) || c == ' ' || c == REPLACED) {
                return false;
            }
        }
        !text.trim().is_empty() && !text.split(' ').any(|word| word.eq_ignore_ascii_case("end"))
    }

    #[test]
    fn what_could_break_a_diagram_is_an_entity() {
        let table = [
            ("orders", "orders"),
            ("a;b", "a#59;b"),
            ("#1", "#35;1"),
            ("say \"hi\"", "say #34;hi#34;"),
            ("a\nb", "a\u{fffd}b"),
            ("<b>", "#60;b#62;"),
            ("end", "#101;nd"),
            ("the END", "the #69;ND"),
            ("ende", "ende"),
            ("%%{init}", "#37;#37;#123;init#125;"),
            ("a->>b: c", "a-#62;#62;b#58; c"),
            ("zahlung-ä €", "zahlung-ä #8364;"),
            ("", "\u{fffd}"),
            ("\u{202e}x", "\u{fffd}x"),
        ];
        for (text, expected) in table {
            let label = label(text);
            assert_eq!(label, expected.replace('\u{fffd}', &seen(REPLACED)));
            assert!(is_label(&label), "{label}");
        }
        assert_eq!(cell("a|b_<c>"), "a\\|b\\_&lt;c&gt;");
    }

    fn seen(c: char) -> String {
        format!("#{};", u32::from(c))
    }
}
