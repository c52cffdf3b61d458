//! Queues of a RabbitMQ cluster, by its own tools inside a node.

use std::{
    io::{Error, Result},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::time::sleep;

use crate::containers::Node;

/// Waits until a node runs in a cluster of so many. A queue that is declared before has fewer members, for good.
///
/// # Errors
/// What it said last, if that takes longer than three minutes.
///
/// # Cancel safety
/// Safe.
pub async fn together(asked: &Node, nodes: usize) -> Result<()> {
    let ask = ["rabbitmqctl", "cluster_status", "--formatter", "json"];
    until(async || match running(&asked.exec(&ask).await?)? {
        seen if seen == nodes => Ok(()),
        seen => Err(Error::other(format!(
            "{} sees {seen} of {nodes} nodes",
            asked.service()
        ))),
    })
    .await
}

/// Who leads a queue, as this node sees it; it is asked until it says so.
///
/// # Errors
/// What it said last, if it names no leader within a minute.
///
/// # Cancel safety
/// Safe.
pub async fn leader(asked: &Node, queue: &str) -> Result<usize> {
    let list = ["rabbitmqctl", "--quiet", "list_queues"];
    let columns = ["--formatter", "json", "name", "leader"];
    let ask: Vec<&str> = list.into_iter().chain(columns).collect();
    // A queue that was just declared, or whose leader was just killed, may have none that this node knows of.
    until(async || {
        let answer = asked.exec(&ask).await?;
        leader_in(&answer, queue).ok_or_else(|| Error::other(format!("no leader of {queue}")))
    })
    .await
}

/// Waits until every node is a voting member of a quorum queue and has written all that was committed when it was first asked.
///
/// # Errors
/// What was missing last, if that takes longer than three minutes.
///
/// # Cancel safety
/// Safe.
pub async fn whole(asked: &Node, queue: &str, nodes: usize) -> Result<()> {
    let ask = ["rabbitmq-queues", "quorum_status", queue];
    let ask: Vec<&str> = ask.into_iter().chain(["--formatter", "json"]).collect();
    let mut committed = None;
    until(async || {
        let members = members(&asked.exec(&ask).await?)?;
        let goal = members.iter().filter_map(|member| member.committed).max();
        let goal = *committed.get_or_insert(goal.unwrap_or(0));
        let whole = |member: &&Member| member.written.is_some_and(|written| written >= goal);
        match members.iter().filter(whole).count() {
            count if count == nodes => Ok(()),
            count => Err(Error::other(format!(
                "{count} of {nodes} nodes have {queue} up to {goal}: {members:?}"
            ))),
        }
    })
    .await
}

/// What the Raft group says of a node.
#[derive(Debug, PartialEq)]
struct Member {
    /// The last entry that it has written; `None` if it takes no part.
    written: Option<u64>,
    committed: Option<u64>,
}

fn running(answer: &str) -> Result<usize> {
    let status: Value = serde_json::from_str(answer)?;
    let running = status["running_nodes"].as_array();
    running
        .map(Vec::len)
        .ok_or_else(|| Error::other("its status names no running nodes"))
}

fn leader_in(answer: &str, queue: &str) -> Option<usize> {
    let queues: Value = serde_json::from_str(answer).ok()?;
    let mut queues = queues.as_array()?.iter();
    let leader = queues.find(|entry| entry["name"] == queue)?["leader"].as_str()?;
    let number: usize = leader.rsplit('-').next()?.parse().ok()?;
    number.checked_sub(1)
}

fn members(answer: &str) -> Result<Vec<Member>> {
    let members: Value = serde_json::from_str(answer)?;
    let members = members.as_array().ok_or_else(|| Error::other("no list"))?;
    let member = |member: &Value| {
        let state = member["Raft State"].as_str().unwrap_or_default();
        let part = matches!(state, "leader" | "follower") && member["Membership"] == "voter";
        let written = member["Last Written"].as_u64().filter(|_| part);
        Member {
            written,
            committed: member["Commit Index"].as_u64(),
        }
    };
    Ok(members.iter().map(member).collect())
}

async fn until<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask().await {
            Err(_) if start.elapsed() < PATIENCE => sleep(Duration::from_millis(250)).await,
            answer => return answer,
        }
    }
}

/// A node that was killed has to start, on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(180);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    #[test]
    fn reads_who_leads_a_queue() {
        let answer = "[\n{\"name\":\"a\",\"leader\":\"rabbit@rabbitmq-1\"}\n,{\"name\":\"b\",\"leader\":\"rabbit@rabbitmq-3\"}\n,{\"name\":\"c\",\"leader\":\"\"}]";
        assert_eq!(leader_in(answer, "a"), Some(0));
        assert_eq!(leader_in(answer, "b"), Some(2));
        assert_eq!(leader_in(answer, "c"), None);
        // As a node answers that has not heard of the queue yet.
        assert_eq!(leader_in("[\n]", "a"), None);
    }

    #[test]
    fn counts_the_nodes_that_run() {
        let status = r#"{"disk_nodes":["a","b","c"],"running_nodes":["a","c"]}"#;
        assert_eq!(running(status).unwrap(), 2);
        assert!(running("{}").is_err() && running("no").is_err());
    }

    #[test]
    fn a_node_that_is_down_has_nothing() {
        let answer = r#"[{"Node Name":"rabbit@rabbitmq-1","Raft State":"leader","Membership":"voter","Last Written":7,"Commit Index":6},
            {"Node Name":"rabbit@rabbitmq-2","Raft State":"noproc","Membership":"unknown","Last Written":"unknown","Commit Index":"unknown"},
            {"Node Name":"rabbit@rabbitmq-3","Raft State":"follower","Membership":"promotable","Last Written":7,"Commit Index":5}]"#;
        let member = |written, committed| Member { written, committed };
        let expected = [
            member(Some(7), Some(6)),
            member(None, None),
            member(None, Some(5)),
        ];
        assert_eq!(members(answer).unwrap(), expected);
    }
}
