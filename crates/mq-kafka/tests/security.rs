//! TLS, certificates and logins: what is let in, what is refused, how soon, and what the error says.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use mq_kafka::{
    Kafka, KafkaBuilder, Sasl, Tls,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Error, ErrorKind, Message, Publisher,
        RetryAdvice, Subscription,
    },
};
use mq_testkit::{Address, Check, Failure, Suite, run};
use support::{
    Bare, check,
    pki::{Authority, Dates, Peer},
    same, scram, unique, within,
};
use tokio::{io::AsyncReadExt, net::TcpListener, time::Instant};
use tokio_rustls::rustls::{
    ALL_VERSIONS,
    version::{TLS12, TLS13},
};

fn main() -> ExitCode {
    let nobody = Suite::new(
        "kafka-security",
        "mq-kafka without a broker",
        Address::in_process(),
    )
    .case("an_expired_certificate_is_refused", expired)
    .case("a_certificate_of_the_future_is_refused", future)
    .case("a_certificate_for_another_name_is_refused", wrong_name)
    .case("a_certificate_of_an_unknown_authority_is_refused", unknown)
    .case("a_certificate_that_passes_is_let_through", passes)
    .case(
        "a_client_certificate_that_is_missing_or_wrong_is_an_auth_error",
        identity,
    )
    .case("tls_begins_with_a_tls_hello", hello);
    let tls = Suite::new(
        "kafka-security",
        "mq-kafka",
        listener("MQ_KAFKA_TLS_SERVERS"),
    )
    .case("an_own_authority_is_trusted_and_records_pass", records)
    .case(
        "the_brokers_certificate_has_to_be_for_the_name",
        broker_name,
    )
    .case(
        "the_brokers_certificate_has_to_be_of_a_trusted_authority",
        broker_authority,
    )
    .case("plain_text_to_the_tls_listener_is_refused", plain_to_tls);
    let mutual = Suite::new(
        "kafka-security",
        "mq-kafka",
        listener("MQ_KAFKA_MUTUAL_SERVERS"),
    )
    .case(
        "the_broker_gets_the_client_certificate_that_it_asks_for",
        mutual,
    )
    .case(
        "a_client_without_the_right_certificate_is_refused",
        not_mutual,
    );
    let login = Suite::new(
        "kafka-security",
        "mq-kafka",
        listener("MQ_KAFKA_TLS_LOGIN_SERVERS"),
    )
    .case("plain_and_scram_log_in_over_tls", logins)
    .case("a_wrong_login_over_tls_is_refused_at_once", wrong_logins)
    .case("a_changed_password_is_for_the_next_connection", changed)
    .case("tls_to_the_plain_listener_is_refused", tls_to_plain);
    run([nobody, tls, mutual, login])
}

/// The Kafka of `compose/` has such a listener; somebody's own need not have one.
fn listener(variable: &str) -> Address {
    match env::var(variable) {
        Ok(servers) => Address::Here(servers),
        Err(_) => Address::Missing(format!("{variable} is not set")),
    }
}

/// What the listeners of `compose/` have their certificates from.
fn file(name: &str) -> Check<Vec<u8>> {
    let folder = env::var("MQ_TLS_DIR").map_err(|_| Failure::new("MQ_TLS_DIR is not set"))?;
    Ok(fs::read(PathBuf::from(folder).join(name))?)
}

fn trusting() -> Check<Tls> {
    Ok(Tls::new().ca(file("ca.pem")?))
}

/// Connecting has to fail so, at once, and for good.
async fn refused(builder: KafkaBuilder, kind: ErrorKind, words: &str) -> Check<Error> {
    let mut took = Duration::MAX;
    let mut last = None;
    // On a busy machine one attempt may have to wait for its turn.
    for _ in 0..3 {
        let begun = Instant::now();
        let Err(error) = within(20, builder.clone().connect()).await? else {
            return Err(Failure::new(format!("connected, and not {kind:?}")));
        };
        same(error.kind(), kind, &format!("kind of {error:?}"))?;
        same(error.retry(), RetryAdvice::Never, &error.to_string())?;
        let text = error.to_string();
        check(text.contains(words), format!("{words:?}: {text}"))?;
        check(text.contains("; "), format!("no help: {text}"))?;
        took = took.min(begun.elapsed());
        last = Some(error);
        if took < AT_ONCE {
            break;
        }
    }
    check(took < AT_ONCE, format!("{took:?}: {last:?}"))?;
    last.ok_or_else(|| Failure::new("no attempt"))
}

const AT_ONCE: Duration = Duration::from_secs(5);

/// What is let through the handshake hears nothing: the peer is no Kafka.
async fn let_through(builder: KafkaBuilder) -> Check {
    let builder = builder
        .connect_timeout(Duration::from_millis(800))
        .publish_timeout(Duration::from_secs(1));
    let Err(error) = within(20, builder.connect()).await? else {
        return Err(Failure::new("the peer is no Kafka"));
    };
    let silent = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connect);
    check(silent && error.is_retryable(), format!("{error:?}"))
}

