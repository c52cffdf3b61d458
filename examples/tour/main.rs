//! A tour of all patterns on any broker. The main job comes first: a work queue, from publishing to
//! the last dead letter, with both ends compared. Then the other patterns, each in short.
//!
//! ```text
//! cargo run --example tour
//! cargo run --example tour -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example tour -- --broker kafka://127.0.0.1:9092 --input records.jsonl --key customer
//! ```

mod check;
mod consumer_group;
mod fan_out;
mod input;
mod pipeline;
mod producer_consumer;
mod routing;
mod sample;
mod tour;
mod work_queue;
mod workers;

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use mq_core::{Broker, flow::FlowSink};
use mq_examples::{Args, Clients, Result};
use mq_testkit::flow::FlowRecorder;

use crate::{tour::Tour, work_queue::Plan};

#[tokio::main]
async fn main() -> Result<()> {
    let flags = xflags::parse_or_exit! {
        /// `memory` (default), `amqp://user:password@host:port/vhost` or `kafka://host:port[,host:port]`.
        optional --broker broker: String
        /// A file with text lines, JSON lines or a JSON array. Default: a built-in sample, some of whose
        /// records fail on purpose.
        optional --input file: PathBuf
        /// The field of the JSON records that is their ordering key.
        optional --key field: String
        /// The queue, and what the names of all others begin with. Default: `tour`, or `tour-TOKEN` with
        /// a token.
        optional --queue name: String
        /// Writes what happened, drawn as a Mermaid sequence diagram and counted, to this file.
        optional --flow file: PathBuf
        /// A word that goes through the broker with every record and is printed when it is back.
        optional --token word: String
    };
    let queue = flags.queue.unwrap_or_else(|| match &flags.token {
        Some(token) => format!("tour-{token}"),
        None => "tour".to_owned(),
    });
    let args = Args::new(flags.broker.as_deref(), flags.token)?;
    let plan = Plan::new(flags.input, flags.key)?;
    let recorder = Arc::new(FlowRecorder::with_limit(100_000));
    let broker = match &flags.flow {
        Some(_) => {
            let sink = Arc::clone(&recorder) as Arc<dyn FlowSink>;
            Clients::new(&args, sink).connect("tour", false).await?
        }
        None => args.connect().await?,
    };
    println!("All patterns on {} ({})", args.broker(), broker.product());
    let tour = Tour::new(broker, queue, args.token());

    work_queue::run(&tour, plan).await?;
    println!("the other patterns");
    let started = Instant::now();
    producer_consumer::run(&tour).await?;
    fan_out::run(&tour).await?;
    routing::run(&tour).await?;
    consumer_group::run(&tour).await?;
    pipeline::run(&tour).await?;
    let seconds = started.elapsed().as_secs_f64();
    println!("every pattern did what it says, in {seconds:.2} s");
    tour.broker.close().await?;
    if let Some(file) = flags.flow {
        let drawing = recorder.drawing().hide(format!("-{}", args.token()));
        let title = format!("The tour on {}", args.broker());
        fs::write(&file, drawing.markdown(&title))?;
        println!("its flow is drawn in {}", file.display());
    }
    Ok(())
}
