//! How a filter is bound, and which filters a kind of exchange cannot keep.

use lapin::types::{AMQPValue, FieldTable};
use mq_core::{Error, ErrorKind, Filter, Result};

use super::{ExchangeKind, own_name, part::Part, short};

/// What is bound.
#[derive(Clone, Copy)]
pub(super) enum End<'a> {
    Queue(&'a str),
    Exchange(&'a str),
}

/// What binds a queue or an exchange to a topic so that it gets what the filter takes, and nothing
/// else.
pub(super) fn bindings(
    operation: &'static str,
    topic: &str,
    kind: ExchangeKind,
    to: End<'_>,
    filter: &Filter,
) -> Result<Vec<Part>> {
    check_filter(operation, topic, kind, filter)?;
    let bind = |exchange: String, key: &str, arguments| match to {
        End::Queue(queue) => Part::Bind {
            queue: queue.to_owned(),
            exchange,
            key: key.to_owned(),
            arguments,
        },
        End::Exchange(to) => Part::Hang {
            to: to.to_owned(),
            from: exchange,
            key: key.to_owned(),
            arguments,
        },
    };
    let none: &[(String, String)] = &[];
    let (pairs, matching) = match filter {
        Filter::All if kind == ExchangeKind::Headers => (none, "all"),
        // A fanout exchange does not look at the key.
        Filter::All => return Ok(vec![bind(topic.to_owned(), "#", FieldTable::default())]),
        Filter::Exact(key) | Filter::Pattern(key) => {
            return Ok(vec![bind(topic.to_owned(), key, FieldTable::default())]);
        }
        // The plain words would leave out headers that begin with `x-`.
        Filter::AllHeaders(pairs) => (&**pairs, "all-with-x"),
        Filter::AnyHeader(pairs) => (&**pairs, "any-with-x"),
    };
    let mut arguments = FieldTable::default();
    for (name, value) in pairs {
        let wanted = AMQPValue::LongString(value.as_str().into());
        arguments.insert(short(operation, name)?, wanted);
    }
    arguments.insert(MATCH.into(), AMQPValue::LongString(matching.into()));
    if kind == ExchangeKind::Headers {
        return Ok(vec![bind(topic.to_owned(), "", arguments)]);
    }
    let headers = own_name(operation, &format!("{topic}.headers"))?;
    Ok(vec![
        Part::Exchange {
            name: headers.clone(),
            kind: ExchangeKind::Headers,
        },
        Part::Hang {
            to: headers.clone(),
            from: topic.to_owned(),
            key: "#".to_owned(),
            arguments: FieldTable::default(),
        },
        bind(headers, "", arguments),
    ])
}

/// Refuses what would mean something else to the broker, or nothing.
pub(super) fn check_filter(
    operation: &'static str,
    topic: &str,
    kind: ExchangeKind,
    filter: &Filter,
) -> Result<()> {
    filter
        .check(operation)
        .map_err(|error| error.with("topic", topic))?;
    let refused = |text: &'static str| {
        Err(Error::new(ErrorKind::Config, operation, text)
            .with("topic", topic)
            .with("filter", show(filter, SHOWN)))
    };
    let kept = match kind {
        ExchangeKind::Topic => true,
        ExchangeKind::Direct => matches!(filter, Filter::Exact(_)),
        ExchangeKind::Fanout | ExchangeKind::Headers => {
            !matches!(filter, Filter::Exact(_) | Filter::Pattern(_))
        }
    };
    if !kept {
        return refused("this kind of exchange cannot keep this filter").map_err(|error| {
            error.with("kind", kind).help(match kind {
                ExchangeKind::Direct => {
                    "a direct exchange takes an exact key; make it a topic exchange for other filters"
                }
                _ => "it takes everything or headers; make it a topic exchange for keys",
            })
        });
    }
    let words = |key: &str, word: &str| key.split('.').filter(|w| *w == word).count();
    match filter {
        Filter::Exact(key)
            if kind == ExchangeKind::Topic && words(key, "*") + words(key, "#") > 0 =>
        {
            refused("an exact key with the words `*` or `#` would be a pattern here")
        }
        Filter::Pattern(pattern) if words(pattern, "#") > 2 => {
            refused("RabbitMQ allows at most two `#` in a pattern")
        }
        Filter::AllHeaders(pairs) | Filter::AnyHeader(pairs)
            if pairs.iter().any(|(name, _)| name == MATCH) =>
        {
            refused("RabbitMQ keeps the name `x-match` for itself")
        }
        _ => Ok(()),
    }
}

/// The filter as a person would say it, each of its texts cut at this length.
pub(super) fn show(filter: &Filter, most: usize) -> String {
    let cut = |text: &str| text.chars().take(most).collect::<String>();
    match filter {
        Filter::All => "all".into(),
        Filter::Exact(key) => format!("exact {:?}", cut(key)),
        Filter::Pattern(pattern) => format!("pattern {:?}", cut(pattern)),
        Filter::AllHeaders(pairs) => cut(&format!("all headers {pairs:?}")),
        Filter::AnyHeader(pairs) => cut(&format!("any header {pairs:?}")),
    }
}

const MATCH: &str = "x-match";
const SHOWN: usize = 64;
