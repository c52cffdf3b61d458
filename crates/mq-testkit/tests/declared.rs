//! A broker that declares more than it can: the program that tests it ends red and says what.
#![allow(clippy::expect_used, reason = "a test: a panic is its failure")]

use std::{
    env,
    process::{Command, ExitCode, Output},
    time::Duration,
};

use mq_core::{
    Broker, Capabilities, Capability, ConsumePlan, Declaration, Deletion, Result, Subscription,
};
use mq_memory::Memory;
use mq_testkit::{Address, Fixture, Suite};

/// Queues, and it says that they have partitions.
#[derive(Clone)]
struct Boaster(Memory);

impl Broker for Boaster {
    type Publisher = <Memory as Broker>::Publisher;
    type Unconfirmed = <Memory as Broker>::Unconfirmed;
    type Consumer = <Memory as Broker>::Consumer;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().and(Capability::Partitions)
    }

    fn product(&self) -> String {
        self.0.product()
    }

    fn publisher(&self) -> Self::Publisher {
        self.0.publisher()
    }

    fn unconfirmed(&self) -> Self::Unconfirmed {
        self.0.unconfirmed()
    }

    async fn consumer(&self, from: &Subscription, plan: ConsumePlan) -> Result<Self::Consumer> {
        self.0.consumer(from, plan).await
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.declare(what).await
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.verify(what).await
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        self.0.delete(what).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

struct InProcess(Memory);

impl Fixture for InProcess {
    type Broker = Boaster;

    async fn connect(&self) -> Result<Boaster> {
        Ok(Boaster(self.0.client()))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(20)
    }
}

const CHILD: &str = "MQ_TEST_BOASTER";

/// The suite in a process of its own, with these arguments.
fn suite(arguments: &[&str]) -> Output {
    let program = env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(arguments).env(CHILD, "1");
    let command = command
        .env_remove("MQ_TEST_RECORDS")
        .env_remove("MQ_STRESS");
    command.output().expect("a process")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const UNSHOWN: &str = "FAILED: boaster declares `partitions`, and no case that needs it has passed";

fn main() -> ExitCode {
    if env::var_os(CHILD).is_some() {
        return Suite::new("conformance", "boaster", Address::in_process())
            .conformance(|_| InProcess(Memory::new()), "")
            .run();
    }
    Suite::new("declared", "mq-testkit", Address::in_process())
        .case("a_capability_that_no_case_has_shown_is_named", |_| async {
            let output = suite(&[]);
            let text = text(&output);
            assert!(!output.status.success(), "green: {text}");
            let named: Vec<&str> = text.lines().filter(|l| l.contains("declares `")).collect();
            assert_eq!(named, [UNSHOWN]);
            Ok(())
        })
        .case("a_filtered_run_is_usable", |_| async {
            let output = suite(&["an_empty_batch_has_no_outcomes"]);
            assert!(output.status.success(), "red: {}", text(&output));
            Ok(())
        })
        .case("a_copy_that_fails_tells_its_number", |_| async {
            let program = env::current_exe().expect("this program");
            let mut command = Command::new(program);
            command.arg("a_key_goes_to_one_consumer_at_a_time");
            command.env(CHILD, "1").env("MQ_STRESS", "3");
            let output = command.env_remove("MQ_TEST_RECORDS").output();
            let output = output.expect("a process");
            let text = text(&output);
            assert!(!output.status.success(), "green: {text}");
            for copy in 1..=3 {
                let line = format!("test [boaster #{copy}] a_key_goes_to_one_consumer_at_a_time");
                assert!(text.contains(&line), "{text}");
                assert!(text.contains(&format!("copy {copy}: ")), "{text}");
            }
            Ok(())
        })
        .run()
}
