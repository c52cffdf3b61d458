//! No secret is printed: every place that holds one is given a canary, and everything that is
//! printed is searched for it, up to each TRACE line of this crate and of the libraries below.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    fmt::{self, Write},
    panic,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use mq_kafka::{
    Kafka, Sasl, Tls,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Error, ErrorKind, Message, Publisher,
        Subscription,
    },
};
use mq_testkit::{Address, Check, Failure, Suite};
use support::{
    pki::{Authority, Dates, Peer},
    scram, unique, within,
};
use tokio_rustls::rustls::ALL_VERSIONS;
use tracing::{Event, Metadata, field, span};

fn main() -> ExitCode {
    tracing::subscriber::set_global_default(Listener).expect("the first one");
    log::set_logger(&Listener).expect("the first one");
    log::set_max_level(log::LevelFilter::Trace);
    panic::set_hook(Box::new(|info| hear(&format!("panic: {info}"))));
    let nobody = Suite::new(
        "kafka-redaction",
        "mq-kafka without a broker",
        Address::in_process(),
    )
    .case("settings_and_their_errors_show_no_secret", settings)
    .case("a_key_that_cannot_be_read_is_not_shown", keys)
    .case("a_tls_handshake_shows_no_secret", handshake);
    let login = Suite::new(
        "kafka-redaction",
        "mq-kafka",
        listener("MQ_KAFKA_LOGIN_SERVERS"),
    )
    .case("a_refused_login_shows_no_secret", refused)
    .case("a_login_and_what_follows_show_no_secret", plain);
    let tls = Suite::new(
        "kafka-redaction",
        "mq-kafka",
        listener("MQ_KAFKA_TLS_LOGIN_SERVERS"),
    )
    .case("a_scram_login_and_what_follows_show_no_secret", scram_login);
    mq_testkit::run([nobody, login, tls])
}

/// The Kafka of `compose/` has such a listener; somebody's own need not have one.
fn listener(variable: &str) -> Address {
    match std::env::var(variable) {
        Ok(servers) => Address::Here(servers),
        Err(_) => Address::Missing(format!("{variable} is not set")),
    }
}

/// What a secret looks like in some output.
fn assert_hidden(secret: &str, what: &str, text: &str) {
    let decimal: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = secret
        .bytes()
        .map(|byte| format!("\\x{byte:02x}"))
        .collect();
    for form in [secret.to_owned(), decimal.join(", "), hex, escaped] {
        if let Some(at) = text.find(&form) {
            let from = text[..at].rfind('\n').map_or(0, |line| line + 1);
            panic!("{what} shows a secret: {}", &text[from..at]);
        }
    }
}

/// All that an error shows.
fn all_of(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let _ = write!(text, " {source} {source:?} {source:#?}");
        cause = source.source();
    }
    text
}

async fn settings(_: String) -> Check {
    let issued = Authority::new("ours")?.client(Dates::Now)?;
    let line = secret_line(&issued.key);
    let tls = Tls::new().identity(issued.chain, issued.key.as_str());
    for sasl in [
        Sasl::plain("user", "canary-set"),
        Sasl::scram_sha_256("user", "canary-set"),
        Sasl::scram_sha_512("user", "canary-set"),
    ] {
        let shown = format!("{sasl:?} {sasl:#?} {tls:?} {tls:#?}");
        assert_hidden("canary-set", "Debug", &shown);
        assert_hidden(&line, "Debug", &shown);
        let builder = Kafka::builder("host:9092").tls(tls.clone()).sasl(sasl);
        let shown = format!("{builder:?} {builder:#?}");
        assert_hidden("canary-set", "Debug", &shown);
        assert_hidden(&line, "Debug", &shown);
        let wrong = builder.window(0).connect().await.map(drop);
        let error = expect_kind(wrong, ErrorKind::Config)?;
        assert_hidden("canary-set", "an error", &all_of(&error));
    }
    for servers in [
        "kafka://user:canary-in-url@host:9092",
        "user:canary-in-url@host",
    ] {
        let wrong = Kafka::connect(servers).await.map(drop);
        let error = expect_kind(wrong, ErrorKind::Config)?;
        assert_hidden("canary-in-url", "an error", &all_of(&error));
    }
    Ok(())
}

/// A line from the middle of a key's PEM.
fn secret_line(key: &str) -> String {
    key.lines().nth(1).expect("a key has lines").to_owned()
}

async fn keys(_: String) -> Check {
    let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
    let (issued, stranger) = (ours.client(Dates::Now)?, other.client(Dates::Now)?);
    let secret = secret_line(&issued.key);
    let bad = [
        // As from a variable that lost its line breaks: the parser's error would repeat it.
        issued.key.replace('\n', ""),
        issued.key.replace('\n', " "),
        issued.key.replacen("-----END", "----END", 1),
        issued
            .key
            .replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE")
            .replace("END PRIVATE", "END ENCRYPTED PRIVATE"),
        issued.key.replacen(&secret, &format!("{secret}!"), 1),
        secret.clone(),
        String::new(),
    ];
    let silence = heard().len();
    for key in bad {
        let wrong =
            Kafka::builder("localhost:9092").tls(Tls::new().identity(issued.chain.as_str(), key));
        let error = expect_kind(wrong.connect().await.map(drop), ErrorKind::Config)?;
        assert_eq!(error.context("setting"), Some("Tls::identity"), "{error}");
        assert_hidden(&secret, "an error", &all_of(&error));
    }
    let swapped = [
        // The key in the place of the certificate, and in that of the authority.
        Tls::new().identity(issued.key.as_str(), issued.key.as_str()),
        Tls::new().identity(issued.key.replace('\n', ""), issued.key.as_str()),
        Tls::new().ca(issued.key.as_str()),
        Tls::new().ca(issued.key.replace('\n', "")),
        Tls::new().identity(stranger.chain.as_str(), issued.key.as_str()),
    ];
    for tls in swapped {
        let wrong = Kafka::builder("localhost:9092")
            .tls(tls)
            .connect()
            .await
            .map(drop);
        let error = expect_kind(wrong, ErrorKind::Config)?;
        assert_hidden(&secret, "an error", &all_of(&error));
    }
    assert_hidden(&secret, "a log", &heard()[silence..]);
    Ok(())
}

