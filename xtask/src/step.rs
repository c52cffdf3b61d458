//! Shows progress: a heading for each step, and at the end how long each took.

use std::time::{Duration, Instant};

use crate::Result;

/// Prints the heading of a step.
pub(crate) fn heading(text: &str) {
    eprintln!("\n==> {text}");
}

/// The steps of a longer run. A failed step does not stop the ones after it, so that one run shows all that is wrong.
#[derive(Default)]
pub(crate) struct Steps(Vec<Step>);

struct Step {
    name: String,
    took: Duration,
    /// The error it failed with.
    failed: Option<String>,
}

impl Steps {
    /// Runs one step. Its error is printed here and remembered.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        heading(name);
        let start = Instant::now();
        let result = step();
        let took = start.elapsed();
        if let Err(error) = &result {
            eprintln!("error in {name}: {error}");
        }
        eprintln!(
            "    {name}: {} in {}",
            if result.is_ok() { "ok" } else { "FAILED" },
            clock(took)
        );
        self.0.push(Step {
            name: name.into(),
            took,
            failed: result.as_ref().err().map(ToString::to_string),
        });
        result.ok()
    }

    /// The times of all steps, one a line.
    pub(crate) fn summary(&self) -> String {
        let total = self.0.iter().map(|step| step.took).sum();
        let mut lines: Vec<String> = self
            .0
            .iter()
            .map(|step| {
                format!(
                    "{:>7}  {}{}",
                    clock(step.took),
                    step.name,
                    if step.failed.is_some() {
                        "  FAILED"
                    } else {
                        ""
                    }
                )
            })
            .collect();
        lines.push(format!("{:>7}  in all", clock(total)));
        lines.join("\n")
    }

    /// The failed steps and why, as an error if there is one.
    pub(crate) fn verdict(&self) -> Result {
        let why = |step: &Step| Some(format!("{}: {}", step.name, step.failed.as_ref()?));
        let failed: Vec<String> = self.0.iter().filter_map(why).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(format!("failed:\n{}", failed.join("\n")).into())
        }
    }
}

/// Minutes and seconds.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_and_later_ones_still_run() {
        let mut steps = Steps::default();
        assert!(
            steps
                .run("first", || -> Result { Err("broken".into()) })
                .is_none()
        );
        assert_eq!(steps.run("second", || Ok(7)), Some(7));
        let verdict = steps.verdict().unwrap_err().to_string();
        assert_eq!(verdict, "failed:\nfirst: broken");
        assert!(steps.summary().contains("first  FAILED"));
    }

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_secs(65)), "1:05");
    }
}
