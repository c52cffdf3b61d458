//! Runs the peers, and reads what they print.

use std::{env, ffi::OsStr, fmt::Debug, process::Stdio, time::Duration};

use mq_kafka::core::MessageId;
use mq_testkit::{Address, Check, Failure, broker_address};
use tokio::{io::AsyncWriteExt, process::Command, sync::OnceCell, time::timeout};

/// A client of another make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// librdkafka, by `kcat`.
    Kcat,
    /// The Java client, by the console tools that come with the broker.
    Java,
}

/// A record as a peer printed it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) timestamp: u64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    /// All values of a header, in order.
    pub(crate) fn header(&self, name: &str) -> Vec<Option<&[u8]>> {
        let named = self.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_deref()).collect()
    }

    /// The text of a header that stands once.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.header(name)[..] {
            [Some(bytes)] => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl Peer {
    /// The broker, if this peer is there as well.
    pub(crate) fn address(self) -> Address {
        let lacking = match self {
            Self::Kcat => "no peer: kcat is neither on the PATH nor named by MQ_PEER_KCAT",
            Self::Java => "no peer: MQ_PEER_KAFKA_TOOLS does not say where the Java tools are",
        };
        let named = match self {
            Self::Kcat
                if std::process::Command::new(kcat())
                    .arg("-V")
                    .output()
                    .is_ok() =>
            {
                return broker_address(SERVERS);
            }
            Self::Kcat => broker_address("MQ_PEER_KCAT"),
            Self::Java => broker_address(TOOLS),
        };
        match named {
            Address::Here(_) if self == Self::Java => broker_address(SERVERS),
            Address::Missing(_) => Address::Missing(lacking.to_owned()),
            // Required; or named, and not there.
            _ => Address::Required(lacking.to_owned()),
        }
    }

    /// The name of a case.
    pub(crate) fn case(self, field: &str, direction: &str) -> &'static str {
        let name = match self {
            Self::Kcat => "kcat",
            Self::Java => "java",
        };
        format!("{field} {direction} {name}").leak()
    }

    /// The records of these topics, which hold that many.
    pub(crate) async fn read(
        self,
        servers: &str,
        topics: &[&str],
        count: usize,
    ) -> Check<Vec<Seen>> {
        let seen = match self {
            Self::Kcat => {
                let mut seen = Vec::new();
                for topic in topics {
                    let arguments = [
                        "-C",
                        "-t",
                        topic,
                        "-o",
                        "beginning",
                        "-e",
                        "-q",
                        "-f",
                        FORMAT,
                    ];
                    seen.extend(parse_kcat(&run_kcat(servers, &arguments, b"").await?)?);
                }
                seen
            }
            Self::Java => {
                let any_of = topics.join("|").replace('.', "\\.");
                read_java(&["--include", &any_of, "--from-beginning"], count).await?
            }
        };
        same(seen.len(), count, "records")?;
        Ok(seen)
    }

    /// Consumes that many records as a member of a group, and commits them.
    pub(crate) async fn consume(
        self,
        servers: &str,
        group: &str,
        topic: &str,
        count: usize,
    ) -> Check<Vec<Seen>> {
        match self {
            Self::Kcat => {
                let count = count.to_string();
                let arguments = ["-G", group, "-c", &count, "-q", "-f", FORMAT, topic];
                parse_kcat(&run_kcat(servers, &arguments, b"").await?)
            }
            Self::Java => read_java(&["--topic", topic, "--group", group], count).await,
        }
    }
}

/// Runs `kcat`; what it prints.
pub(crate) async fn run_kcat(
    servers: &str,
    arguments: &[impl AsRef<OsStr>],
    input: &[u8],
) -> Check<Vec<u8>> {
    let mut command = Command::new(kcat());
    command.args(["-b", servers]).args(arguments);
    run(command, input).await
}

/// Runs one of the Java tools; what it prints.
pub(crate) async fn run_java(tool: &str, arguments: &[&str], input: &[u8]) -> Check<Vec<u8>> {
    let prefix = env::var(TOOLS)?;
    let line = format!("{prefix}{tool}");
    let mut words = line.split_whitespace();
    let program = words
        .next()
        .ok_or_else(|| Failure::new("MQ_PEER_KAFKA_TOOLS is empty"))?;
    let servers = env::var("MQ_PEER_KAFKA_SERVERS").or_else(|_| env::var(SERVERS))?;
    let mut command = Command::new(program);
    command
        .args(words)
        .args(["--bootstrap-server", &servers])
        .args(arguments);
    run(command, input).await
}

async fn run(mut command: Command, input: &[u8]) -> Check<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let ended = async {
        stdin.write_all(input).await?;
        drop(stdin);
        child.wait_with_output().await
    };
    let late = |_| Failure::new(format!("{command:?} did not end in {PATIENCE:?}"));
    let output = timeout(PATIENCE, ended).await.map_err(late)??;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("{command:?} failed: {}", text.trim())));
    }
    Ok(output.stdout)
}

async fn read_java(from: &[&str], count: usize) -> Check<Vec<Seen>> {
    let count = count.to_string();
    let mut arguments = vec!["--max-messages", &count, "--timeout-ms", "20000"];
    arguments.extend(from);
    let properties = [
        "print.timestamp=true",
        "print.partition=true",
        "print.offset=true",
        "print.headers=true",
        "print.key=true",
        "key.separator=<|>",
        "headers.separator=<,>",
        "line.separator=<;>",
        "null.literal=<null>",
    ];
    for property in properties {
        arguments.extend(["--property", property]);
    }
    parse_java(&run_java("kafka-console-consumer.sh", &arguments, b"").await?)
}

