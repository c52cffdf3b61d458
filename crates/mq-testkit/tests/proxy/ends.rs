//! Ends are passed on as what they are, and nothing is left of a proxy.

use std::{io::ErrorKind, time::Duration};

use mq_testkit::proxy::{Direction, Fault, Proxy, ProxyError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

use crate::peer::{Pair, send, soon};

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    client.write_all(b"question").await.expect("written");
    client.shutdown().await.expect("ended");
    let mut question = Vec::new();
    soon(server.read_to_end(&mut question)).await.expect("read");
    assert_eq!(question, b"question");
    send(&mut server, &mut client, b"answer").await;
    drop(server);
    assert_eq!(soon(client.read(&mut [0])).await.expect("the end"), 0);
    soon(proxy.until(|c| c.open == 0)).await;
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let Pair {
        proxy: _proxy,
        client,
        mut server,
        ..
    } = Pair::new().await;
    client.set_zero_linger().expect("set");
    drop(client);
    let error = soon(server.read(&mut [0])).await.expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_is_not_there_resets_the_client_and_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let upstream = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let proxy = Proxy::start(&upstream[..]).await.expect("a proxy");
    let mut client = TcpStream::connect(proxy.address())
        .await
        .expect("connected");
    let error = soon(client.read(&mut [0])).await.expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let failure = proxy.failure().expect("told");
    assert!(matches!(&*failure, ProxyError::Upstream { .. }));
    assert!(failure.to_string().contains(&upstream), "{failure}");
    assert_eq!(proxy.counters().refused, 1);
}

#[tokio::test]
async fn what_is_no_address_is_refused() {
    for bad in ["", "host", "host:", "host:0", "host:x", ":80", "host:99999"] {
        let error = Proxy::start(bad).await.expect_err("no address");
        assert!(matches!(error, ProxyError::Address(_)), "{bad}");
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_proxy_that_was_closed() {
    let mut pair = Pair::new().await;
    let (_idle, _server) = pair.another().await;
    pair.proxy.set(Direction::Both, Fault::BlackHole);
    let _running = pair
        .proxy
        .run("seed 1\n3600000ms quiet".parse().expect("a script"));
    let address = pair.proxy.address();
    soon(pair.proxy.close()).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    assert!(TcpStream::connect(address).await.is_err());
    let _ = soon(pair.client.read(&mut [0])).await;
    let _ = soon(pair.server.read(&mut [0])).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_proxy_that_was_dropped() {
    let mut pair = Pair::new().await;
    let address = pair.proxy.address();
    drop(pair.proxy);
    let gone = async {
        while Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(gone).await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(soon(pair.client.read(&mut [0])).await.unwrap_or(0), 0);
}
