//! TLS, certificates and logins: what is let in, what is refused, how soon, and what the error says.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use mq_amqp::{
    Amqp, AmqpBuilder, Tls,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Error, ErrorKind, Message, Publisher,
        RetryAdvice, Subscription,
    },
};
use mq_testkit::{Address, Check, Failure, Suite, broker_address};
use support::{
    Bare, builder, expect_kind,
    management::{delete_user, management, permit, set_user},
    next,
    pki::{Authority, Dates, Peer},
    soon, text, unique,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::rustls::{
    ALL_VERSIONS,
    version::{TLS12, TLS13},
};

fn main() -> ExitCode {
    let nobody = Suite::new(
        "security",
        "mq-amqp without a broker",
        Address::in_process(),
    )
    .case("an_expired_certificate_is_refused", expired)
    .case("a_certificate_of_the_future_is_refused", future)
    .case("a_certificate_for_another_name_is_refused", wrong_name)
    .case("a_certificate_of_an_unknown_authority_is_refused", unknown)
    .case("a_certificate_that_is_for_clients_is_refused", purpose)
    .case("a_certificate_that_passes_is_let_through", passes)
    .case(
        "a_client_certificate_that_is_missing_or_wrong_is_an_auth_error",
        identity,
    )
    .case(
        "a_peer_that_falls_silent_in_the_handshake_ends_at_the_deadline",
        silent,
    )
    .case(
        "a_peer_that_hangs_up_in_the_handshake_may_be_back",
        hangs_up,
    );
    let tls = Suite::new("security", "mq-amqp", listener())
        .case(
            "an_own_authority_is_trusted_and_messages_pass",
            passes_messages,
        )
        .case("a_consumer_without_acknowledgements_has_tls_too", no_ack)
        .case(
            "the_broker_gets_the_client_certificate_that_it_asks_for",
            mutual,
        )
        .case(
            "a_client_without_the_right_certificate_is_refused",
            not_mutual,
        )
        .case(
            "the_brokers_certificate_has_to_be_for_the_name",
            broker_name,
        )
        .case(
            "the_brokers_certificate_has_to_be_of_a_trusted_authority",
            broker_authority,
        )
        .case("plain_text_to_the_tls_port_is_refused", plain_to_tls)
        .case("a_wrong_password_over_tls_is_an_auth_error", password);
    let plain = Suite::new("security", "mq-amqp", broker_address("MQ_RABBITMQ_URL")).case(
        "tls_to_the_plain_port_is_refused_without_a_password_on_the_wire",
        tls_to_plain,
    );
    let users = Suite::new("security", "mq-amqp", management())
        .case("logins_and_rights_are_refused_at_once", rights)
        .case("a_changed_password_is_for_the_next_connection", changed);
    mq_testkit::run([nobody, tls, plain, users])
}

/// The RabbitMQ of `compose/` has such a listener; somebody's own need not have one.
fn listener() -> Address {
    match env::var("MQ_RABBITMQ_TLS_URL") {
        Ok(url) => Address::Here(url),
        Err(_) => Address::Missing("MQ_RABBITMQ_TLS_URL is not set".to_owned()),
    }
}

/// What the listener of `compose/` has its certificates from.
fn file(name: &str) -> Check<String> {
    let folder = env::var("MQ_TLS_DIR").map_err(|_| Failure::new("MQ_TLS_DIR is not set"))?;
    Ok(fs::read_to_string(PathBuf::from(folder).join(name))?)
}

fn trusting() -> Check<Tls> {
    Ok(Tls::new().ca(file("ca.pem")?))
}

/// Connecting has to fail so, at once, and for good.
async fn refused(builder: AmqpBuilder, kind: ErrorKind, words: &str) -> Check<Error> {
    let mut took = Duration::MAX;
    let mut last = None;
    // On a busy machine one attempt may have to wait for its turn.
    for _ in 0..3 {
        let begun = Instant::now();
        let result = soon("an answer", builder.clone().connect())
            .await?
            .map(drop);
        let error = expect_kind(result, kind)?;
        assert_eq!(error.retry(), RetryAdvice::Never, "{error}");
        assert!(error.to_string().contains(words), "{words:?}: {error}");
        assert!(error.to_string().contains("; "), "no help: {error}");
        took = took.min(begun.elapsed());
        last = Some(error);
        if took < AT_ONCE {
            break;
        }
    }
    assert!(took < AT_ONCE, "{took:?}: {last:?}");
    last.ok_or_else(|| Failure::new("no attempt"))
}

const AT_ONCE: Duration = Duration::from_secs(5);

/// A peer with a certificate for `localhost`, and a client that connects to it by that name.
async fn local(dates: Dates, authority: &Authority) -> Check<(Peer, AmqpBuilder)> {
    let peer = Peer::start(&authority.server("localhost", dates)?, None, ALL_VERSIONS).await?;
    let builder = to(&peer, "localhost", Tls::new().ca(&*authority.pem));
    Ok((peer, builder))
}

fn to(peer: &Peer, host: &str, tls: Tls) -> AmqpBuilder {
    Amqp::builder()
        .host(host)
        .port(peer.address.port())
        .tls(tls)
        .connect_timeout(Duration::from_secs(4))
}

async fn expired(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let (_peer, builder) = local(Dates::Past, &authority).await?;
    refused(builder, ErrorKind::Connect, "has expired")
        .await
        .map(drop)
}

async fn future(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let (_peer, builder) = local(Dates::Future, &authority).await?;
    refused(builder, ErrorKind::Connect, "is not valid yet")
        .await
        .map(drop)
}

async fn wrong_name(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let issued = authority.server("broker.example", Dates::Now)?;
    let peer = Peer::start(&issued, None, ALL_VERSIONS).await?;
    let tls = Tls::new().ca(&*authority.pem);
    for host in ["localhost", "127.0.0.1"] {
        let builder = to(&peer, host, tls.clone());
        let error = refused(builder, ErrorKind::Connect, "is for another name").await?;
        let names = error.context("names").unwrap_or_default();
        assert!(names.contains("broker.example"), "{error}");
    }
    let builder = to(&peer, "localhost", tls.server_name("other.example"));
    refused(builder, ErrorKind::Connect, "is for another name")
        .await
        .map(drop)
}

async fn unknown(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let (peer, _) = local(Dates::Now, &authority).await?;
    // The public ones, and one with the same name and another key.
    for tls in [Tls::new(), Tls::new().ca(Authority::new("ours")?.pem)] {
        let builder = to(&peer, "localhost", tls);
        refused(builder, ErrorKind::Connect, "is not trusted").await?;
    }
    Ok(())
}

async fn purpose(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let issued = authority.issue(
        "localhost",
        Dates::Now,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    )?;
    let peer = Peer::start(&issued, None, ALL_VERSIONS).await?;
    let builder = to(&peer, "localhost", Tls::new().ca(authority.pem));
    refused(builder, ErrorKind::Connect, "certificate is refused")
        .await
        .map(drop)
}

/// The twin of the refusals: what is right gets through the handshake, and then hears nothing.
async fn passes(_: String) -> Check {
    let authority = Authority::new("ours")?;
    let (_peer, builder) = local(Dates::Now, &authority).await?;
    let short = Duration::from_secs(1);
    expect_kind(
        builder.connect_timeout(short).connect().await,
        ErrorKind::Timeout,
    )?;
    // One of several authorities is enough, and another name than the host's where it is said.
    let issued = authority.server("broker.example", Dates::Now)?;
    let peer = Peer::start(&issued, None, ALL_VERSIONS).await?;
    let both = Authority::new("another")?.pem + &authority.pem;
    let tls = Tls::new().ca(both).server_name("broker.example");
    let builder = to(&peer, "127.0.0.1", tls).connect_timeout(short);
    expect_kind(builder.connect().await, ErrorKind::Timeout)?;
    Ok(())
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
        let right = show(Some(clients.client(Dates::Now)?));
        let right = right.connect_timeout(Duration::from_secs(1));
        expect_kind(right.connect().await, ErrorKind::Timeout)?;
    }
    Ok(())
}

