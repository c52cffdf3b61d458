//! How long the checker takes, and how much memory: writes a history of so many events as a service
//! would, and checks it.
//!
//! `cargo run --release -p mq-testkit --example many_events -- 10000000`
#![allow(clippy::print_stdout, reason = "a program that shows its figures")]

use std::{
    env, fs, process,
    time::{Duration, Instant},
};

use mq_testkit::{
    checker::{Checker, Claim, Verdict},
    history::{Event, Recorder},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let events: u64 = match env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 100_000,
    };
    let folder = env::temp_dir().join(format!("many-events-{}", process::id()));
    let began = Instant::now();
    let producer = Recorder::create(&folder, "many", "producer")?;
    let consumer = Recorder::create(&folder, "many", "consumer")?;
    let tags = producer.tags();
    // Four events a message.
    for number in 0..events / 4 {
        let tag = tags.next(&format!("key-{}", number % 1000));
        producer.record(Event::send(&tag))?;
        producer.record(Event::ok(&tag))?;
        consumer.record(Event::deliver("orders", &tag))?;
        consumer.record(Event::effect("orders", &tag))?;
    }
    let (wrote, before) = (began.elapsed(), resident());
    let began = Instant::now();
    let report = Checker::new(Claim::at_least_once().ordered()).check(&folder)?;
    let (checked, after) = (began.elapsed(), resident());
    let bytes: u64 = fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|file| file.len())
        .sum();
    fs::remove_dir_all(&folder)?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    let each = |took: Duration| took.as_secs_f64() * 1e6 / events as f64;
    println!("events      {events}, {} MB in files", bytes / 1_000_000);
    println!("recorded in {wrote:.1?}, {:.2} µs an event", each(wrote));
    println!(
        "checked in  {checked:.1?}, {:.2} µs an event",
        each(checked)
    );
    println!("most memory {after} kB, {before} kB before the check (VmHWM)");
    Ok(())
}

/// The most memory that this process has had, in kB; 0 where the system does not tell.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.unwrap_or(0)
}
