//! What the checker's tables take, as its documentation says.

use std::{fmt::Write as _, fs};

use mq_testkit::checker::{Checker, Claim, Report};

use crate::histories::folder;

const MESSAGES: u64 = 60_000;

/// Messages that are sent, delivered and done in each group.
fn check(messages: u64, groups: u64, positions: bool, transactions: bool) -> Report {
    let folder = folder();
    fs::create_dir_all(&folder).expect("a folder");
    let mut text = "{\"format\":1,\"run\":\"r\",\"process\":\"p\",\"life\":0}\n".to_owned();
    let mut at = 0;
    let mut line = |op: &str, seq: u64, rest: &str| {
        at += 1;
        let id = format_args!("\"producer\":\"p\",\"seq\":{seq}");
        writeln!(text, "{{\"at\":{at},\"op\":\"{op}\",{id}{rest}}}").expect("a string");
    };
    for seq in 0..messages {
        let place = match positions {
            true => format!(",\"log\":\"q\",\"partition\":0,\"offset\":{seq}"),
            false => String::new(),
        };
        let tx = match transactions {
            true => format!(",\"tx\":\"t{}\"", seq / 1_000),
            false => String::new(),
        };
        line("send", seq, &tx);
        line("ok", seq, &place);
        for group in 0..groups {
            line("deliver", seq, &format!("{place},\"group\":\"g{group}\""));
            let key = format!(",\"group\":\"g{group}\",\"key\":\"{}\"", seq % 100);
            line("effect", seq, &key);
        }
    }
    fs::write(folder.join("p.0.jsonl"), text).expect("written");
    let report = Checker::new(Claim::at_least_once()).check(&folder);
    fs::remove_dir_all(&folder).expect("removed");
    report.expect("a whole history")
}

#[test]
fn a_message_takes_the_bytes_that_the_documentation_says() {
    for (groups, positions, transactions, documented) in [
        (1, false, false, 1 + 1),
        (2, false, false, 1 + 2),
        (1, true, false, 1 + 1 + 8),
        (1, false, true, 1 + 1 + 4),
        (3, true, true, 1 + 3 + 8 + 4),
    ] {
        let bytes = |messages| {
            let report = check(messages, groups, positions, transactions);
            report.counts().table_bytes
        };
        // The difference leaves out what does not grow with the messages.
        let grown = bytes(MESSAGES) - bytes(MESSAGES / 6);
        let each = grown as f64 / (MESSAGES - MESSAGES / 6) as f64;
        let documented = f64::from(documented);
        // A tenth for the list of pages, and the names of transactions.
        assert!(
            (documented..documented * 1.1 + 0.2).contains(&each),
            "{each}, not {documented}"
        );
    }
}
