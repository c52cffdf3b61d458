//! Connecting: what is refused, how soon, and what the error says.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use futures::future::try_join_all;
use mq_amqp::{
    Amqp, Tls,
    core::{Broker, ConsumePlan, Consumer, Destination, Error, ErrorKind, Subscription},
};
use mq_testkit::{Address, Check, Suite, broker_address};
use support::{builder, expect_kind, soon, unique};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Handle,
    time::sleep,
};

fn main() -> ExitCode {
    let broker = Suite::new("connecting", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case(
            "a_wrong_password_is_an_auth_error_without_the_password",
            password,
        )
        .case("a_wrong_virtual_host_is_not_found", virtual_host)
        .case("what_is_missing_is_named", missing)
        .case("connections_carry_the_given_name_and_close", name)
        .case("a_close_never_misses_its_connection", closes);
    let nobody = Suite::new(
        "connecting",
        "mq-amqp without a broker",
        Address::in_process(),
    )
    .case("a_refused_port_is_a_connect_error", refused)
    .case("an_unknown_host_is_a_connect_error", unknown_host)
    .case("a_silent_peer_ends_at_the_deadline", silent)
    .case("a_connection_that_fails_leaves_nothing", leaves_nothing)
    .case(
        "a_peer_that_speaks_something_else_ends_in_time",
        something_else,
    )
    .case("amqps_begins_with_a_tls_hello", hello);
    mq_testkit::run([broker, nobody])
}

async fn connect(builder: mq_amqp::AmqpBuilder) -> Check<Result<(), Error>> {
    Ok(soon("an answer", builder.connect()).await?.map(drop))
}

async fn password(url: String) -> Check {
    let error = expect_kind(
        connect(builder(&url)?.password("canary-5ecret")).await?,
        ErrorKind::Auth,
    )?;
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(&format!(" {source} {source:?}"));
        cause = source.source();
    }
    assert!(!text.contains("canary") && text.contains("user"), "{text}");
    let broker = Amqp::connect(&url).await?;
    assert!(!format!("{broker:?} {:?}", broker.publisher()).contains("guest:guest"));
    assert!(!error.is_retryable());
    Ok(())
}

async fn virtual_host(url: String) -> Check {
    let missing = unique("vhost");
    let error = expect_kind(
        connect(builder(&url)?.virtual_host(&missing)).await?,
        ErrorKind::NotFound,
    )?;
    assert!(error.to_string().contains(&missing), "{error}");
    Ok(())
}

async fn missing(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let queue = unique("missing");
    let opened = broker
        .consumer(&Subscription::queue(queue.as_str()), ConsumePlan::new())
        .await;
    let error = expect_kind(opened.map(drop), ErrorKind::NotFound)?;
    assert!(error.to_string().contains(&queue), "{error}");
    Ok(())
}

async fn name(url: String) -> Check {
    let broker = builder(&url)?
        .name("the billing service")
        .heartbeat(Duration::from_secs(10))
        .connect()
        .await?;
    broker.close().await?;
    // Closing what is closed is nothing.
    soon("close", broker.close()).await??;
    Ok(())
}

/// Its keeper hears of a close on another thread, and while the close is under way: so, many times.
async fn closes(url: String) -> Check {
    let setup = builder(&url)?.connect().await?;
    let queue = unique("closes");
    setup.declare(&Destination::queue(queue.as_str())).await?;
    let all = (0..8).map(|_| tokio::spawn(close_often(url.clone(), queue.clone())));
    for done in try_join_all(all).await? {
        done?;
    }
    Ok(setup.close().await?)
}

async fn close_often(url: String, queue: String) -> Check {
    for _ in 0..15 {
        let client = builder(&url)?.connect().await?;
        let source = Subscription::queue(queue.as_str());
        let mut consumer = client.consumer(&source, ConsumePlan::new()).await?;
        client.close().await?;
        let ended = soon("the end of its consumer", consumer.receive()).await?;
        expect_kind(ended, ErrorKind::Closed)?;
    }
    Ok(())
}

async fn refused(_: String) -> Check {
    let free = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let error = expect_kind(
        connect(builder(&format!("amqp://u:canary@{free}"))?).await?,
        ErrorKind::Connect,
    )?;
    assert_eq!(error.context("address"), Some(free.to_string().as_str()));
    assert!(
        error.is_retryable() && !format!("{error:?}").contains("canary"),
        "{error:?}"
    );
    Ok(())
}

async fn unknown_host(_: String) -> Check {
    let error = expect_kind(
        connect(builder("amqp://no-such-host.invalid")?).await?,
        ErrorKind::Connect,
    )?;
    assert_eq!(
        error.context("address"),
        Some("no-such-host.invalid:5672"),
        "{error}"
    );
    assert!(error.is_retryable(), "a name may be known in a moment");
    Ok(())
}

async fn silent(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://{}", listener.local_addr()?);
    let limit = Duration::from_millis(600);
    let begun = tokio::time::Instant::now();
    let result = connect(builder(&url)?.connect_timeout(limit)).await?;
    expect_kind(result, ErrorKind::Timeout)?;
    assert!(begun.elapsed() < 5 * limit, "{:?}", begun.elapsed());
    Ok(())
}

/// A client that tries again and again must not grow by what each attempt leaves.
async fn leaves_nothing(_: String) -> Check {
    let free = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    for _ in 0..3 {
        let result = connect(builder(&format!("amqp://{free}"))?).await?;
        expect_kind(result, ErrorKind::Connect)?;
    }
    soon("the tasks of refused connections", tasks_end()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://{}", listener.local_addr()?);
    let limit = Duration::from_millis(300);
    let result = connect(builder(&url)?.connect_timeout(limit)).await?;
    expect_kind(result, ErrorKind::Timeout)?;
    let (mut peer, _) = listener.accept().await?;
    let mut heard = Vec::new();
    soon("the end of its socket", peer.read_to_end(&mut heard)).await??;
    assert_eq!(heard, b"AMQP\x00\x00\x09\x01");
    soon("the tasks of a silent connection", tasks_end()).await
}

/// Nobody tells when a task ends.
async fn tasks_end() {
    while Handle::current().metrics().num_alive_tasks() > 0 {
        sleep(Duration::from_millis(20)).await;
    }
}

async fn something_else(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://{}", listener.local_addr()?);
    let peer = tokio::spawn(async move {
        let mut peers = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            peers.spawn(async move {
                // As a server does: it reads what was sent before it answers, and closes after the
                // client. Else the kernel may reset the connection before the answer is read.
                let mut hello = [0; 8];
                stream.read_exact(&mut hello).await?;
                stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    .await?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
            });
        }
    });
    let result = connect(builder(&url)?.connect_timeout(Duration::from_secs(2))).await?;
    peer.abort();
    let error = expect_kind(result, ErrorKind::Connect)?;
    assert!(
        !error.is_retryable(),
        "the same port answers the same again: {error}"
    );
    Ok(())
}

async fn hello(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqps://{}", listener.local_addr()?);
    let first = tokio::spawn(async move {
        let mut byte = [0];
        listener
            .accept()
            .await?
            .0
            .read_exact(&mut byte)
            .await
            .map(|_| byte[0])
    });
    let limit = Duration::from_secs(2);
    let result = connect(builder(&url)?.tls(Tls::new()).connect_timeout(limit)).await?;
    if cfg!(feature = "tls") {
        assert!(result.is_err());
        assert_eq!(
            soon("the first byte", first).await???,
            0x16,
            "a TLS handshake record"
        );
    } else {
        expect_kind(result, ErrorKind::Unsupported)?;
        first.abort();
    }
    Ok(())
}
