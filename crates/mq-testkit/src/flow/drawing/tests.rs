//! The text of a diagram, and the grammar that no name may break.

use std::sync::Arc;

use mq_core::{
    Decision, Destination, Error, ErrorKind, Message, MessageId, Position, Receipt, Received,
    Stored, Subscription, flow::Flow,
};
use proptest::prelude::*;

use super::*;
use crate::flow::{FlowRecorder, line::tests::flow, text::tests::is_label};

fn received(id: &str, attempt: u32) -> Received {
    let id = MessageId::new(id).expect("an id");
    let message = Message::new("x").id(id).build();
    Received::new(message, "q".into(), None).with_attempt(attempt)
}

fn publish(flow: &Flow, id: &str, to: &Destination, outcome: &mq_core::Result<Receipt>) {
    let id = MessageId::new(id).expect("an id");
    let message = Message::new("x").id(id).build();
    let publish = flow.publish(&message, to).expect("there is a sink");
    publish.begin();
    publish.end(outcome);
}

fn confirmed() -> mq_core::Result<Receipt> {
    Ok(Receipt::new(Stored::Process))
}

fn failed(kind: ErrorKind) -> mq_core::Result<Receipt> {
    Err(Error::new(kind, "publish", "no"))
}

#[test]
fn each_step_is_a_line_and_repeats_are_one_loop() {
    let recorder = Arc::new(FlowRecorder::new());
    let (shop, packer) = (flow("shop", &recorder), flow("packer", &recorder));
    let (queue, source) = (Destination::queue("orders"), Subscription::queue("orders"));
    for at in 0..4 {
        publish(&shop, &format!("order-{at}"), &queue, &confirmed());
    }
    publish(&shop, "lost", &queue, &failed(ErrorKind::Unknown));
    publish(&shop, "full", &queue, &failed(ErrorKind::Rejected));
    packer.consumer(FlowKind::Opened, &source, None);
    let again = received("order-0", 2);
    packer.delivery(FlowKind::Delivered, &source, &again, Some(7));
    packer.handled(&source, &again, &Decision::Ack);
    packer.delivery(FlowKind::Acked, &source, &again, Some(7));
    assert_eq!(
        recorder.drawing().diagram(),
        "\
sequenceDiagram
    participant p1 as shop
    participant p2 as queue orders
    participant p3 as packer
    loop 4 times, m1 to m4
        p1->>p2: published m1
        p2-->>p1: confirmed m1
    end
    p1->>p2: published m5
    p1->>p2: unknown m5 unknown, no answer came
    p1->>p2: published m6
    p2--xp1: rejected m6
    p3->>p2: opened
    p2->>p3: delivered m1 (delivery 7) attempt 2
    p3->>p2: handled m1 handled, ack
    p3->>p2: acked m1 (delivery 7)
"
    );
    assert_eq!(
        recorder.drawing().summary(),
        "\
| client | place | published | confirmed | rejected | unknown | opened | delivered | handled | acked |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
| packer | queue orders | | | | | 1 | 1 | 1 | 1 |
| shop | queue orders | 6 | 4 | 1 | 1 | | | | |
"
    );
}

#[test]
fn equal_runs_are_drawn_alike_whatever_their_ids_and_names_are() {
    let draw = |run: &str| {
        let recorder = Arc::new(FlowRecorder::new());
        let shop = flow("shop", &recorder);
        let queue = Destination::queue(format!("orders-{run}"));
        publish(&shop, &format!("{run}-1"), &queue, &confirmed());
        recorder.drawing().hide(format!("-{run}")).markdown("A run")
    };
    assert_eq!(draw("t1"), draw("t2"));
    assert!(draw("t1").starts_with("# A run\n\n```mermaid\nsequenceDiagram\n"));
}

#[test]
fn of_the_commits_of_a_partition_the_last_is_drawn() {
    let recorder = Arc::new(FlowRecorder::new());
    let member = flow("member", &recorder);
    let source = Subscription::durable("t", "g");
    for (partition, offset) in [(0, 1), (1, 5), (0, 2), (0, 3)] {
        let position = Some(Position { partition, offset });
        member.consumer(FlowKind::Committed, &source, position);
    }
    let diagram = recorder.drawing().diagram();
    assert_eq!(diagram.matches("committed").count(), 2, "{diagram}");
    assert!(
        diagram.contains("committed 3 of partition 0\n"),
        "{diagram}"
    );
}