fn parse_java(output: &[u8]) -> Check<Vec<Seen>> {
    let mut seen = Vec::new();
    // What stands before the first record is a warning about the name of an option.
    let start = output
        .windows(TIME.len())
        .position(|window| window == TIME.as_bytes());
    for line in split(&output[start.unwrap_or_default()..], b"<;>") {
        let parts = split(line, b"<|>");
        let [timestamp, partition, offset, headers, key, value] = parts[..] else {
            continue; // what follows the last record
        };
        let or_null = |bytes: &[u8]| (bytes != b"<null>").then(|| bytes.to_vec());
        let mut pairs = Vec::new();
        if headers != b"NO_HEADERS" {
            for pair in split(headers, b"<,>") {
                let at = pair
                    .iter()
                    .position(|byte| *byte == b':')
                    .unwrap_or(pair.len());
                let name = String::from_utf8_lossy(&pair[..at]).into_owned();
                pairs.push((name, or_null(&pair[(at + 1).min(pair.len())..])));
            }
        }
        seen.push(Seen {
            timestamp: number(timestamp, TIME)?,
            partition: number(partition, "Partition:")?,
            offset: number(offset, "Offset:")?,
            key: or_null(key),
            value: or_null(value),
            headers: pairs,
        });
    }
    Ok(seen)
}

/// A record begins with it.
const TIME: &str = "CreateTime:";
/// Partition, offset, time, sizes of key and value; then key, value, headers, and a byte that none of
/// our headers has.
const FORMAT: &str = r"%p %o %T %K %S:%k%s%h\x1e";

fn parse_kcat(mut output: &[u8]) -> Check<Vec<Seen>> {
    let broken = || Failure::new("kcat printed something else");
    let mut seen = Vec::new();
    while !output.is_empty() {
        let colon = output
            .iter()
            .position(|byte| *byte == b':')
            .ok_or_else(broken)?;
        let head: Vec<&[u8]> = output[..colon].split(|byte| *byte == b' ').collect();
        let [partition, offset, timestamp, key, value] = head[..] else {
            return Err(broken());
        };
        let mut rest = &output[colon + 1..];
        let mut take = |size: &[u8]| -> Check<Option<Vec<u8>>> {
            // A size of -1 is null.
            let Ok(size) = number::<usize>(size, "") else {
                return Ok(None);
            };
            let (taken, after) = rest.split_at_checked(size).ok_or_else(broken)?;
            rest = after;
            Ok(Some(taken.to_vec()))
        };
        let (key, value) = (take(key)?, take(value)?);
        let end = rest
            .iter()
            .position(|byte| *byte == 0x1e)
            .ok_or_else(broken)?;
        let mut headers = Vec::new();
        for pair in rest[..end]
            .split(|byte| *byte == b',')
            .filter(|pair| !pair.is_empty())
        {
            let at = pair
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(broken)?;
            let (name, value) = (&pair[..at], &pair[at + 1..]);
            let value = (value != b"NULL").then(|| value.to_vec());
            headers.push((String::from_utf8_lossy(name).into_owned(), value));
        }
        seen.push(Seen {
            partition: number(partition, "")?,
            offset: number(offset, "")?,
            timestamp: number(timestamp, "")?,
            key,
            value,
            headers,
        });
        output = &rest[end + 1..];
    }
    Ok(seen)
}

fn number<T: std::str::FromStr>(text: &[u8], prefix: &str) -> Check<T> {
    let text = String::from_utf8_lossy(text);
    let number = text
        .trim()
        .strip_prefix(prefix)
        .and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| Failure::new(format!("no number after {prefix:?} in {text:?}")))
}

fn split<'a>(mut bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = bytes
        .windows(separator.len())
        .position(|window| window == separator)
    {
        parts.push(&bytes[..at]);
        bytes = &bytes[at + separator.len()..];
    }
    parts.push(bytes);
    parts
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

/// A name that no other run uses.
pub(crate) fn unique(what: &str) -> String {
    let id = MessageId::unique().to_string();
    format!(
        "mq-kafka-interop.{}.{what}",
        id.rsplit('-').next().unwrap_or_default()
    )
}

/// Deletes topics, at a test's end.
pub(crate) async fn delete(servers: &str, topics: &[String]) -> Check {
    let broken = |error: krafka::KrafkaError| Failure::new(error.to_string());
    let client = krafka::Kafka::builder(servers)
        .connect()
        .await
        .map_err(broken)?;
    let (admin, topics) = (client.admin(), topics.iter().map(String::as_str));
    admin
        .delete_topics(topics, Default::default())
        .await
        .map_err(broken)?;
    Ok(())
}

fn kcat() -> String {
    env::var("MQ_PEER_KCAT").unwrap_or_else(|_| "kcat".to_owned())
}

const SERVERS: &str = "MQ_KAFKA_SERVERS";
const TOOLS: &str = "MQ_PEER_KAFKA_TOOLS";
/// A Java tool starts within seconds, on a busy machine within many.
const PATIENCE: Duration = Duration::from_secs(40);
