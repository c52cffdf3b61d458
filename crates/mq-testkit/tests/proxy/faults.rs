//! Each fault has its effect, in its direction, on connections there are and to come.

use std::{io::ErrorKind, time::Duration};

use mq_testkit::proxy::{Direction, Fault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer::{Pair, bytes, send, silent, soon};

const LATENCY: Fault = Fault::Latency {
    mean: Duration::from_millis(200),
    jitter: Duration::from_millis(100),
};

#[tokio::test]
async fn without_a_fault_all_passes_both_ways() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    let much = bytes(3_000_000);
    send(&mut client, &mut server, &much).await;
    send(&mut server, &mut client, &much).await;
    let counters = proxy.until(|c| c.to_client == 3_000_000 && c.to_broker == 3_000_000);
    let counters = soon(counters).await;
    assert_eq!((counters.open, counters.total, counters.acted), (1, 1, 0));
    assert!(proxy.failure().is_none());
}

#[tokio::test]
async fn latency_delays_one_way_and_keeps_the_order() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    proxy.set(Direction::ToBroker, LATENCY);
    let there = send(&mut client, &mut server, b"question").await;
    assert!(there >= Duration::from_millis(100), "{there:?}");
    let back = send(&mut server, &mut client, b"answer").await;
    assert!(back < there, "{back:?} back, {there:?} there");
    let acted = proxy.counters().acted;
    // Many chunks at once overlap: they do not wait one after the other.
    let mut read = vec![0; 50];
    let start = std::time::Instant::now();
    let (passed, ()) = soon(async {
        tokio::join!(server.read_exact(&mut read), async {
            for number in 0..50 {
                client.write_all(&[number]).await.expect("written");
                tokio::task::yield_now().await;
            }
        })
    })
    .await;
    passed.expect("all arrive");
    assert!(read.is_sorted(), "{read:?}");
    assert!(proxy.counters().acted > acted);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    proxy.clear();
    send(&mut client, &mut server, b"again").await;
}

#[tokio::test]
async fn clearing_latency_lets_go_what_waits() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    let mean = Duration::from_secs(3600);
    proxy.set(
        Direction::Both,
        Fault::Latency {
            mean,
            jitter: Duration::ZERO,
        },
    );
    client.write_all(b"late").await.expect("written");
    soon(proxy.until(|c| c.acted > 0)).await;
    assert!(silent(&mut server).await);
    proxy.clear();
    let mut read = [0; 4];
    soon(server.read_exact(&mut read)).await.expect("read");
    assert_eq!(&read, b"late");
}

#[tokio::test]
async fn bandwidth_is_a_limit_in_its_direction() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    proxy.set(
        Direction::ToClient,
        Fault::Bandwidth {
            bytes_per_second: 65_536,
        },
    );
    let slow = send(&mut server, &mut client, &bytes(32_768)).await;
    assert!(slow >= Duration::from_millis(400), "{slow:?}");
    let free = send(&mut client, &mut server, &bytes(32_768)).await;
    assert!(free < slow, "{free:?}");
}

#[tokio::test]
async fn a_black_hole_holds_all_and_passes_it_when_it_is_cleared() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    proxy.set(Direction::Both, Fault::BlackHole);
    client.write_all(b"there").await.expect("written");
    server.write_all(b"back!").await.expect("written");
    // Not even an end passes.
    server.shutdown().await.expect("ended");
    soon(proxy.until(|c| c.acted >= 2)).await;
    assert!(silent(&mut client).await && silent(&mut server).await);
    proxy.clear();
    let (mut there, mut back) = ([0; 5], Vec::new());
    soon(server.read_exact(&mut there)).await.expect("read");
    soon(client.read_to_end(&mut back)).await.expect("read");
    assert_eq!((&there, &back[..]), (b"there", &b"back!"[..]));
}