#[test]
fn a_long_run_is_cut_and_says_by_how_much() {
    let recorder = Arc::new(FlowRecorder::new());
    for at in 0..400 {
        let client = flow(&format!("client {at}"), &recorder);
        publish(&client, "m", &Destination::queue("q"), &confirmed());
    }
    let diagram = recorder.drawing().diagram();
    assert!(diagram.contains("650 more steps, not drawn"), "{diagram}");
    assert!(diagram.len() < 50_000);
    check(&diagram).expect("the grammar");
    let nothing = FlowRecorder::with_limit(0);
    check(&nothing.drawing().diagram()).expect("the grammar");
}

/// The subset of Mermaid that is written here, strictly.
fn check(diagram: &str) -> Result<(), String> {
    let mut lines = diagram.lines();
    if lines.next() != Some("sequenceDiagram") {
        return Err("no head".into());
    }
    let mut known = BTreeSet::new();
    let mut open = false;
    for line in lines {
        let wrong = || format!("{line:?} in\n{diagram}");
        let text = line.strip_prefix("    ").ok_or_else(wrong)?;
        let text = text.strip_prefix("    ").filter(|_| open).unwrap_or(text);
        let ok = if let Some(rest) = text.strip_prefix("participant ") {
            let (id, label) = rest.split_once(" as ").ok_or_else(wrong)?;
            known.insert(id) && is_id(id) && is_label(label) && !open
        } else if let Some(rest) = text.strip_prefix("Note over ") {
            let (id, label) = rest.split_once(": ").ok_or_else(wrong)?;
            known.contains(id) && is_label(label)
        } else if let Some(rest) = text.strip_prefix("loop ") {
            !std::mem::replace(&mut open, true) && is_label(rest)
        } else if text == "end" {
            std::mem::replace(&mut open, false)
        } else {
            let (ids, label) = text.split_once(": ").ok_or_else(wrong)?;
            let heads = ["-->>", "->>", "--x"];
            let ids = heads.iter().find_map(|head| ids.split_once(head));
            let (from, to) = ids.ok_or_else(wrong)?;
            known.contains(from) && known.contains(to) && is_label(label)
        };
        if !ok {
            return Err(wrong());
        }
    }
    if open {
        return Err("a loop is open".into());
    }
    Ok(())
}

fn is_id(id: &str) -> bool {
    id.strip_prefix('p')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Names of everything that means something to Mermaid, and of anything else.
fn hostile() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "end",
        "END",
        "loop",
        ";",
        "#",
        "#35;",
        "\"",
        "\n",
        "\r\n",
        "<br/>",
        ":",
        "->>",
        "--x",
        "%%{init: {}}%%",
        "participant",
        " as ",
        "Note over",
        "style x:#;",
        "@{",
        "}",
        "|",
        "`",
        "```",
        "\u{202e}",
        "\u{0}",
        "😀",
        "ä",
        "é\u{301}",
        " ",
        "",
    ]);
    let part = prop_oneof![nasty.prop_map(str::to_owned), any::<String>()];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_name_breaks_a_diagram(
        names in prop::collection::vec((hostile(), hostile(), hostile(), 0..9_u8), 0..40),
    ) {
        let recorder = Arc::new(FlowRecorder::new());
        for (client, place, other, what) in &names {
            let flow = flow(client, &recorder);
            let (queue, topic) = (Destination::queue(&**place), Destination::topic(&**place));
            let durable = Subscription::durable(&**place, &**other);
            let ephemeral = Subscription::ephemeral(&**place);
            // An id has no control characters, and otherwise anything.
            let id: String = other.chars().filter(|c| !c.is_control()).take(60).collect();
            let id = format!("i{id}");
            let received = received(&id, 2);
            match what {
                0 => publish(&flow, &id, &queue, &confirmed()),
                1 => publish(&flow, &id, &topic, &failed(ErrorKind::Unroutable)),
                2 => flow.consumer(FlowKind::Opened, &ephemeral, None),
                3 => flow.delivery(FlowKind::Delivered, &durable, &received, Some(3)),
                4 => flow.handled(&durable, &received, &Decision::Ack),
                5 => flow.dead_lettered(&durable, &received, None, &queue),
                6 => flow.delivery(FlowKind::Requeued, &ephemeral, &received, None),
                7 => publish(&flow, &id, &queue, &failed(ErrorKind::Unknown)),
                _ => flow.consumer(FlowKind::Closed, &durable, None),
            }
        }
        let drawing = recorder.drawing();
        let diagram = drawing.diagram();
        prop_assert_eq!(check(&diagram), Ok(()));
        // Every line of the table has as many cells as its head.
        let summary = drawing.summary();
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut lines = summary.lines();
        let head = lines.next().map(cells);
        prop_assert!(lines.all(|line| Some(cells(line)) == head), "{}", summary);
    }
}
