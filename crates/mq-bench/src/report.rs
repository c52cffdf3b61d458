//! The report of a run: tables and plots for a reader, and every single figure beside them.

mod plot;

use std::{fmt::Write as _, fs, path::Path};

use serde::Serialize;

use crate::{
    Result,
    arms::find,
    conductor::{Found, Plan, Sample, rows},
    rows::{Peer, Row},
    stats::Spread,
};

/// The machine at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) load: String,
    /// Time that another guest of the hardware took, in ticks since the start.
    steal: u64,
}

impl Host {
    pub(crate) fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        let cpu = read("/proc/stat");
        let steal = cpu
            .lines()
            .next()
            .and_then(|line| line.split_whitespace().nth(8));
        Self {
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
            steal: steal.and_then(|steal| steal.parse().ok()).unwrap_or(0),
        }
    }
}

/// The figures of one arm in one row.
pub(crate) struct Arm<'a> {
    pub(crate) name: &'a str,
    pub(crate) rate: Spread,
    /// Processor time of a message, in µs.
    cpu: Spread,
    switches: Spread,
}

/// Ours to a peer.
pub(crate) struct Ratio<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) rate: Spread,
    cpu: Spread,
}

/// Writes all of it below the folder, and returns the text.
pub(crate) fn write(plan: &Plan, product: &str, before: &Host, found: &Found) -> Result<String> {
    let word = plan.broker.word();
    let name = match (plan.null, plan.pinned) {
        (true, true) => format!("{word}-null-pinned"),
        (true, false) => format!("{word}-null"),
        (false, true) => format!("{word}-pinned"),
        (false, false) => word.to_owned(),
    };
    fs::create_dir_all(plan.into.join("raw"))?;
    let mut raw = String::new();
    for sample in &found.samples {
        writeln!(raw, "{}", serde_json::to_string(sample)?)?;
    }
    save(&plan.into.join("raw").join(format!("{name}.jsonl")), &raw)?;
    let text = text(plan, &name, product, before, found)?;
    save(&plan.into.join(format!("{name}.md")), &text)?;
    Ok(text)
}

fn text(plan: &Plan, name: &str, product: &str, before: &Host, found: &Found) -> Result<String> {
    let mut out = String::new();
    let (seed, blocks, seconds) = (plan.seed, plan.blocks, plan.seconds);
    let word = plan.broker.word();
    let mut command = format!("cargo xtask bench {word} --blocks {blocks}");
    match plan.messages {
        Some(messages) => write!(command, " --messages {messages}")?,
        None => write!(command, " --seconds {seconds}")?,
    }
    write!(command, " --seed {seed}")?;
    for (flag, set) in [("--pinned", plan.pinned), ("--null", plan.null)] {
        if set {
            write!(command, " {flag}")?;
        }
    }
    if let Some(only) = &plan.only {
        write!(command, " --row '{only}'")?;
    }
    writeln!(out, "# {word}: {product}\n\n```sh\n{command}\n```\n")?;
    let now = Host::now();
    writeln!(
        out,
        "{} cores; load at the start {}, at the end {}; {} ticks of steal in between. {} Each block runs every arm once, in a random \
         order, each in a process of its own; a ratio is one of a block. Given is the median with the interval that holds it with \
         95 % at least; of fewer than six blocks it is all there is. Processor time is that of the client alone. Raw figures: \
         `raw/{name}.jsonl`.\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        before.load,
        now.load,
        now.steal.saturating_sub(before.steal),
        match plan.pinned {
            true => "The broker has core 0, the clients core 1.",
            false => "Broker and clients share the cores.",
        }
    )?;
    if plan.null {
        writeln!(
            out,
            "**The broker is a null broker**: it stores nothing, and costs next to nothing, so that the client is what is \
             measured. No goal of throughput is one against it.\n"
        )?;
    }
    for row in rows(plan) {
        let samples = found.samples.iter();
        let of_row: Vec<&Sample> = samples.filter(|sample| sample.row == row.name).collect();
        section(&mut out, plan, name, row, &of_row)?;
    }
    if !found.failed.is_empty() {
        writeln!(out, "## Arms without a figure\n")?;
        for ((row, arm), error) in &found.failed {
            writeln!(out, "* {row}: {arm}: {error}")?;
        }
    }
    Ok(out)
}