async fn local(dates: Dates, authority: &Authority) -> Check<Peer> {
    Peer::start(&authority.server("localhost", dates)?, None, ALL_VERSIONS).await
}

fn to(peer: &Peer, host: &str, tls: Tls) -> KafkaBuilder {
    Kafka::builder(format!("{host}:{}", peer.address.port())).tls(tls)
}

async fn expired(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let peer = local(Dates::Past, &authority).await?;
    let builder = to(&peer, "localhost", Tls::new().ca(authority.pem));
    refused(builder, ErrorKind::Connect, "has expired")
        .await
        .map(drop)
}

async fn future(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let peer = local(Dates::Future, &authority).await?;
    let builder = to(&peer, "localhost", Tls::new().ca(authority.pem));
    refused(builder, ErrorKind::Connect, "is not valid yet")
        .await
        .map(drop)
}

async fn wrong_name(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let issued = authority.server("broker.example", Dates::Now)?;
    let peer = Peer::start(&issued, None, ALL_VERSIONS).await?;
    let tls = Tls::new().ca(authority.pem);
    for host in ["localhost", "127.0.0.1"] {
        let builder = to(&peer, host, tls.clone());
        let error = refused(builder, ErrorKind::Connect, "is for another name").await?;
        let names = error.context("names").unwrap_or_default();
        check(names.contains("broker.example"), error.to_string())?;
    }
    let builder = to(&peer, "localhost", tls.server_name("other.example"));
    refused(builder, ErrorKind::Connect, "is for another name")
        .await
        .map(drop)
}

async fn unknown(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let peer = local(Dates::Now, &authority).await?;
    // The public ones, and one with the same name and another key.
    for tls in [Tls::new(), Tls::new().ca(Authority::new("ours")?.pem)] {
        let builder = to(&peer, "localhost", tls);
        refused(builder, ErrorKind::Connect, "is not trusted").await?;
    }
    Ok(())
}

/// The twin of the refusals.
async fn passes(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let peer = local(Dates::Now, &authority).await?;
    let_through(to(&peer, "localhost", Tls::new().ca(&*authority.pem))).await?;
    // One of several authorities is enough, and another name than the host's where it is said.
    let issued = authority.server("broker.example", Dates::Now)?;
    let peer = Peer::start(&issued, None, ALL_VERSIONS).await?;
    let both = Authority::new("another")?.pem + &authority.pem;
    let tls = Tls::new().ca(both).server_name("broker.example");
    let_through(to(&peer, "127.0.0.1", tls)).await
}

async fn identity(_: String) -> Check {
    let (authority, clients) = (Authority::new("ours")?, Authority::new("clients")?);
    let issued = authority.server("localhost", Dates::Now)?;
    for version in [&TLS12, &TLS13] {
        let peer = Peer::start(&issued, Some(&clients), &[version]).await?;
        let show = |shown: Option<support::pki::Issued>| {
            let tls = Tls::new().ca(&*authority.pem);
            let tls = match shown {
                Some(shown) => tls.identity(shown.chain, shown.key),
                None => tls,
            };
            to(&peer, "localhost", tls)
        };
        refused(show(None), ErrorKind::Auth, "client certificate").await?;
        let wrong = authority.client(Dates::Now)?;
        refused(show(Some(wrong)), ErrorKind::Auth, "UnknownCA").await?;
        let old = clients.client(Dates::Past)?;
        refused(show(Some(old)), ErrorKind::Auth, "Expired").await?;
        let_through(show(Some(clients.client(Dates::Now)?))).await?;
    }
    Ok(())
}

async fn hello(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let first = tokio::spawn(async move {
        let mut byte = [0];
        let mut stream = listener.accept().await?.0;
        stream.read_exact(&mut byte).await.map(|_| byte[0])
    });
    let login = Sasl::plain("alice", "canary-5ecret");
    let builder = Kafka::builder(address.to_string())
        .tls(Tls::new())
        .sasl(login);
    let builder = builder.connect_timeout(Duration::from_secs(2));
    check(
        within(20, builder.connect()).await?.is_err(),
        "nobody answers",
    )?;
    same(within(20, first).await???, 0x16, "a TLS handshake record")
}

async fn records(servers: String) -> Check {
    round_trip(&Kafka::builder(servers).tls(trusting()?).connect().await?).await
}

/// Publishes and consumes, small and large.
async fn round_trip(kafka: &Kafka) -> Check {
    let queue = Destination::queue(unique("security"));
    kafka.declare(&queue).await?;
    let large = vec![7; 900_000];
    for payload in [b"small".to_vec(), large.clone()] {
        let message = Message::new(payload).key("one partition");
        kafka.publisher().publish(&queue, message).await?;
    }
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    for expected in [b"small".to_vec(), large] {
        let delivery = within(30, consumer.receive()).await??.expect("open");
        check(
            delivery.payload().is_some_and(|found| *found == expected),
            "payload",
        )?;
        delivery.ack()?;
    }
    consumer.close().await?;
    Ok(kafka.close().await?)
}