async fn silent(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let limit = Duration::from_millis(600);
    let builder = builder(&format!("amqps://{}", listener.local_addr()?))?.connect_timeout(limit);
    let begun = Instant::now();
    expect_kind(
        soon("an answer", builder.connect()).await?,
        ErrorKind::Timeout,
    )?;
    assert!(begun.elapsed() < 5 * limit, "{:?}", begun.elapsed());
    Ok(())
}

async fn hangs_up(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let peer = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let result = builder(&format!("amqps://{address}"))?.connect().await;
    peer.abort();
    let error = expect_kind(result, ErrorKind::Connect)?;
    assert!(
        error.is_retryable(),
        "a broker that restarts does so: {error}"
    );
    Ok(())
}

async fn passes_messages(url: String) -> Check {
    let broker = builder(&url)?.tls(trusting()?).connect().await?;
    round_trip(&broker).await
}

/// Publishes and consumes, small and large.
async fn round_trip(broker: &Amqp) -> Check {
    let name = unique("tls");
    let to = Destination::queue(name.as_str());
    broker.declare(&to).await?;
    let large = vec![7; 3 << 20];
    broker
        .publisher()
        .publish(&to, Message::new("small"))
        .await?;
    broker
        .publisher()
        .publish(&to, Message::new(large.clone()))
        .await?;
    let subscription = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    let small = next(&mut consumer).await?;
    assert_eq!(text(&small), "small");
    small.ack()?;
    let second = next(&mut consumer).await?;
    assert!(second.payload().is_some_and(|payload| *payload == large));
    second.ack()?;
    consumer.close().await?;
    delete(broker, &name).await
}