fn section(out: &mut String, plan: &Plan, name: &str, row: &Row, samples: &[&Sample]) -> Result {
    writeln!(out, "## {}\n", row.name)?;
    if samples.is_empty() {
        writeln!(out, "No figures.\n")?;
        return Ok(());
    }
    let control = control(row, samples);
    let sound = control.is_some_and(|c| c.contains_one() && c.half_width() <= 0.05);
    match control {
        Some(control) if sound => {
            writeln!(
                out,
                "Control ({} to itself): {}.\n",
                row.control,
                shown(control)
            )?;
        }
        Some(control) => writeln!(
            out,
            "**Void as far as 5 % matter**: the control ({} to itself) is {}.\n",
            row.control,
            shown(control)
        )?,
        None => writeln!(out, "**Void**: the control has no figures.\n")?,
    }
    let absent = row
        .peers
        .iter()
        .map(|peer| peer.arm)
        .filter(|arm| find(arm).is_none());
    let absent: Vec<&str> = absent.collect();
    if !absent.is_empty() {
        writeln!(out, "Not built into this program: {}.\n", absent.join("; "))?;
    }
    let arms = arms(row, samples);
    writeln!(
        out,
        "| arm | messages/s | µs of processor per message | context switches per message |\n|---|---:|---:|---:|"
    )?;
    for arm in &arms {
        writeln!(
            out,
            "| {} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.3} |",
            arm.name,
            arm.rate.median,
            arm.rate.low,
            arm.rate.high,
            arm.cpu.median,
            arm.switches.median
        )?;
    }
    writeln!(
        out,
        "\n| {} ÷ | messages/s | floor | aim | processor | at most | |\n|---|---:|---:|---:|---:|---:|---|",
        row.ours
    )?;
    let ratios = ratios(row, samples);
    for ratio in &ratios {
        let goal = |goal: Option<f64>| goal.map_or("–".to_owned(), |goal| format!("{goal}"));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            ratio.peer.arm,
            shown(ratio.rate),
            goal(ratio.peer.floor),
            goal(ratio.peer.aim),
            shown(ratio.cpu),
            goal(ratio.peer.cpu),
            match verdict(ratio, plan.null) {
                "" => String::new(),
                verdict if sound => verdict.to_owned(),
                verdict => format!("{verdict} (control void)"),
            }
        )?;
    }
    let file = format!("{name}-{}.svg", slug(row.name));
    plot::write(&plan.into.join(&file), row.name, &arms, &ratios)?;
    writeln!(out, "\n![{}]({file})\n", row.name)?;
    Ok(())
}

/// A floor is met where the worse end of the interval is above it, or the median beside the best bare client. Against a null broker
/// processor time alone is judged.
fn verdict(ratio: &Ratio<'_>, null: bool) -> &'static str {
    let Some(floor) = ratio.peer.floor else {
        return "";
    };
    let cpu_holds = ratio.peer.cpu.is_none_or(|most| ratio.cpu.high <= most);
    if null && cpu_holds {
        return match ratio.peer.cpu {
            Some(_) => "processor time within its bound",
            None => "",
        };
    }
    let judged = match ratio.peer.best {
        true => ratio.rate.median,
        false => ratio.rate.low,
    };
    match (judged >= floor, cpu_holds) {
        (true, true) if ratio.peer.aim.is_some_and(|aim| judged >= aim) => "aim met",
        (true, true) => "floor met",
        (false, true) if ratio.rate.high < floor => "**below the floor**",
        (false, true) => "floor not shown",
        (_, false) => "**processor time over its bound**",
    }
}

fn arms<'a>(row: &Row, samples: &[&'a Sample]) -> Vec<Arm<'a>> {
    let mut names: Vec<&str> = row.arms();
    names.dedup();
    let of = |name: &str| -> Option<Arm<'a>> {
        let own: Vec<&&Sample> = samples
            .iter()
            .filter(|s| s.arm == name && !s.again)
            .collect();
        let per = |figure: fn(&Sample) -> f64| Spread::of(own.iter().map(|sample| figure(sample)));
        Some(Arm {
            name: own.first().map(|sample| sample.arm.as_str())?,
            rate: per(rate)?,
            cpu: per(|s| s.measured.cpu_seconds * 1e6 / s.measured.messages as f64)?,
            switches: per(|s| s.measured.switches as f64 / s.measured.messages as f64)?,
        })
    };
    names.into_iter().filter_map(of).collect()
}

fn ratios<'a>(row: &'a Row, samples: &[&Sample]) -> Vec<Ratio<'a>> {
    let of = |peer: &'a Peer| {
        let pairs = pairs(samples, (row.ours, false), (peer.arm, false));
        let cpu = |s: &Sample| s.measured.cpu_seconds / s.measured.messages as f64;
        Some(Ratio {
            peer,
            rate: Spread::of(pairs.iter().map(|(ours, peer)| rate(ours) / rate(peer)))?,
            cpu: Spread::of(pairs.iter().map(|(ours, peer)| cpu(ours) / cpu(peer)))?,
        })
    };
    row.peers.iter().filter_map(of).collect()
}

