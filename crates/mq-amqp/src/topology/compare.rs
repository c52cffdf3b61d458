//! Every setting in which what is there differs from what is asked for.
//!
//! A passive declaration compares nothing, and a plain one would create what was deleted a moment
//! before. So the question has one argument more: one that the broker refuses in whatever it would
//! have to create, and does not look at in what is there; where it does look, a queue of the other type
//! is there. The broker names one difference in each answer, so the question is asked again with what is there, until nothing differs.

use std::collections::BTreeMap;

use lapin::{
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use mq_core::{Error, ErrorKind, Result};

use super::{close, part::Part, short};
use crate::{connection::Link, error::TYPE};

/// What `verify` tells with others of its kind; any other error ends it.
pub(super) fn difference(checked: Result<()>) -> Result<Option<Error>> {
    match checked {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Mismatch) => {
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// Each difference of a part that is there, in the order in which the broker finds them. AMQP has no
/// way to look at bindings. Creates nothing.
pub(super) async fn differences(
    link: &Link,
    operation: &'static str,
    part: &Part,
) -> Result<Vec<Error>> {
    let mut question = match part {
        Part::Queue {
            settings, letters, ..
        } => Question {
            durable: !settings.is_exclusive(),
            exclusive: settings.is_exclusive(),
            auto_delete: false,
            internal: false,
            kind: String::new(),
            arguments: map(&settings.arguments(letters.as_ref())),
            assumed: None,
        },
        Part::Exchange { kind, .. } => Question {
            durable: true,
            exclusive: false,
            auto_delete: false,
            internal: false,
            kind: kind.to_string(),
            arguments: BTreeMap::new(),
            assumed: None,
        },
        Part::Hang { .. } | Part::Bind { .. } => return Ok(Vec::new()),
    };
    let mut found: Vec<Error> = Vec::new();
    for _ in 0..MOST {
        let Err(error) = question.ask(link, operation, part).await else {
            break;
        };
        let text = error.to_string();
        if error.kind() != ErrorKind::Mismatch {
            // It was deleted since somebody looked: creating it was refused, as it has to be.
            if CREATING.iter().any(|refusal| text.contains(refusal)) {
                return Err(part.missing(operation));
            }
            return Err(part.name(error));
        }
        let (argument, there) = (error.context("argument"), error.context("there"));
        let (Some(argument), Some(there)) = (argument, there) else {
            found.push(part.name(error));
            break;
        };
        // It is compared after all: what is there is of the other type.
        if argument == question.foreign() && !question.arguments.contains_key(argument) {
            if question.assumed.is_some() {
                break;
            }
            question.assume_the_other();
            continue;
        }
        // Of an exchange this argument is compared, and as the last one.
        if argument == ALTERNATE && there == NONE {
            break;
        }
        if found
            .iter()
            .any(|e| e.context("argument") == Some(argument))
        {
            break;
        }
        if argument == QUEUE_TYPE {
            question.assumed = None;
        }
        let adopted = question.adopt(argument, there);
        found.push(part.name(error));
        if !adopted {
            break;
        }
    }
    if let Some(asked) = question.assumed {
        let text = "a queue of another type is there";
        let there = if asked == CLASSIC { QUORUM } else { CLASSIC };
        let error = Error::new(ErrorKind::Mismatch, operation, text)
            .with("argument", QUEUE_TYPE)
            .with("asked", format!("'{asked}'"))
            .with("there", format!("'{there}'"));
        let help = "name what is there in `AmqpBuilder::queue`, or delete it and declare it again";
        found.insert(0, part.name(error).help(help));
    }
    Ok(found)
}

/// A declaration that is changed until it is that of what is there.
struct Question {
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    internal: bool,
    /// Of an exchange.
    kind: String,
    arguments: BTreeMap<ShortString, AMQPValue>,
    /// The type that was asked for, once another one has to be there.
    assumed: Option<&'static str>,
}

impl Question {
    async fn ask(&self, link: &Link, operation: &'static str, part: &Part) -> Result<()> {
        let channel = link.channel(operation).await?;
        let mut arguments = self.arguments.clone();
        let asked = match part {
            Part::Queue { name, .. } => {
                arguments.entry(self.foreign().into()).or_insert(ONE);
                let options = QueueDeclareOptions {
                    durable: self.durable,
                    exclusive: self.exclusive,
                    auto_delete: self.auto_delete,
                    ..QueueDeclareOptions::default()
                };
                let name = short(operation, name)?;
                let asked = channel.queue_declare(name, options, FieldTable::from(arguments));
                link.answer(operation, asked).await.map(drop)
            }
            Part::Exchange { name, .. } => {
                arguments.insert(ALTERNATE.into(), ONE);
                let options = ExchangeDeclareOptions {
                    durable: self.durable,
                    auto_delete: self.auto_delete,
                    internal: self.internal,
                    ..ExchangeDeclareOptions::default()
                };
                let kind = lapin::ExchangeKind::Custom(self.kind.clone());
                let name = short(operation, name)?;
                let arguments = FieldTable::from(arguments);
                let asked = channel.exchange_declare(name, kind, options, arguments);
                link.answer(operation, asked).await
            }
            Part::Hang { .. } | Part::Bind { .. } => Ok(()),
        };
        if asked.is_ok() {
            close(link, operation, channel).await;
        }
        asked
    }

    /// An argument that the type of this queue cannot have.
    fn foreign(&self) -> &'static str {
        match self.is_classic() {
            true => "x-delivery-limit",
            false => "x-max-priority",
        }
    }

    fn is_classic(&self) -> bool {
        matches!(
            self.arguments.get(QUEUE_TYPE),
            Some(AMQPValue::LongString(kind)) if kind.as_bytes() == CLASSIC.as_bytes()
        )
    }

    /// Asks for the other type of queue: only that one looks at the argument that was compared.
    fn assume_the_other(&mut self) {
        let (asked, there) = match self.is_classic() {
            true => (CLASSIC, QUORUM),
            false => (QUORUM, CLASSIC),
        };
        self.assumed = Some(asked);
        let there = AMQPValue::LongString(there.into());
        self.arguments.insert(QUEUE_TYPE.into(), there);
    }

    /// Asks for what is there from now on; false if its text cannot be read.
    fn adopt(&mut self, argument: &str, there: &str) -> bool {
        let value = there.trim_start_matches("the value ");
        let (value, kind) = match value.rsplit_once(" of type ") {
            Some((value, kind)) => (quoted(value), quoted(kind)),
            None => (quoted(value), None),
        };
        let yes = value == Some("true");
        match argument {
            TYPE => value.unwrap_or_default().clone_into(&mut self.kind),
            "durable" => self.durable = yes,
            "auto_delete" => self.auto_delete = yes,
            "internal" => self.internal = yes,
            _ if there == NONE => {
                self.arguments.retain(|name, _| name.as_str() != argument);
            }
            _ => {
                let Ok(name) = ShortString::try_new(argument) else {
                    return false;
                };
                let number = matches!(
                    self.arguments.get(argument),
                    Some(AMQPValue::LongLongInt(_))
                );
                let value = match (value, kind) {
                    (Some(text), Some("longstr")) => AMQPValue::LongString(text.into()),
                    (Some(_), Some("bool")) => AMQPValue::Boolean(yes),
                    (Some(text), None) if !number && text.parse::<bool>().is_ok() => {
                        AMQPValue::Boolean(yes)
                    }
                    (Some(text), None) if !number => AMQPValue::LongString(text.into()),
                    (Some(text), _) => match text.parse() {
                        Ok(number) => AMQPValue::LongLongInt(number),
                        Err(_) => return false,
                    },
                    (None, _) => return false,
                };
                self.arguments.insert(name, value);
            }
        }
        true
    }
}

/// What stands between the quotes of the broker.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.strip_suffix('\'')
}

fn map(table: &FieldTable) -> BTreeMap<ShortString, AMQPValue> {
    table.inner().clone()
}

const QUEUE_TYPE: &str = "x-queue-type";
const CLASSIC: &str = "classic";
const QUORUM: &str = "quorum";
/// No queue has more settings than that.
const MOST: usize = 32;
/// Takes a name; a number is none, so no exchange is created with it.
const ALTERNATE: &str = "alternate-exchange";
const ONE: AMQPValue = AMQPValue::LongLongInt(1);
/// In the broker's words: an argument is not there.
const NONE: &str = "none";
/// The broker's words about an argument of something that it would have to create.
const CREATING: [&str; 2] = ["invalid arg '", "invalid type '"];

#[cfg(test)]
mod tests;
