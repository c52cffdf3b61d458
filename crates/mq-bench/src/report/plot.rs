//! A plot of a row: the rate of each arm with its interval, and what ours is to each.

use std::{fmt::Write as _, path::Path};

use super::{Arm, Ratio, save};
use crate::Result;

/// Writes the plot as SVG.
pub(super) fn write(path: &Path, title: &str, arms: &[Arm<'_>], ratios: &[Ratio<'_>]) -> Result {
    save(path, &svg(title, arms, ratios)?)
}

fn svg(title: &str, arms: &[Arm<'_>], ratios: &[Ratio<'_>]) -> Result<String> {
    let height = TOP + LINE * arms.len() as f64 + BOTTOM;
    let most = arms.iter().map(|arm| arm.rate.high).fold(1.0, f64::max);
    let x = |rate: f64| LEFT + rate / most * (WIDTH - LEFT - RIGHT);
    let mut out = String::new();
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="8" y="18" font-size="14" font-weight="bold">{}</text>"##,
        escaped(title)
    )?;
    for (index, arm) in arms.iter().enumerate() {
        let y = TOP + LINE * index as f64;
        let (color, weight) = match index {
            0 => ("#0b6e4f", "bold"),
            _ => ("#7a8290", "normal"),
        };
        let ratio = ratios.iter().find(|ratio| ratio.peer.arm == arm.name);
        let note = ratio.map_or(String::new(), |ratio| {
            format!(", ours {:.2} ×", ratio.rate.median)
        });
        writeln!(
            out,
            r##"<text x="{}" y="{}" text-anchor="end" font-weight="{weight}">{}</text>
<rect x="{LEFT}" y="{}" width="{:.1}" height="12" fill="{color}"/>
<line x1="{:.1}" x2="{:.1}" y1="{}" y2="{}" stroke="#000" stroke-width="1.5"/>
<text x="{:.1}" y="{}">{}/s{note}</text>"##,
            LEFT - 8.0,
            y + 10.0,
            escaped(arm.name.split_once('/').map_or(arm.name, |(_, name)| name)),
            y,
            x(arm.rate.median) - LEFT,
            x(arm.rate.low),
            x(arm.rate.high),
            y + 6.0,
            y + 6.0,
            x(arm.rate.high) + 6.0,
            y + 10.0,
            thousands(arm.rate.median)
        )?;
    }
    writeln!(
        out,
        r##"<text x="{LEFT}" y="{}" fill="#555">messages a second: median, and its interval as a line</text>
</svg>"##,
        height - 8.0
    )?;
    Ok(out)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn thousands(rate: f64) -> String {
    match rate {
        1e6.. => format!("{:.2} M", rate / 1e6),
        1e3.. => format!("{:.1} k", rate / 1e3),
        _ => format!("{rate:.0}"),
    }
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 290.0;
/// Room for a text behind the longest bar.
const RIGHT: f64 = 170.0;
const TOP: f64 = 36.0;
const LINE: f64 = 24.0;
const BOTTOM: f64 = 26.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short_and_titles_are_no_markup() {
        assert_eq!(thousands(1_234_567.0), "1.23 M");
        assert_eq!(thousands(45_300.0), "45.3 k");
        assert_eq!(thousands(12.0), "12");
        let svg = svg("a < b & c", &[], &[]).unwrap();
        assert!(svg.contains("a &lt; b &amp; c"));
    }
}
