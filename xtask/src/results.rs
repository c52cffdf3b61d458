//! Runs `cargo test`, shows what it prints, and adds up the results of all its test programs.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::ops::AddAssign;
use std::process::{Command, Stdio};

use crate::Result;

/// How many tests passed, failed, and were skipped (ignored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Totals {
    /// Reads a closing line of libtest or libtest-mimic; `None` for every other line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let counts = line.trim().strip_prefix("test result: ")?;
        let (_verdict, counts) = counts.split_once(". ")?;
        let mut totals = Self::default();
        let mut seen = false;
        for part in counts.split(';') {
            let Some((number, word)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            match word {
                "passed" => (totals.passed, seen) = (number, true),
                "failed" => totals.failed = number,
                "ignored" => totals.skipped = number,
                _ => {}
            }
        }
        seen.then_some(totals)
    }

    /// Adds up the closing lines in what a program printed.
    ///
    /// A program that fails without such a line (a crash) counts as one failed test, so that the sum is never all green when the
    /// program was not.
    pub(crate) fn of(output: &str, succeeded: bool, name: &str) -> Self {
        let mut totals = Self::default();
        for found in output.lines().filter_map(Self::parse) {
            totals += found;
        }
        if !succeeded && totals.failed == 0 {
            eprintln!("{name} ended without a result");
            totals.failed += 1;
        }
        totals
    }

    /// An error if a test failed.
    pub(crate) fn verdict(&self) -> Result {
        if self.failed == 0 {
            Ok(())
        } else {
            Err(format!("{} tests failed", self.failed).into())
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs a `cargo test` command and sums its results while its output goes to the terminal.
///
/// A program that ends without its closing line (a crash, a build that fails) counts as one failed test, so that the sum is never
/// all green when the command was not.
pub(crate) fn run_tests(mut command: Command) -> Result<Totals> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut totals = Totals::default();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        // Bytes, since a test may print what is not UTF-8.
        while lines.read_until(b'\n', &mut line)? > 0 {
            std::io::stdout().write_all(&line)?;
            if let Some(found) = Totals::parse(&String::from_utf8_lossy(&line)) {
                totals += found;
            }
            line.clear();
        }
    }
    let status = child.wait()?;
    if !status.success() && totals.failed == 0 {
        eprintln!("a test program was not built or ended without a result ({status})");
        totals.failed += 1;
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_closing_line_of_libtest_and_of_libtest_mimic() {
        let libtest = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 2 filtered out; finished in 0.52s\n";
        assert_eq!(
            Totals::parse(libtest),
            Some(Totals {
                passed: 12,
                failed: 1,
                skipped: 3
            })
        );
        let mimic = "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(
            Totals::parse(mimic),
            Some(Totals {
                passed: 4,
                failed: 0,
                skipped: 1
            })
        );
    }

    #[test]
    fn takes_no_other_line_for_a_result() {
        for line in [
            "test result_is_kept ... ok",
            "running 3 tests",
            "test result: ok",
            "",
            "3 passed; 0 failed",
        ] {
            assert_eq!(Totals::parse(line), None, "{line}");
        }
    }

    #[test]
    fn sums_and_prints_as_one_line() {
        let mut sum = Totals {
            passed: 1,
            failed: 0,
            skipped: 2,
        };
        sum += Totals {
            passed: 4,
            failed: 1,
            skipped: 0,
        };
        assert_eq!(sum.to_string(), "5 passed, 1 failed, 2 skipped");
        assert!(sum.verdict().is_err());
    }

    #[test]
    fn a_program_that_fails_is_never_all_green() {
        let line = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n";
        let of = |output, succeeded| {
            let found = Totals::of(output, succeeded, "n");
            (found.passed, found.failed)
        };
        assert_eq!(of(line, true), (2, 0));
        assert_eq!(of(line, false), (2, 1));
        assert_eq!(of("thread panicked", false), (0, 1));
        assert_eq!(
            of("test result: FAILED. 1 passed; 3 failed; 0 ignored", false),
            (1, 3)
        );
    }

    #[test]
    fn a_program_that_ends_without_a_result_is_a_failure() {
        let mut command = Command::new(crate::workspace::cargo());
        command.arg("no-such-command").stderr(Stdio::null());
        assert_eq!(
            run_tests(command).unwrap(),
            Totals {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }
}
