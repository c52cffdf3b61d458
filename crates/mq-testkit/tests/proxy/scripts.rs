//! Scripts: printed, read, drawn from a seed, run, recorded.

use std::{sync::Arc, time::Duration};

use mq_testkit::{
    history::Recorder,
    proxy::{Direction, Fault, ProxyError, Script},
};
use proptest::{collection::vec, prelude::*};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer::{Pair, soon};

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![
        Just(Direction::ToBroker),
        Just(Direction::ToClient),
        Just(Direction::Both)
    ]
}

fn millis() -> impl Strategy<Value = Duration> {
    (0..100_000_u64).prop_map(Duration::from_millis)
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (millis(), millis()).prop_map(|(mean, jitter)| Fault::Latency { mean, jitter }),
        any::<u64>().prop_map(|bytes_per_second| Fault::Bandwidth { bytes_per_second }),
        any::<u64>().prop_map(|bytes| Fault::Slices { bytes }),
        any::<u64>().prop_map(|bytes| Fault::CutAfter { bytes }),
        millis().prop_map(|delay| Fault::SlowClose { delay }),
        Just(Fault::BlackHole),
        Just(Fault::Reset),
        Just(Fault::Refuse),
    ]
}

proptest! {
    #[test]
    fn a_script_is_read_as_it_is_printed(
        seed in any::<u64>(),
        steps in vec((proptest::option::of((direction(), fault())), millis()), 0..20),
    ) {
        let script = steps.into_iter().fold(Script::new(seed), |script, (fault, lasts)| match fault {
            Some((direction, fault)) => script.step(direction, fault, lasts),
            None => script.quiet(lasts),
        });
        prop_assert_eq!(script.to_string().parse::<Script>().expect("it is one"), script);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", fault in "(latency|bandwidth|cut after|slices of|slow close) .{0,20}") {
        let _ = text.parse::<Script>();
        let _ = format!("seed 1\n1ms both ways: {fault}").parse::<Script>();
    }

    #[test]
    fn a_seed_draws_the_same_steps_within_its_limits(seed in any::<u64>(), total in 0..100_000_u64) {
        let draw = || random(seed, Duration::from_millis(total));
        let script = draw();
        prop_assert_eq!(&script, &draw());
        let lasts: Duration = script.steps().iter().map(|step| step.lasts).sum();
        prop_assert_eq!(lasts, Duration::from_millis(total));
        for (at, step) in script.steps().iter().enumerate() {
            if step.fault.is_some() {
                prop_assert!(SECONDS.contains(&step.lasts));
                prop_assert!(script.steps()[at + 1].fault.is_none(), "no quiet phase after a fault");
            }
        }
    }
}

const SECONDS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

fn random(seed: u64, total: Duration) -> Script {
    let faults = [
        (Direction::Both, Fault::BlackHole),
        (Direction::ToClient, Fault::BlackHole),
        (Direction::Both, Fault::Reset),
    ];
    Script::random(seed, &faults, SECONDS, SECONDS, total)
}

#[test]
fn seeds_differ_and_each_fault_has_its_turn() {
    let total = Duration::from_secs(1000);
    assert_ne!(random(1, total), random(2, total));
    let printed = random(1, total).to_string();
    for part in [
        "both ways: black hole",
        "to client: black hole",
        "both ways: reset",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
}

#[test]
fn a_text_that_is_no_script_is_an_error_that_says_how_one_looks() {
    for bad in [
        "",
        "seed",
        "seed x",
        "seed 1\n1s quiet",
        "seed 1\n1ms up: reset",
        "seed 1\n1ms both ways: rest",
    ] {
        let error = bad.parse::<Script>().expect_err("no script");
        assert!(matches!(error, ProxyError::Parse { .. }));
        assert!(error.to_string().contains("write it like"), "{error}");
    }
}

#[tokio::test]
async fn a_script_runs_its_steps_and_they_are_recorded() {
    let folder = std::env::temp_dir().join(format!("mq-proxy-{}", std::process::id()));
    let recorder = Arc::new(Recorder::create(&folder, "run", "proxy").expect("a recorder"));
    let path = recorder.path().to_owned();
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    proxy.record_to(recorder);
    let script = Script::new(7)
        .quiet(Duration::from_millis(1))
        .step(
            Direction::ToBroker,
            Fault::BlackHole,
            Duration::from_millis(200),
        )
        .quiet(Duration::from_millis(1))
        .step(Direction::Both, Fault::Reset, Duration::ZERO);
    let run = proxy.run(script);
    // From now on until the hole is there and over.
    let writing = async {
        while client.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut read = Vec::new();
    let (end, (), _) =
        soon(async { tokio::join!(run.finished(), writing, server.read_to_end(&mut read)) }).await;
    end.expect("it ran to its end");
    assert!(proxy.counters().acted >= 2, "the hole and the reset");
    let history = std::fs::read_to_string(path).expect("a history");
    let events: Vec<&str> = history
        .lines()
        .skip(1)
        .map(|line| line.split_once("\"op\":").expect("an event").1)
        .collect();
    assert_eq!(
        events,
        [
            r#""fault","name":"to broker: black hole"}"#,
            r#""healed","name":"to broker: black hole"}"#,
            r#""fault","name":"both ways: reset"}"#,
            r#""healed","name":"both ways: reset"}"#,
        ]
    );
    std::fs::remove_dir_all(folder).expect("removed");
}

#[tokio::test]
async fn a_script_that_is_dropped_stops_and_its_faults_are_cleared() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    let run = proxy.run(
        "seed 1\n3600000ms both ways: black hole"
            .parse()
            .expect("a script"),
    );
    let held = async {
        while proxy.counters().acted == 0 {
            client.write_all(b"x").await.expect("written");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(held).await;
    drop(run);
    client.shutdown().await.expect("ended");
    soon(server.read_to_end(&mut Vec::new()))
        .await
        .expect("all of it");
    let run = proxy.run("seed 1\n3600000ms quiet".parse().expect("a script"));
    soon(proxy.close()).await;
    assert!(matches!(
        soon(run.finished()).await,
        Err(ProxyError::Closed)
    ));
}
