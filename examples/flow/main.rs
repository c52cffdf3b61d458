//! Draws what each pattern does: runs it step by step, records the flow events of its clients, and
//! prints the Mermaid sequence diagram. The diagrams in `docs/guides/patterns.md` are from here.
//!
//! With `MQ_FLOW_DIR` each diagram is also written to `<broker>-<pattern>.mmd` in that folder.
//!
//! ```text
//! cargo run --example flow
//! cargo run --example flow -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example flow -- --broker kafka://127.0.0.1:9092
//! ```

mod log;
mod queues;
mod scene;

use mq_examples::{Args, Result};

use crate::scene::Scene;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    match args.broker() {
        // Consumers share partitions there, and do not compete for single messages.
        "kafka" => {
            draw!(&args, log::consumer_group, log::pipeline, queues::retry);
        }
        _ => {
            draw!(
                &args,
                queues::work_queue,
                queues::producer_consumer,
                queues::fan_out,
                queues::routing,
                queues::retry
            );
        }
    }
    Ok(())
}

/// Runs each scene and draws it.
#[macro_export]
macro_rules! draw {
    ($args:expr, $($module:ident::$scene:ident),+) => {$(
        let scene = Scene::new($args);
        $module::$scene(&scene).await?;
        scene.draw(stringify!($scene)).await?;
    )+};
}