#[tokio::test]
async fn a_half_open_connection_passes_the_other_way() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    proxy.set(Direction::ToClient, Fault::BlackHole);
    send(&mut client, &mut server, b"question").await;
    server.write_all(b"answer").await.expect("written");
    soon(proxy.until(|c| c.acted == 1)).await;
    assert!(silent(&mut client).await);
    send(&mut client, &mut server, b"question").await;
}

#[tokio::test]
async fn a_sender_is_held_back_when_nothing_passes() {
    let Pair {
        proxy, mut client, ..
    } = Pair::new().await;
    proxy.set(Direction::ToBroker, Fault::BlackHole);
    let mut written = 0;
    let chunk = bytes(1 << 20);
    let blocked = tokio::time::timeout(Duration::from_secs(2), async {
        loop {
            written += client.write(&chunk).await.expect("written");
        }
    });
    let never: Result<(), _> = blocked.await;
    assert!(never.is_err() && written < 64 << 20, "{written}");
    assert_eq!(proxy.counters().to_broker, 0);
}

#[tokio::test]
async fn slices_of_one_byte_arrive_unchanged() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    proxy.set(Direction::Both, Fault::Slices { bytes: 1 });
    send(&mut client, &mut server, &bytes(20_000)).await;
    send(&mut server, &mut client, &bytes(20_000)).await;
    assert!(proxy.counters().acted >= 30_000, "{:?}", proxy.counters());
}

#[tokio::test]
async fn a_cut_after_n_bytes_delivers_exactly_n() {
    for count in [0, 1, 1000, 100_000] {
        let Pair {
            proxy,
            mut client,
            mut server,
            ..
        } = Pair::new().await;
        send(&mut client, &mut server, b"before").await;
        proxy.set(Direction::ToBroker, Fault::CutAfter { bytes: count });
        // The other side has something to say meanwhile, which nobody reads.
        server.write_all(b"unread").await.expect("written");
        let sent = bytes(200_000);
        let mut read = Vec::new();
        let (_, end) =
            soon(async { tokio::join!(client.write_all(&sent), server.read_to_end(&mut read)) })
                .await;
        assert_eq!(
            end.expect("a regular end"),
            usize::try_from(count).expect("small")
        );
        assert!(sent.starts_with(&read));
        let mut rest = Vec::new();
        // The client may have been writing when it ended.
        let _ = soon(client.read_to_end(&mut rest)).await;
        assert_eq!(proxy.counters().cut, 1);
    }
}

#[tokio::test]
async fn a_reset_is_seen_as_one_by_the_side_it_goes_to() {
    let mut pair = Pair::new().await;
    pair.proxy.set(Direction::ToClient, Fault::Reset);
    let error = soon(pair.client.read(&mut [0; 8]))
        .await
        .expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        soon(pair.server.read(&mut [0; 8]))
            .await
            .expect("a regular end"),
        0
    );
    soon(pair.proxy.until(|c| c.open == 0)).await;
    assert_eq!(
        (pair.proxy.counters().cut, pair.proxy.counters().acted),
        (1, 1)
    );
    // It is over: the next connection works.
    let (mut client, mut server) = pair.another().await;
    send(&mut client, &mut server, b"hello").await;
}

#[tokio::test]
async fn a_slow_close_delays_the_end_alone() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    let delay = Duration::from_millis(300);
    proxy.set(Direction::ToBroker, Fault::SlowClose { delay });
    let start = std::time::Instant::now();
    client.write_all(b"last").await.expect("written");
    client.shutdown().await.expect("ended");
    let mut read = [0; 4];
    soon(server.read_exact(&mut read)).await.expect("the bytes");
    assert_eq!(soon(server.read(&mut read)).await.expect("the end"), 0);
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
    // The other way is still open.
    send(&mut server, &mut client, b"bye").await;
    assert_eq!(proxy.counters().acted, 1);
}