/// The queue and its dead-letter home.
async fn delete(broker: &Amqp, name: &str) -> Check {
    broker.close().await?;
    let bare = Bare::connect(&env::var("MQ_RABBITMQ_URL")?).await?;
    bare.delete(name).await?;
    bare.delete(&format!("{name}.dead")).await
}

async fn no_ack(url: String) -> Check {
    let broker = builder(&url)?.tls(trusting()?).connect().await?;
    let name = unique("tls-no-ack");
    let to = Destination::queue(name.as_str());
    broker.declare(&to).await?;
    support::fill(&broker, &name, 500).await?;
    let subscription = Subscription::queue(name.as_str());
    // Fewer than there are, so that the gate in front of the socket closes and opens under TLS.
    let mut consumer = broker.no_ack_consumer(&subscription, 20).await?;
    for i in 0..500 {
        let message = soon("a message", consumer.receive()).await??.expect("open");
        assert_eq!(
            message.payload().map(|p| &p[..]),
            Some(i.to_string().as_bytes())
        );
    }
    delete(&broker, &name).await
}

async fn mutual(url: String) -> Check {
    let tls = trusting()?.server_name("mutual.test");
    let tls = tls.identity(file("client.pem")?, file("client.key")?);
    round_trip(&builder(&url)?.tls(tls).connect().await?).await
}

async fn not_mutual(url: String) -> Check {
    let tls = trusting()?.server_name("mutual.test");
    for _ in 0..10 {
        let none = builder(&url)?.tls(tls.clone());
        refused(none, ErrorKind::Auth, "client certificate").await?;
        let stranger = Authority::new("mq test authority")?.client(Dates::Now)?;
        let wrong = tls.clone().identity(stranger.chain, stranger.key);
        let wrong = builder(&url)?.tls(wrong);
        refused(wrong, ErrorKind::Auth, "client certificate").await?;
    }
    Ok(())
}

async fn broker_name(url: String) -> Check {
    let by_address = url.replacen("localhost", "127.0.0.1", 1);
    assert_ne!(by_address, url, "the listener's name is localhost");
    let wrong = builder(&by_address)?.tls(trusting()?);
    refused(wrong, ErrorKind::Connect, "is for another name").await?;
    let right = builder(&by_address)?.tls(trusting()?.server_name("localhost"));
    right.connect().await?.close().await?;
    Ok(())
}

async fn broker_authority(url: String) -> Check {
    for tls in [Tls::new(), Tls::new().ca(Authority::new("other")?.pem)] {
        let wrong = builder(&url)?.tls(tls);
        refused(wrong, ErrorKind::Connect, "is not trusted").await?;
    }
    Ok(())
}

async fn plain_to_tls(url: String) -> Check {
    let plain = url.replacen("amqps://", "amqp://", 1);
    for _ in 0..10 {
        let error = refused(builder(&plain)?, ErrorKind::Connect, "AMQP").await?;
        assert!(error.to_string().contains("TLS"), "{error}");
    }
    Ok(())
}

