//! The Mermaid sequence diagram of recorded steps.

use std::{collections::BTreeSet, fmt::Write};

use mq_core::{Subscription, flow::FlowKind};

use super::{
    FlowStep,
    fold::{Block, fold},
    line::Line,
    names::Names,
    summary::summary,
};

/// Recorded steps, to be drawn.
///
/// Equal steps make equal text: messages are `m1`, `m2` … and participants `p1`, `p2` … in the
/// order in which they appear, and no time and no id is told.
#[derive(Debug, Clone)]
#[must_use = "it is drawn by `diagram`, `summary` or `markdown`"]
pub struct Drawing {
    steps: Vec<FlowStep>,
    left_out: u64,
    hidden: Vec<String>,
}

impl Drawing {
    pub(super) fn new(steps: Vec<FlowStep>, left_out: u64) -> Self {
        Self {
            steps,
            left_out,
            hidden: Vec::new(),
        }
    }

    /// Leaves a text out of every name, such as what makes the names of one run its own.
    pub fn hide(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.is_empty() {
            self.hidden.push(text);
        }
        self
    }

    /// A Mermaid `sequenceDiagram`.
    ///
    /// What comes three times or more in a row, each time for another message, is drawn once, in a
    /// loop that tells how often. Of the commits of one partition by one client only the last is
    /// drawn: it holds for all before it, and how many there were is a matter of time. At most 150
    /// lines are drawn, and at most 30,000 characters; what is left out is counted in a note. No
    /// name can break it, whatever it is made of.
    pub fn diagram(&self) -> String {
        let mut names = Names::new(&self.hidden);
        let last = self.last_commits();
        let drawn = self.steps.iter().enumerate();
        let drawn =
            drawn.filter(|(at, step)| step.kind != FlowKind::Committed || last.contains(at));
        let lines: Vec<Line> = drawn.map(|(_, step)| Line::of(step, &mut names)).collect();
        let mut body = String::new();
        let (mut count, mut left_out) = (0, self.left_out);
        let mut named = BTreeSet::new();
        for block in fold(&lines) {
            let full = count + block.lines.len() > MAX_LINES || body.len() > MAX_BODY;
            if full || left_out > self.left_out {
                left_out += (block.lines.len() * block.times) as u64;
                continue;
            }
            count += block.lines.len();
            named.extend(block.lines.iter().flat_map(Line::participants));
            block.write(&mut body);
        }
        let mut out = String::from("sequenceDiagram\n");
        let labels = (1..).zip(names.labels());
        for (number, label) in labels.filter(|(number, _)| named.contains(number)) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "    participant p{number} as {label}");
        }
        out.push_str(&body);
        if left_out > 0 {
            if named.is_empty() {
                out.push_str("    participant p1 as nobody\n");
            }
            let first = named.first().copied().unwrap_or(1);
            let _ = writeln!(
                out,
                "    Note over p{first}: {left_out} more steps, not drawn"
            );
        }
        out
    }

    /// How often each step came, by client and place, as a Markdown table.
    pub fn summary(&self) -> String {
        summary(&self.steps, &self.hidden, self.left_out)
    }

    /// A page with the diagram and the summary.
    pub fn markdown(&self, title: &str) -> String {
        let (title, diagram, summary) = (super::text::cell(title), self.diagram(), self.summary());
        format!("# {title}\n\n```mermaid\n{diagram}```\n\n{summary}")
    }

    /// The places of the last commit of each partition by each client.
    fn last_commits(&self) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let commits = self.steps.iter().enumerate().rev();
        let commits = commits.filter(|(_, step)| step.kind == FlowKind::Committed);
        commits
            .filter(|(_, step)| {
                let source = step.source.as_ref().map(Subscription::name);
                let partition = step.position.map(|position| position.partition);
                seen.insert((step.client.clone(), source.cloned(), partition))
            })
            .map(|(at, _)| at)
            .collect()
    }
}

impl Block {
    fn write(&self, out: &mut String) {
        let folded = self.times > 1;
        if folded {
            let _ = write!(out, "    loop {} times", self.times);
            let first = self.lines.iter().filter_map(|line| line.message).min();
            if let (Some(first), Some(last)) = (first, self.last) {
                let _ = write!(out, ", m{first} to m{last}");
            }
            out.push('\n');
        }
        for line in &self.lines {
            out.push_str(if folded { "        " } else { "    " });
            line.write(out);
        }
        if folded {
            out.push_str("    end\n");
        }
    }
}

const MAX_LINES: usize = 150;
/// Mermaid draws texts of up to 50,000 characters unless told otherwise.
const MAX_BODY: usize = 30_000;

#[cfg(test)]
mod tests;