async fn broker_name(servers: String) -> Check {
    let by_address = servers.replacen("localhost", "127.0.0.1", 1);
    check(by_address != servers, "the listener's name is localhost")?;
    let wrong = Kafka::builder(&*by_address).tls(trusting()?);
    refused(wrong, ErrorKind::Connect, "is for another name").await?;
    let right = Kafka::builder(by_address).tls(trusting()?.server_name("localhost"));
    Ok(right.connect().await?.close().await?)
}

async fn broker_authority(servers: String) -> Check {
    for tls in [Tls::new(), Tls::new().ca(Authority::new("other")?.pem)] {
        let wrong = Kafka::builder(&*servers).tls(tls);
        refused(wrong, ErrorKind::Connect, "is not trusted").await?;
    }
    Ok(())
}

async fn plain_to_tls(servers: String) -> Check {
    let Err(error) = within(20, Kafka::connect(&*servers)).await? else {
        return Err(Failure::new("connected without TLS"));
    };
    same(error.kind(), ErrorKind::Connect, &error.to_string())?;
    check(error.to_string().contains("TLS"), error.to_string())
}

async fn tls_to_plain(_: String) -> Check {
    let plain = env::var("MQ_KAFKA_SERVERS")?;
    let builder = Kafka::builder(plain).tls(Tls::new());
    let builder = builder.sasl(Sasl::plain("alice", "canary-5ecret"));
    let Err(error) = within(20, builder.connect()).await? else {
        return Err(Failure::new("connected without TLS"));
    };
    same(error.kind(), ErrorKind::Connect, &error.to_string())?;
    check(
        !format!("{error:?}").contains("canary"),
        format!("{error:?}"),
    )
}

async fn mutual(servers: String) -> Check {
    let tls = trusting()?.identity(file("client.pem")?, file("client.key")?);
    round_trip(&Kafka::builder(servers).tls(tls).connect().await?).await
}

async fn not_mutual(servers: String) -> Check {
    for _ in 0..10 {
        let none = Kafka::builder(&*servers).tls(trusting()?);
        refused(none, ErrorKind::Auth, "client certificate").await?;
        let stranger = Authority::new("mq test authority")?.client(Dates::Now)?;
        let tls = trusting()?.identity(stranger.chain, stranger.key);
        let wrong = Kafka::builder(&*servers).tls(tls);
        refused(wrong, ErrorKind::Auth, "client certificate").await?;
    }
    Ok(())
}

async fn logins(servers: String) -> Check {
    let (plain, user) = (env::var("MQ_KAFKA_SERVERS")?, unique("user"));
    scram::set_user(&plain, &user, "right").await?;
    let all = [
        Sasl::plain("alice", "right"),
        Sasl::scram_sha_256(&*user, "right"),
        Sasl::scram_sha_512(&*user, "right"),
    ];
    for sasl in all {
        let builder = Kafka::builder(&*servers).tls(trusting()?).sasl(sasl);
        round_trip(&builder.connect().await?).await?;
    }
    scram::delete_user(&plain, &user).await
}

async fn wrong_logins(servers: String) -> Check {
    let (plain, user) = (env::var("MQ_KAFKA_SERVERS")?, unique("user"));
    scram::set_user(&plain, &user, "right").await?;
    let all = [
        Sasl::plain("alice", "wrong"),
        Sasl::plain("nobody", "right"),
        Sasl::scram_sha_256(&*user, "wrong"),
        Sasl::scram_sha_512(&*user, "wrong"),
        Sasl::scram_sha_512("nobody", "right"),
        // A user of another mechanism.
        Sasl::scram_sha_256("alice", "right"),
    ];
    for sasl in all {
        let builder = Kafka::builder(&*servers).tls(trusting()?).sasl(sasl);
        refused(builder, ErrorKind::Auth, "check user, password").await?;
    }
    scram::delete_user(&plain, &user).await
}

async fn changed(servers: String) -> Check {
    let (plain, user) = (env::var("MQ_KAFKA_SERVERS")?, unique("user"));
    scram::set_user(&plain, &user, "before").await?;
    let login = |password: &str| {
        let sasl = Sasl::scram_sha_512(&*user, password);
        Ok::<_, Failure>(Kafka::builder(&*servers).tls(trusting()?).sasl(sasl))
    };
    let kafka = login("before")?.connect().await?;
    let queue = Destination::queue(unique("security"));
    kafka.declare(&queue).await?;
    scram::set_user(&plain, &user, "after").await?;
    // The broker learns of it from its own log, so it takes a moment.
    let changed = async {
        loop {
            match login("before")?.connect().await {
                Ok(kafka) => kafka.close().await?,
                Err(error) => break Check::Ok(error),
            }
        }
    };
    let error = within(20, changed).await??;
    same(error.kind(), ErrorKind::Auth, &error.to_string())?;
    kafka.publisher().publish(&queue, Message::new("x")).await?;
    login("after")?.connect().await?.close().await?;
    kafka.close().await?;
    Bare::connect(&plain).await?.delete(queue.name()).await?;
    scram::delete_user(&plain, &user).await
}