async fn tls_to_plain(url: String) -> Check {
    // A relay keeps what the client wrote.
    let upstream = url::Url::parse(&url)?;
    let upstream = format!(
        "{}:{}",
        upstream.host_str().expect("a host"),
        upstream.port().unwrap_or(5672)
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let relay = async move || {
        let (mut client, _) = listener.accept().await?;
        let mut broker = TcpStream::connect(&upstream).await?;
        let mut hello = vec![0; 4096];
        let read = client.read(&mut hello).await?;
        broker.write_all(&hello[..read]).await?;
        let (mut rest, mut back) = (Vec::new(), [0; 8]);
        // The broker says which protocol it speaks, and hangs up. It has not read all of the hello, so that resets the connection.
        broker.read_exact(&mut back).await?;
        client.write_all(&back).await?;
        client.read_to_end(&mut rest).await?;
        hello.truncate(read);
        hello.append(&mut rest);
        Ok::<_, std::io::Error>((hello, back))
    };
    let builder = builder(&format!("amqps://guest:canary-5ecret@{address}"))?;
    // The reset may overtake the answer; nobody can tell then what it was that hung up.
    for _ in 0..10 {
        let connecting = builder.clone().connect();
        let (relayed, connected) =
            soon("an answer", async { tokio::join!(relay(), connecting) }).await?;
        let error = expect_kind(connected.map(drop), ErrorKind::Connect)?;
        let Ok((written, back)) = relayed else {
            assert_eq!(error.retry(), RetryAdvice::Later, "{error}");
            continue;
        };
        assert_eq!(error.retry(), RetryAdvice::Never, "{error}");
        assert!(error.to_string().contains("does not speak TLS"), "{error}");
        assert!(back.starts_with(b"AMQP"), "{back:?}");
        assert_eq!(written[0], 0x16, "a TLS handshake record");
        assert!(!String::from_utf8_lossy(&written).contains("canary"));
        return Ok(());
    }
    Err(Failure::new("no answer of the broker was ever read"))
}

async fn password(url: String) -> Check {
    let wrong = builder(&url)?.tls(trusting()?).password("canary-5ecret");
    let error = refused(wrong, ErrorKind::Auth, "user=guest").await?;
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    Ok(())
}

/// A user who may do something, and no more.
async fn rights(management: String) -> Check {
    let user = unique("user");
    set_user(&management, &user, "right").await?;
    let result = with_user(&management, &user).await;
    delete_user(&management, &user).await?;
    result
}

async fn with_user(management: &str, user: &str) -> Check {
    let url = env::var("MQ_RABBITMQ_URL")?;
    let login = |password: &str| Ok::<_, Failure>(builder(&url)?.user(user).password(password));
    // Not even the virtual host.
    let error = refused(login("right")?, ErrorKind::Permission, user).await?;
    assert_eq!(error.context("virtual_host"), Some("/"), "{error}");
    refused(login("wrong")?, ErrorKind::Auth, "check user and password").await?;
    let nowhere = login("right")?.virtual_host(unique("nowhere"));
    refused(nowhere, ErrorKind::NotFound, "create the virtual host").await?;
    permit(management, user, user).await?;
    let broker = login("right")?.connect().await?;
    // What is its own, and what is somebody else's.
    let (mine, theirs) = (
        Destination::queue(user),
        Destination::queue(unique("theirs")),
    );
    broker.declare(&mine).await?;
    let error = expect_kind(broker.declare(&theirs).await, ErrorKind::Permission)?;
    assert_eq!(error.retry(), RetryAdvice::Never, "{error}");
    assert!(error.to_string().contains(&**theirs.name()), "{error}");
    broker.publisher().publish(&mine, Message::new("x")).await?;
    delete(&broker, user).await
}

async fn changed(management: String) -> Check {
    let user = unique("user");
    set_user(&management, &user, "before").await?;
    permit(&management, &user, &user).await?;
    let url = env::var("MQ_RABBITMQ_URL")?;
    let login = |password: &str| Ok::<_, Failure>(builder(&url)?.user(&user).password(password));
    let broker = login("before")?.connect().await?;
    let mine = Destination::queue(user.as_str());
    broker.declare(&mine).await?;
    set_user(&management, &user, "after").await?;
    broker.publisher().publish(&mine, Message::new("x")).await?;
    refused(login("before")?, ErrorKind::Auth, "check user and password").await?;
    login("after")?.connect().await?.close().await?;
    delete(&broker, &user).await?;
    delete_user(&management, &user).await
}