#[tokio::test]
async fn refused_connections_are_reset_and_those_there_are_go_on() {
    let mut pair = Pair::new().await;
    pair.proxy.set(Direction::Both, Fault::Refuse);
    let refused = tokio::net::TcpStream::connect(pair.proxy.address()).await;
    let error = match refused {
        Ok(mut stream) => soon(stream.read(&mut [0; 8])).await.expect_err("reset"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    send(&mut pair.client, &mut pair.server, b"still here").await;
    pair.proxy.clear();
    let (mut client, mut server) = pair.another().await;
    send(&mut client, &mut server, b"welcome").await;
    let counters = pair.proxy.counters();
    assert_eq!((counters.refused, counters.total), (1, 3));
}

#[tokio::test]
async fn a_fault_holds_for_connections_to_come_and_one_can_have_its_own() {
    let mut pair = Pair::new().await;
    pair.proxy.set(Direction::ToBroker, Fault::BlackHole);
    let (mut client, mut server) = pair.another().await;
    client.write_all(b"held").await.expect("written");
    assert!(silent(&mut server).await);
    pair.proxy.clear();
    let mut read = [0; 4];
    soon(server.read_exact(&mut read)).await.expect("read");

    let connections = pair.proxy.connections();
    assert_eq!(
        connections
            .iter()
            .map(|one| one.number())
            .collect::<Vec<_>>(),
        [0, 1]
    );
    connections[0].set(Direction::Both, Fault::BlackHole);
    pair.client.write_all(b"held").await.expect("written");
    assert!(silent(&mut pair.server).await);
    send(&mut client, &mut server, b"free").await;
    connections[0].clear();
    soon(pair.server.read_exact(&mut read)).await.expect("read");
    connections[0].cut();
    assert_eq!(soon(pair.server.read(&mut read)).await.expect("the end"), 0);
    send(&mut client, &mut server, b"free").await;
    assert_eq!(pair.proxy.connections().len(), 1);
}

#[tokio::test]
async fn what_is_written_after_a_fault_was_set_is_subject_to_it() {
    let Pair {
        proxy,
        mut client,
        mut server,
        ..
    } = Pair::new().await;
    for round in 0..200 {
        send(&mut client, &mut server, b"x").await;
        let before = proxy.counters().to_broker;
        proxy.set(Direction::ToBroker, Fault::BlackHole);
        client.write_all(b"y").await.expect("written");
        soon(proxy.until(|c| c.acted > round)).await;
        assert_eq!(proxy.counters().to_broker, before);
        proxy.clear();
        soon(server.read_exact(&mut [0])).await.expect("read");
    }
}

#[tokio::test]
async fn a_black_hole_holds_what_was_on_its_way_already() {
    let mut pair = Pair::new().await;
    let mean = Duration::from_millis(100);
    pair.proxy.set(
        Direction::ToBroker,
        Fault::Latency {
            mean,
            jitter: Duration::ZERO,
        },
    );
    pair.client.write_all(b"late").await.expect("written");
    soon(pair.proxy.until(|c| c.acted == 1)).await;
    pair.proxy.set(Direction::ToBroker, Fault::BlackHole);
    tokio::time::sleep(mean * 2).await;
    assert_eq!(pair.proxy.counters().to_broker, 0);
    pair.proxy.clear();
    soon(pair.server.read_exact(&mut [0; 4]))
        .await
        .expect("read");

    // What a slow receiver has not taken yet is held as well.
    let much = bytes(32 << 20);
    let Pair {
        proxy,
        client,
        server,
        ..
    } = &mut pair;
    let (written, ()) = soon(async {
        tokio::join!(server.write_all(&much), async {
            // Until the receiver's buffers are full: as many bytes as before, for a while.
            let mut before = 1;
            while proxy.counters().to_client != before {
                before = proxy.counters().to_client;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            proxy.set(Direction::ToClient, Fault::BlackHole);
            let passed = proxy.counters().to_client;
            let mut read = vec![0; usize::try_from(passed).expect("small")];
            client.read_exact(&mut read).await.expect("read");
            assert!(silent(client).await);
            assert_eq!(proxy.counters().to_client, passed);
            proxy.clear();
            let mut rest = vec![0; much.len() - read.len()];
            client.read_exact(&mut rest).await.expect("read");
        })
    })
    .await;
    written.expect("written");
}
