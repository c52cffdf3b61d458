//! Runs `peer.py`: each call is one Python process that does its steps and ends.

use std::{env, fmt::Debug, process::Stdio, time::Duration};

use mq_testkit::{Check, Failure};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command, sync::OnceCell, time::timeout};

/// Names an interpreter that can import pika.
pub(crate) const PYTHON: &str = "MQ_PEER_PYTHON";

/// Has pika do these steps, one after the other; their results.
pub(crate) async fn pika(url: &str, steps: Value) -> Check<Vec<Value>> {
    let python = env::var(PYTHON)?;
    let mut child = Command::new(python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/interop/peer.py"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let request = json!({"url": url, "steps": steps}).to_string();
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(request.as_bytes()).await?;
    drop(stdin);
    let ended = timeout(PATIENCE, child.wait_with_output()).await;
    let output = ended.map_err(|_| Failure::new(format!("pika did not end in {PATIENCE:?}")))??;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("pika failed: {}", text.trim())));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a story yields that is told once for all cases; so is its failure.
pub(crate) async fn once<T, F: Future<Output = Check<T>>>(
    cell: &'static OnceCell<Result<T, String>>,
    story: impl FnOnce() -> F,
) -> Check<&'static T> {
    // Boxed: these futures are large, and a case runs on a small stack.
    let told = || async {
        Box::pin(story())
            .await
            .map_err(|failure| failure.to_string())
    };
    cell.get_or_init(told)
        .await
        .as_ref()
        .map_err(|text| Failure::new(text.as_str()))
}

/// Fails with what was found and what was expected, unless they are the same.
#[track_caller]
pub(crate) fn same<A: PartialEq<B> + Debug, B: Debug>(found: A, expected: B, what: &str) -> Check {
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{what}: found {found:?}, expected {expected:?}"
    )))
}

/// Bytes as `peer.py` takes and shows them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// More than `peer.py` itself waits for a message.
const PATIENCE: Duration = Duration::from_secs(40);