fn control(row: &Row, samples: &[&Sample]) -> Option<Spread> {
    let pairs = pairs(samples, (row.control, false), (row.control, true));
    Spread::of(pairs.iter().map(|(one, other)| rate(one) / rate(other)))
}

/// The runs of two arms in the same blocks.
fn pairs<'a>(
    samples: &[&'a Sample],
    one: (&str, bool),
    other: (&str, bool),
) -> Vec<(&'a Sample, &'a Sample)> {
    let is = |sample: &Sample, wanted: (&str, bool)| (sample.arm.as_str(), sample.again) == wanted;
    let mut pairs = Vec::new();
    for a in samples.iter().filter(|sample| is(sample, one)) {
        let same = |sample: &&&Sample| is(sample, other) && sample.block == a.block;
        pairs.extend(samples.iter().find(same).map(|b| (*a, *b)));
    }
    pairs
}

fn rate(sample: &Sample) -> f64 {
    sample.measured.messages as f64 / sample.measured.seconds
}

fn shown(spread: Spread) -> String {
    format!(
        "{:.2} ({:.2} to {:.2})",
        spread.median, spread.low, spread.high
    )
}

fn slug(name: &str) -> String {
    let word = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let dashed: String = name.chars().map(word).collect();
    let parts: Vec<&str> = dashed.split('-').filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

/// Writes a file, and says which one if it cannot.
pub(crate) fn save(path: &Path, text: &str) -> Result {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arm::Measured, rows::ROWS};

    fn sample(arm: &str, block: usize, again: bool, seconds: f64) -> Sample {
        Sample {
            row: ROWS[0].name.to_owned(),
            arm: arm.to_owned(),
            block,
            again,
            measured: Measured {
                messages: 1000,
                seconds,
                cpu_seconds: seconds / 2.0,
                switches: 10,
                peak_kib: 1,
            },
        }
    }

    #[test]
    fn ratios_are_those_of_the_same_block() {
        let row = &ROWS[0];
        let peer = row.peers[0].arm;
        let samples = [
            sample(row.ours, 0, false, 1.0),
            sample(peer, 0, false, 2.0),
            sample(row.ours, 1, false, 2.0),
            sample(peer, 1, false, 4.0),
            // Without a partner it counts for nothing.
            sample(peer, 2, false, 100.0),
        ];
        let samples: Vec<&Sample> = samples.iter().collect();
        let ratios = ratios(row, &samples);
        assert_eq!(ratios.len(), 1);
        assert_eq!(ratios[0].rate.median, 2.0);
        assert_eq!(ratios[0].cpu.median, 0.5);
        let (real, null) = (false, true);
        assert_eq!(ratios[0].peer.floor, None);
        let met = Peer {
            floor: Some(1.8),
            aim: Some(2.5),
            cpu: Some(0.4),
            ..*ratios[0].peer
        };
        let ratio = |peer| Ratio { peer, ..ratios[0] };
        assert_eq!(verdict(&ratios[0], real), "");
        let over = "**processor time over its bound**";
        assert_eq!(verdict(&ratio(&met), real), over);
        assert_eq!(verdict(&ratio(&met), null), over);
        let met = Peer { cpu: None, ..met };
        assert_eq!(verdict(&ratio(&met), real), "floor met");
        assert_eq!(verdict(&ratio(&met), null), "");
        // The median of this one is above the floor, its worse end below.
        let wide = |best: &'static Peer| Ratio {
            peer: best,
            rate: Spread {
                median: 2.0,
                low: 1.0,
                high: 3.0,
            },
            ..ratios[0]
        };
        const BEST: Peer = Peer {
            arm: "amqp/ours, publish",
            floor: Some(1.8),
            aim: Some(2.5),
            cpu: None,
            best: true,
        };
        const OTHER: Peer = Peer {
            best: false,
            ..BEST
        };
        assert_eq!(verdict(&wide(&BEST), real), "floor met");
        assert_eq!(verdict(&wide(&OTHER), real), "floor not shown");
    }

    #[test]
    fn the_control_is_an_arm_to_itself() {
        let row = &ROWS[0];
        let samples = [
            sample(row.control, 0, false, 1.0),
            sample(row.control, 0, true, 1.0),
        ];
        let samples: Vec<&Sample> = samples.iter().collect();
        assert!(control(row, &samples).is_some_and(|control| control.contains_one()));
    }

    #[test]
    fn a_name_of_a_file_is_plain() {
        assert_eq!(
            slug("produce, idempotent, acks=all"),
            "produce-idempotent-acks-all"
        );
    }
}
