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

use mq_amqp::{
    Amqp, AmqpBuilder, Tls,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Error, ErrorKind, Message, Publisher,
        Subscription,
    },
};
use mq_testkit::{Address, Check, Suite, broker_address};
use support::{
    builder, expect_kind,
    management::{delete_user, management, permit, set_user},
    next,
    pki::{Authority, Dates, Peer},
    soon, unique,
};
use tokio_rustls::rustls::ALL_VERSIONS;
use tracing::{Event, Metadata, field, span};

fn main() -> ExitCode {
    tracing::subscriber::set_global_default(Listener).expect("the first one");
    log::set_logger(&Listener).expect("the first one");
    log::set_max_level(log::LevelFilter::Trace);
    panic::set_hook(Box::new(|info| hear(&format!("panic: {info}"))));
    let nobody = Suite::new(
        "redaction",
        "mq-amqp without a broker",
        Address::in_process(),
    )
    .case("settings_and_their_errors_show_no_secret", settings)
    .case("a_key_that_cannot_be_read_is_not_shown", keys)
    .case("a_tls_handshake_shows_no_secret", handshake);
    let refused = Suite::new("redaction", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("a_refused_login_shows_no_secret", refused);
    let taken = Suite::new("redaction", "mq-amqp", management())
        .case("a_login_and_what_follows_show_no_secret", taken);
    mq_testkit::run([nobody, refused, taken])
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
    let builder = Amqp::builder()
        .url("amqps://user:canary-in-url@host")?
        .tls(tls.clone());
    for shown in [
        format!("{builder:?} {builder:#?}"),
        format!("{tls:?} {tls:#?}"),
    ] {
        assert_hidden("canary-in-url", "Debug", &shown);
        assert_hidden(&line, "Debug", &shown);
    }
    // The URL's own password is replaced, and neither is shown.
    let both = builder.password("canary-set");
    let shown = format!("{both:?} {both:#?}");
    assert_hidden("canary-set", "Debug", &shown);
    for url in [
        "amqp://user:canary-in-url@",
        "amqp://user:canary-in-url@host:port",
        "http://user:canary-in-url@host",
        "amqp://user:canary-in-url@host?verify=canary-in-url",
        "canary-in-url",
    ] {
        let error = Amqp::builder().url(url).expect_err(url);
        assert_hidden("canary-in-url", "an error", &all_of(&error));
    }
    let wrong = both.publish_window(0).connect().await.map(drop);
    let error = expect_kind(wrong, ErrorKind::Config)?;
    assert_hidden("canary-set", "an error", &all_of(&error));
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
        let wrong = Amqp::builder().tls(Tls::new().identity(issued.chain.as_str(), key));
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
        let wrong = Amqp::builder().tls(tls).connect().await.map(drop);
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
    let builder = Amqp::builder()
        .host("localhost")
        .port(peer.address.port())
        .password("canary-handshake")
        .tls(tls);
    let error = expect_kind(builder.connect().await.map(drop), ErrorKind::Auth)?;
    assert_hidden(&line, "an error", &all_of(&error));
    assert_hidden("canary-handshake", "an error", &all_of(&error));
    assert_hidden(&line, "a log", &heard());
    assert_hidden("canary-handshake", "a log", &heard());
    Ok(())
}

async fn refused(url: String) -> Check {
    let refused = builder(&url)?
        .password("canary-refused")
        .connect()
        .await
        .map(drop);
    let error = expect_kind(refused, ErrorKind::Auth)?;
    assert_hidden("canary-refused", "an error", &all_of(&error));
    silent_about("canary-refused");
    Ok(())
}

async fn taken(url: String) -> Check {
    let (user, secret) = (unique("user"), "canary-taken");
    set_user(&url, &user, secret).await?;
    let result = with_login(&url, &user, secret).await;
    delete_user(&url, &user).await?;
    result
}

async fn with_login(management: &str, user: &str, secret: &str) -> Check {
    permit(management, user, user).await?;
    let url = std::env::var("MQ_RABBITMQ_URL")?;
    let login = |builder: AmqpBuilder| builder.user(user).password(secret);
    let broker = login(builder(&url)?).connect().await?;
    let to = Destination::queue(user);
    broker.declare(&to).await?;
    broker.publisher().publish(&to, Message::new("x")).await?;
    let subscription = Subscription::queue(user);
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    next(&mut consumer).await?.ack()?;
    let nowhere = Destination::queue(unique("nowhere"));
    let error = broker
        .publisher()
        .publish(&nowhere, Message::new("x"))
        .await;
    let error = expect_kind(error, ErrorKind::Unroutable)?;
    let shown = format!(
        "{broker:?} {:?} {consumer:?} {}",
        broker.publisher(),
        all_of(&error)
    );
    assert_hidden(secret, "Debug", &shown);
    consumer.close().await?;
    let bare = support::Bare::connect(&url).await?;
    bare.delete(user).await?;
    bare.delete(&format!("{user}.dead")).await?;
    soon("the end", broker.close()).await??;
    silent_about(secret);
    Ok(())
}

/// Nothing that was logged shows it, and what was logged is what is meant.
fn silent_about(secret: &str) {
    let heard = heard();
    // The line that says that the login is on its way.
    assert!(
        heard.contains("lapin") && heard.contains("Connection") && heard.contains("TRACE"),
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
