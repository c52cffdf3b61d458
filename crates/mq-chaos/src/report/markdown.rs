//! The report as text.

use std::fmt::Write as _;

use super::{Count, Report};
use crate::{
    broker::{CONSUMERS, PRODUCERS, WINDOW},
    gaps::Spread,
};

impl Report {
    /// For people, and for a page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.fill(&mut text);
        text
    }

    fn fill(&self, out: &mut String) -> std::fmt::Result {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        writeln!(out, "# {}: {verdict}\n", self.run)?;
        for reason in &self.reasons {
            writeln!(out, "- **{reason}**")?;
        }
        if !self.reasons.is_empty() {
            writeln!(out)?;
        }
        self.set_up(out)?;
        self.load(out)?;
        self.faults(out)?;
        self.findings(out)?;
        self.drift(out)?;
        if !self.passed {
            writeln!(out, "\n## Evidence\n\n```text\n{}\n```", self.evidence)?;
        }
        Ok(())
    }

    fn set_up(&self, out: &mut String) -> std::fmt::Result {
        let host = &self.host;
        writeln!(out, "```sh\n{}\n```\n", self.command)?;
        writeln!(
            out,
            "- {} at commit {}, {} build, with {}, on {}",
            self.broker,
            host.commit,
            host.build,
            host.clients.join(", "),
            self.product
        )?;
        writeln!(
            out,
            "- {}, {} cores, load average at the start {}, at the end {}",
            host.system, host.cores, host.load, self.load_at_end
        )?;
        writeln!(
            out,
            "- {PRODUCERS} producers with at most {WINDOW} publishes without outcome each, {CONSUMERS} consumers with at most \
             {} open deliveries together, {} messages a second in all, for {} s. What is unknown is {}.",
            self.open,
            self.rate,
            self.load.seconds,
            match self.resend {
                true => "sent again with the same id",
                false => "left to the crate",
            }
        )
    }

    fn load(&self, out: &mut String) -> std::fmt::Result {
        let counts = &self.counts;
        let duplicates = counts.deliveries.saturating_sub(self.distinct_deliveries());
        writeln!(out, "\n## Messages\n\n| | |\n|---|---:|")?;
        let rows = [
            ("sent", counts.messages),
            ("confirmed", counts.confirmed),
            ("rejected", counts.rejected),
            ("unknown", counts.unknown),
            ("of the unknown, appeared", counts.recovered),
            ("sent again by the producers here", self.sent_again),
            ("deliveries", counts.deliveries),
            ("of them again", duplicates),
            ("effects", counts.effects),
            ("committed offsets seen", counts.commits),
            ("dead letters", self.load.dead_letters),
        ];
        for (name, count) in rows {
            writeln!(out, "| {name} | {count} |")?;
        }
        let drained = if self.load.drained { "yes" } else { "NO" };
        writeln!(out, "| drained to nothing | {drained} |")?;
        writeln!(
            out,
            "\n{:.3} % of the deliveries are again. For a run of kills alone {} are allowed: faults × (publishes of a producer + open \
             deliveries).",
            self.duplicate_share * 100.0,
            self.redelivery_bound
        )
    }

    fn distinct_deliveries(&self) -> u64 {
        self.counts.deliveries - self.count("duplicate delivery")
    }

    fn count(&self, class: &str) -> u64 {
        let found = self.findings.iter().find(|(name, _)| name == class);
        found.map_or(0, |(_, found)| found.count)
    }

    fn faults(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n## Faults\n\n{} of {} scheduled faults were made before the time was over. {} kills count: they struck with messages in \
             flight.\n",
            self.faults
                .values()
                .map(|faults| faults.made)
                .sum::<usize>(),
            self.schedule.0.len(),
            self.counted_kills
        )?;
        writeln!(
            out,
            "| fault | made | with messages in flight | longest gap between effects, ms (p50 / p99 / max) | until all were there again, ms |\n|---|---:|---:|---:|---:|"
        )?;
        for (kind, faults) in &self.faults {
            writeln!(
                out,
                "| {kind} | {} | {} | {} | {} |",
                faults.made,
                faults.with_messages_in_flight,
                spread(&faults.gap),
                spread(&faults.recovery)
            )?;
        }
        writeln!(
            out,
            "\nGaps between effects in the whole run, ms (p50 / p99 / max): {}; around the faults: {}.",
            spread(&self.between_effects),
            spread(&self.around_faults)
        )?;
        self.kept(out)?;
        writeln!(
            out,
            "\n| process | lives | ended by its own error | connections lost, as it told |\n|---|---:|---:|---:|"
        )?;
        for (name, life) in &self.lives {
            writeln!(
                out,
                "| {name} | {} | {} | {} |",
                life.lives, life.ended_by_error, life.connections_lost
            )?;
        }
        if self.ended_by_error.is_empty() {
            return writeln!(out, "\nNo process ended by an error of its own.");
        }
        writeln!(
            out,
            "\nProcesses that ended by their error and were started again:\n"
        )?;
        for (words, count) in &self.ended_by_error {
            writeln!(out, "- {count} × {words}")?;
        }
        Ok(())
    }

    /// What drains and alarms kept to, and how many connections ended.
    fn kept(&self, out: &mut String) -> std::fmt::Result {
        if self.connections_ended > 0 {
            let ended = self.connections_ended;
            writeln!(
                out,
                "\n{ended} connections were ended, one after the other."
            )?;
        }
        if let Some(drains) = &self.drains {
            writeln!(
                out,
                "\n{} processes were told to end by SIGTERM; {} of them ended later than their deadline and 1 s. Until the end, ms (p50 / \
                 p99 / max): consumers {}, producers {}. {} deliveries were open at a deadline.",
                drains.count,
                drains.late,
                spread(&drains.consumers),
                spread(&drains.producers),
                drains.left
            )?;
        }
        if let Some(alarms) = &self.alarms {
            writeln!(
                out,
                "\n{} alarms. From the alarm to a producer's knowing that it is blocked, ms (p50 / p99 / max): {}; {} times it did not \
                 get to know. A producer grew by {} KiB at most, with its window full all the time ({} times it was not). The fewest \
                 effects during an alarm: {}.",
                alarms.count,
                spread(&alarms.blocked),
                alarms.not_blocked,
                alarms.growth_kib,
                alarms.not_full,
                alarms.fewest_effects
            )?;
        }
        Ok(())
    }

    fn findings(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n## Findings\n\n| class | count | |\n|---|---:|---|")?;
        for (class, Count { count, allowed }) in &self.findings {
            let word = match (count, allowed) {
                (0, _) => "",
                (_, true) => "allowed",
                (_, false) => "**NOT ALLOWED**",
            };
            writeln!(out, "| {class} | {count} | {word} |")?;
        }
        writeln!(
            out,
            "\nNot looked for: stale writes (assignments are not recorded) and transactions (there are none)."
        )
    }

    fn drift(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n## Memory and file descriptors\n\nOf each process the life that was longest: 2 s after its start, and at its last look.\n"
        )?;
        writeln!(
            out,
            "| process | seconds | RSS, KiB | file descriptors |\n|---|---:|---:|---:|"
        )?;
        for (name, drift) in &self.drift {
            let (first, last) = (drift.first, drift.last);
            writeln!(
                out,
                "| {name} | {} | {} → {} | {} → {} |",
                drift.seconds, first.rss_kib, last.rss_kib, first.fds, last.fds
            )?;
        }
        Ok(())
    }
}

fn spread(spread: &Spread) -> String {
    format!("{:.0} / {:.0} / {:.0}", spread.p50, spread.p99, spread.max)
}
