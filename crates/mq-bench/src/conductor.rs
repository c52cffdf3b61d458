//! The conductor: blocks in which each arm runs once, in a random order.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    Result,
    arm::Measured,
    counts, flags,
    ground::{Ground, on_core},
    report,
    rows::{Broker, ROWS, Row, Work},
};

/// What a run is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) broker: Broker,
    pub(crate) only: Option<String>,
    pub(crate) blocks: usize,
    pub(crate) seconds: f64,
    /// Of each run, instead of as many as last so many seconds.
    pub(crate) messages: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) pinned: bool,
    pub(crate) null: bool,
    pub(crate) address: Option<String>,
    pub(crate) into: PathBuf,
}

/// One run of one arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) row: String,
    pub(crate) arm: String,
    pub(crate) block: usize,
    /// The control runs twice in a block; this is the second time.
    pub(crate) again: bool,
    pub(crate) measured: Measured,
}

impl TryFrom<flags::Run> for Plan {
    type Error = String;

    fn try_from(flags: flags::Run) -> Result<Self, String> {
        let all = [Broker::Memory, Broker::Amqp, Broker::Kafka];
        let broker = all.into_iter().find(|broker| broker.word() == flags.broker);
        let broker =
            broker.ok_or_else(|| format!("{:?} is none of memory, amqp, kafka", flags.broker))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        if broker == Broker::Memory && (flags.null || flags.address.is_some()) {
            return Err("in memory there is no broker, null or not".to_owned());
        }
        if flags.address.is_some() && (flags.null || flags.pinned) {
            return Err(
                "a broker that runs already is no null broker, and is where it is".to_owned(),
            );
        }
        Ok(Self {
            broker,
            only: flags.row,
            blocks: flags.blocks.unwrap_or(15).max(1),
            seconds: flags.seconds.unwrap_or(3.0).max(0.1),
            messages: flags.messages.map(|messages| messages.max(1)),
            seed: flags
                .seed
                .unwrap_or_else(|| now.map_or(1, |now| u64::from(now.subsec_nanos()))),
            pinned: flags.pinned,
            null: flags.null,
            address: flags.address,
            into: flags.into.unwrap_or_else(|| "docs/benchmarks".into()),
        })
    }
}

/// Measures, and writes the report, which grows with each row.
///
/// # Errors
/// Those of the broker and of writing; and if an arm failed, once all is written.
pub(crate) async fn run(plan: Plan) -> Result {
    let host = report::Host::now();
    let ground = Ground::start(&plan).await?;
    let product = ground.product().await?;
    let mut found = Found::default();
    let mut text = String::new();
    for row in rows(&plan) {
        measure(&plan, row, &ground, &mut found).await?;
        ground.clear().await?;
        text = report::write(&plan, &product, &host, &found)?;
    }
    if plan.broker == Broker::Memory && plan.only.is_none() {
        counts::write(&plan.into).await?;
    }
    println!("\n{text}");
    match found.failed.len() {
        0 if text.is_empty() => Err("no row is called so".into()),
        0 => Ok(()),
        failed => Err(format!("{failed} arms did not do their work; the report names them").into()),
    }
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) samples: Vec<Sample>,
    /// Row and arm, and the reason.
    pub(crate) failed: BTreeMap<(String, String), String>,
}

impl Found {
    /// An arm that fails has no figure, however often it did not fail before.
    fn fails(&mut self, row: &Row, arm: &str, error: &dyn std::fmt::Display) {
        println!("  {arm}: FAILED: {error}");
        self.samples
            .retain(|sample| (sample.row.as_str(), sample.arm.as_str()) != (row.name, arm));
        let key = (row.name.to_owned(), arm.to_owned());
        self.failed.insert(key, error.to_string());
    }
}

/// The rows that are asked for. A null broker has no transactions, and no kinds of queues.
pub(crate) fn rows(plan: &Plan) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| {
        row.broker == plan.broker
            && !(plan.null && (row.work == Work::Copy || row.queue == "quorum"))
            && plan
                .only
                .as_ref()
                .is_none_or(|only| row.name.contains(only))
    })
}

async fn measure(plan: &Plan, row: &'static Row, ground: &Ground, found: &mut Found) -> Result {
    println!("\n{}", row.name);
    let mut dice = Dice(plan.seed);
    // The first run of each arm does not count: it says how many messages the others get.
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let first = plan.messages.unwrap_or(row.first);
    for arm in row.arms() {
        match one(plan, row, ground, arm, first).await {
            Ok(measured) => {
                let rate = measured.messages as f64 / measured.seconds;
                let lasting = ((rate * plan.seconds) as u64 / 1000 + 1) * 1000;
                counts.insert(arm, plan.messages.unwrap_or(lasting));
                println!("  {arm}: about {rate:.0}/s");
            }
            Err(error) => found.fails(row, arm, &error),
        }
    }
    // One topic for all: as long as the fastest of them needs.
    if row.work.shares_a_topic()
        && let Some(shared) = counts.values().max().copied()
    {
        counts.values_mut().for_each(|count| *count = shared);
        ground.clear().await?;
    }
    for block in 0..plan.blocks {
        let mut arms: Vec<(&str, bool)> = counts.keys().map(|arm| (*arm, false)).collect();
        if counts.contains_key(row.control) {
            arms.push((row.control, true));
        }
        dice.shuffle(&mut arms);
        for (arm, again) in arms {
            // It is gone if it failed in this block already.
            let Some(messages) = counts.get(arm).copied() else {
                continue;
            };
            match one(plan, row, ground, arm, messages).await {
                Ok(measured) => found.samples.push(Sample {
                    row: row.name.to_owned(),
                    arm: arm.to_owned(),
                    block,
                    again,
                    measured,
                }),
                Err(error) => {
                    found.fails(row, arm, &error);
                    counts.remove(arm);
                }
            }
        }
        println!("  block {} of {}", block + 1, plan.blocks);
    }
    Ok(())
}

/// Runs an arm in a process of its own, and looks at the broker whether its work was done.
async fn one(
    plan: &Plan,
    row: &Row,
    ground: &Ground,
    arm: &str,
    messages: u64,
) -> Result<Measured> {
    let site = ground.prepare(row, messages).await?;
    let order = &site.order;
    let mut command = on_core(plan.pinned.then_some("1"))?;
    command
        .args(["arm", arm, "--address", &order.address])
        .args(["--queue", &order.queue, "--group", &order.group])
        .args(["--messages", &messages.to_string()])
        .args(["--size", &row.size.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| format!("not done within {} s", LIMIT.as_secs()))??;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(words.lines().last().unwrap_or("no words").to_owned().into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let measured: Measured =
        serde_json::from_str(line).map_err(|error| format!("{line:?}: {error}"))?;
    ground.check(row, &site).await?;
    Ok(measured)
}

/// SplitMix64: a seed gives the same order everywhere.
struct Dice(u64);

impl Dice {
    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// No run takes so long.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);
