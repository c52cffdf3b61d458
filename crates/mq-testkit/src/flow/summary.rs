//! How often each step came, as a table.

use std::{collections::BTreeMap, fmt::Write};

use mq_core::flow::FlowKind;

use super::{FlowStep, names::Names, text::cell};

/// A Markdown table: a line for each client and place, a column for each kind of step that came.
pub(super) fn summary(steps: &[FlowStep], hidden: &[String], left_out: u64) -> String {
    let names = Names::new(hidden);
    let mut counts: BTreeMap<(String, String), BTreeMap<FlowKind, usize>> = BTreeMap::new();
    let mut kinds: BTreeMap<FlowKind, usize> = BTreeMap::new();
    for step in steps {
        let place = match (&step.source, &step.destination) {
            (Some(source), _) => source.to_string(),
            (None, Some(to)) if to.is_queue() => format!("queue {}", to.name()),
            (None, Some(to)) => format!("topic {}", to.name()),
            (None, None) => String::new(),
        };
        let row = (names.shown(&step.client), names.shown(&place));
        *counts.entry(row).or_default().entry(step.kind).or_default() += 1;
        *kinds.entry(step.kind).or_default() += 1;
    }
    let mut out = String::from("| client | place |");
    for kind in kinds.keys() {
        // Writing to a String cannot fail.
        let _ = write!(out, " {} |", kind.as_str());
    }
    let _ = writeln!(out, "\n|---|---|{}", "---:|".repeat(kinds.len()));
    for ((client, place), row) in &counts {
        let _ = write!(out, "| {} | {} |", cell(client), cell(place));
        for kind in kinds.keys() {
            let _ = match row.get(kind) {
                Some(count) => write!(out, " {count} |"),
                None => write!(out, " |"),
            };
        }
        out.push('\n');
    }
    if left_out > 0 {
        let _ = writeln!(
            out,
            "\n{left_out} events came after the recorder was full and are not counted."
        );
    }
    out
}