async fn handshake(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let issued = authority.server("localhost", Dates::Now)?;
    let clients = Authority::new("clients")?;
    let peer = Peer::start(&issued, Some(&clients), ALL_VERSIONS).await?;
    let stranger = authority.client(Dates::Now)?;
    let line = secret_line(&stranger.key);
    let tls = Tls::new()
        .ca(authority.pem)
        .identity(stranger.chain, stranger.key);
    let builder = Kafka::builder(format!("localhost:{}", peer.address.port()))
        .sasl(Sasl::plain("user", "canary-handshake"))
        .tls(tls);
    let error = expect_kind(builder.connect().await.map(drop), ErrorKind::Auth)?;
    assert_hidden(&line, "an error", &all_of(&error));
    assert_hidden("canary-handshake", "an error", &all_of(&error));
    assert_hidden(&line, "a log", &heard());
    assert_hidden("canary-handshake", "a log", &heard());
    Ok(())
}

async fn refused(servers: String) -> Check {
    let builder = Kafka::builder(servers).sasl(Sasl::plain("alice", "canary-refused"));
    let error = expect_kind(builder.connect().await.map(drop), ErrorKind::Auth)?;
    assert_hidden("canary-refused", "an error", &all_of(&error));
    silent_about("canary-refused");
    Ok(())
}

/// PLAIN has one user, whose password is an everyday word: here it is looked for as it is on the wire.
async fn plain(servers: String) -> Check {
    let builder = Kafka::builder(servers).sasl(Sasl::plain("alice", "right"));
    use_it(&builder.connect().await?, "alice\0right").await
}

async fn scram_login(servers: String) -> Check {
    let (plain, user) = (std::env::var("MQ_KAFKA_SERVERS")?, unique("user"));
    scram::set_user(&plain, &user, "canary-taken").await?;
    let folder = std::path::PathBuf::from(std::env::var("MQ_TLS_DIR")?);
    let tls = Tls::new().ca(std::fs::read(folder.join("ca.pem"))?);
    for sasl in [
        Sasl::scram_sha_256(&*user, "canary-taken"),
        Sasl::scram_sha_512(&*user, "canary-taken"),
    ] {
        let builder = Kafka::builder(&*servers).tls(tls.clone()).sasl(sasl);
        use_it(&builder.connect().await?, "canary-taken").await?;
    }
    let wrong = Sasl::scram_sha_512(&*user, "canary-refused");
    let builder = Kafka::builder(&*servers).tls(tls).sasl(wrong);
    let error = expect_kind(builder.connect().await.map(drop), ErrorKind::Auth)?;
    assert_hidden("canary-refused", "an error", &all_of(&error));
    silent_about("canary-refused");
    scram::delete_user(&plain, &user).await
}

/// Publishes, consumes, and meets an error.
async fn use_it(kafka: &Kafka, secret: &str) -> Check {
    let queue = Destination::queue(unique("redaction"));
    kafka.declare(&queue).await?;
    kafka.publisher().publish(&queue, Message::new("x")).await?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let delivery = within(30, consumer.receive()).await??.expect("open");
    delivery.ack()?;
    let nowhere = Destination::topic(unique("nowhere"));
    let error = kafka.publisher().publish(&nowhere, Message::new("x")).await;
    let error = expect_kind(error, ErrorKind::NotFound)?;
    let shown = format!(
        "{kafka:?} {:?} {consumer:?} {}",
        kafka.publisher(),
        all_of(&error)
    );
    assert_hidden(secret, "Debug", &shown);
    consumer.close().await?;
    kafka.close().await?;
    silent_about(secret);
    Ok(())
}

fn expect_kind<T>(result: Result<T, Error>, kind: ErrorKind) -> Check<Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(error),
        Err(error) => Err(Failure::new(format!("expected {kind:?}, got {error:?}"))),
        Ok(_) => Err(Failure::new(format!("expected {kind:?}, and it worked"))),
    }
}

/// Nothing that was logged shows it, and what was logged is what is meant.
fn silent_about(secret: &str) {
    let heard = heard();
    assert!(
        heard.contains("krafka") && heard.contains("TRACE"),
        "the client library was not heard"
    );
    assert_hidden(secret, "a log", &heard);
}

/// Keeps every event and span of `tracing`, and every record of `log`, of all threads.
struct Listener;

static HEARD: Mutex<String> = Mutex::new(String::new());

/// A copy: whoever fails while it looks tells that too.
fn heard() -> String {
    let heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.clone()
}

fn hear(line: &str) {
    let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.push_str(line);
    heard.push('\n');
}

struct Fields(String);

impl field::Visit for Fields {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Listener {
    fn keep(metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields)) {
        let mut fields = Fields(format!("{} {}", metadata.level(), metadata.target()));
        record(&mut fields);
        hear(&fields.0);
    }
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        Self::keep(span.metadata(), |fields| span.record(fields));
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut fields = Fields("record".to_owned());
        values.record(&mut fields);
        hear(&fields.0);
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        Self::keep(event.metadata(), |fields| event.record(fields));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl log::Log for Listener {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        hear(&format!(
            "{} {} {}",
            record.level(),
            record.target(),
            record.args()
        ));
    }
    fn flush(&self) {}
}
