//! A member of the group: a process that says on its standard output what it has and what it takes,
//! and is told on its standard input to hang or to close.

use mq_examples::Result;
use mq_kafka::{
    Kafka,
    core::{Broker, ConsumePlan, Consumer, Destination, Subscription},
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Stdout, stdin, stdout};

pub(crate) async fn run(servers: &str, jobs: &Destination) -> Result<()> {
    let kafka = Kafka::connect(servers).await?;
    let source = Subscription::queue(jobs.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let mut assignment = consumer.assignment();
    let mut commands = BufReader::new(stdin()).lines();
    let mut out = stdout();
    say(&mut out, "has", &words(&assignment.partitions())).await?;
    let mut in_work = Vec::new();
    let mut hangs = false;
    loop {
        tokio::select! {
            partitions = assignment.changed() => match partitions {
                Some(partitions) => say(&mut out, "has", &words(&partitions)).await?,
                None => return Err("the consumer ended".into()),
            },
            received = consumer.receive() => {
                let job = received?.ok_or("the consumer ended")?;
                if hangs {
                    in_work.push(job);
                    continue;
                }
                let text = job.payload().map(|payload| String::from_utf8_lossy(payload));
                // Said before it is acknowledged: what is done twice is seen, what is lost too.
                say(&mut out, "took", &text.unwrap_or_default()).await?;
                job.ack()?;
            }
            command = commands.next_line() => match command?.as_deref() {
                Some("hang") => {
                    consumer.settled().await?;
                    hangs = true;
                    say(&mut out, "hangs", "").await?;
                }
                _ => break,
            },
        }
    }
    consumer.close().await?;
    kafka.close().await?;
    Ok(())
}

fn words(partitions: &[u32]) -> String {
    let words: Vec<String> = partitions.iter().map(u32::to_string).collect();
    words.join(" ")
}

async fn say(out: &mut Stdout, word: &str, rest: &str) -> Result<()> {
    out.write_all(format!("{word} {rest}\n").as_bytes()).await?;
    Ok(out.flush().await?)
}
