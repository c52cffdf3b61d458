//! Kafka's advertised addresses: none of them reaches a client.

use std::{collections::HashMap, io::ErrorKind, net::SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsResponse, BrokerId, DescribeClusterResponse, FetchResponse,
        FindCoordinatorResponse, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader,
        ShareAcknowledgeResponse, ShareFetchResponse, api_versions_response::ApiVersion,
        describe_cluster_response::DescribeClusterBroker, fetch_response,
        find_coordinator_response::Coordinator, metadata_response::MetadataResponseBroker,
        produce_response, share_acknowledge_response, share_fetch_response,
    },
    protocol::{Decodable, Encodable, StrBytes},
};
use mq_testkit::proxy::{Direction, Fault, Proxy, ProxyError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::peer::{bytes, soon};

/// Brokers that are only listened for, and a client of the first of them.
struct Cluster {
    proxy: Proxy,
    brokers: Vec<TcpListener>,
    client: TcpStream,
    server: TcpStream,
}

impl Cluster {
    async fn new() -> Self {
        let mut brokers = Vec::new();
        for _ in 0..3 {
            brokers.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        }
        let servers = brokers[0].local_addr().expect("its address").to_string();
        let proxy = Proxy::start_kafka(&servers).await.expect("a proxy");
        let client = TcpStream::connect(proxy.servers())
            .await
            .expect("connected");
        let (server, _) = soon(brokers[0].accept()).await.expect("accepted");
        Self {
            proxy,
            brokers,
            client,
            server,
        }
    }

    fn port(&self, broker: usize) -> i32 {
        i32::from(
            self.brokers[broker]
                .local_addr()
                .expect("its address")
                .port(),
        )
    }

    /// Sends a request, answers it, and returns what the server got and what the client got.
    async fn exchange(&mut self, request: Bytes, answer: Bytes) -> (Bytes, Bytes) {
        self.client.write_all(&request).await.expect("written");
        let asked = frame(&mut self.server).await;
        self.server.write_all(&answer).await.expect("written");
        (asked, frame(&mut self.client).await)
    }

    /// The message that a client gets for one, with nothing but its addresses changed.
    async fn answered<M: Encodable + Decodable>(
        &mut self,
        key: ApiKey,
        version: i16,
        message: &M,
    ) -> M {
        let request = request(key as i16, version, 7, b"");
        let answer = answer(key, version, 7, message);
        let (asked, mut got) = self.exchange(request.clone(), answer).await;
        assert_eq!(asked, request);
        got.advance(8 + usize::from(key.response_header_version(version) == 1));
        let message = M::decode(&mut got, version).expect("an answer");
        assert!(!got.has_remaining());
        message
    }
}

async fn frame(from: &mut TcpStream) -> Bytes {
    let size = soon(from.read_i32()).await.expect("a size");
    let mut rest = vec![0; usize::try_from(size).expect("a size")];
    soon(from.read_exact(&mut rest)).await.expect("a frame");
    let mut frame = BytesMut::new();
    frame.put_i32(size);
    frame.put_slice(&rest);
    frame.freeze()
}

fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(8 + body.len()).expect("small"));
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(correlation);
    frame.put_slice(body);
    frame.freeze()
}

fn answer<M: Encodable>(key: ApiKey, version: i16, correlation: i32, message: &M) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(correlation);
    if key.response_header_version(version) == 1 {
        body.put_u8(0);
    }
    message.encode(&mut body, version).expect("encoded");
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(body.len()).expect("small"));
    frame.put_slice(&body);
    frame.freeze()
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

const HOST: &str = "127.0.0.1";

#[tokio::test]
async fn each_broker_of_an_answer_becomes_a_port_of_the_proxy_that_leads_to_it() {
    let mut cluster = Cluster::new().await;
    let brokers: Vec<_> = (0..3)
        .map(|id| {
            let broker = MetadataResponseBroker::default().with_node_id(BrokerId(id));
            let port = cluster.port(usize::try_from(id).expect("small"));
            broker
                .with_host(text(HOST))
                .with_port(port)
                .with_rack(Some(text("rack")))
        })
        .collect();
    let message = MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id(Some(text("c")));
    let mut ports = HashMap::new();
    for version in [0, 1, 8, 9, 12, 13] {
        let got = cluster
            .answered(
                ApiKey::Metadata,
                version,
                &if version < 2 {
                    let message = message.clone().with_cluster_id(None);
                    if version == 0 {
                        without_rack(message)
                    } else {
                        message
                    }
                } else {
                    message.clone()
                },
            )
            .await;
        for (id, broker) in (0..).zip(&got.brokers) {
            assert_eq!((broker.node_id, broker.host.as_str()), (BrokerId(id), HOST));
            assert_eq!(*ports.entry(id).or_insert(broker.port), broker.port);
        }
    }
    assert_eq!(ports.len(), 3);
    let first = i32::from(cluster.proxy.address().port());
    assert_eq!(
        ports[&0], first,
        "the server that was given has its port already"
    );
    for id in [1, 2] {
        let port = u16::try_from(ports[&id]).expect("a port");
        let mut client = TcpStream::connect((HOST, port)).await.expect("connected");
        let broker = &cluster.brokers[usize::try_from(id).expect("small")];
        let (mut server, _) = soon(broker.accept()).await.expect("accepted");
        // Under the same faults.
        cluster.proxy.set(Direction::ToBroker, Fault::BlackHole);
        client
            .write_all(&request(0, 3, 1, b""))
            .await
            .expect("written");
        assert!(crate::peer::silent(&mut server).await);
        cluster.proxy.clear();
        assert_eq!(frame(&mut server).await, request(0, 3, 1, b""));
    }
    assert!(cluster.proxy.failure().is_none());
}

fn without_rack(mut message: MetadataResponse) -> MetadataResponse {
    message
        .brokers
        .iter_mut()
        .for_each(|broker| broker.rack = None);
    message
}

#[tokio::test]
async fn no_answer_tells_an_address_of_a_broker() {
    let mut cluster = Cluster::new().await;
    // In slices, so that no answer arrives whole.
    cluster
        .proxy
        .set(Direction::Both, Fault::Slices { bytes: 1 });
    let real = cluster.port(1);
    let changed = |host: &StrBytes, port: i32| host.as_str() == HOST && port != real && port > 0;

    let message = FindCoordinatorResponse::default()
        .with_host(text(HOST))
        .with_port(real);
    for version in [0, 3] {
        let got = cluster
            .answered(ApiKey::FindCoordinator, version, &message)
            .await;
        assert!(changed(&got.host, got.port));
    }
    let found = Coordinator::default().with_host(text(HOST)).with_port(real);
    let missing = Coordinator::default().with_error_code(15).with_port(-1);
    let message =
        FindCoordinatorResponse::default().with_coordinators(vec![found, missing.clone()]);
    for version in [4, 6] {
        let got = cluster
            .answered(ApiKey::FindCoordinator, version, &message)
            .await;
        assert!(changed(&got.coordinators[0].host, got.coordinators[0].port));
        assert_eq!(got.coordinators[1], missing);
    }
    let broker = DescribeClusterBroker::default()
        .with_host(text(HOST))
        .with_port(real);
    let message = DescribeClusterResponse::default().with_brokers(vec![broker]);
    for version in [0, 2] {
        let got = cluster
            .answered(ApiKey::DescribeCluster, version, &message)
            .await;
        assert!(changed(&got.brokers[0].host, got.brokers[0].port));
    }
    let node = fetch_response::NodeEndpoint::default()
        .with_host(text(HOST))
        .with_port(real);
    let message = FetchResponse::default().with_node_endpoints(vec![node]);
    for version in [16, 18] {
        let got = cluster.answered(ApiKey::Fetch, version, &message).await;
        assert!(changed(
            &got.node_endpoints[0].host,
            got.node_endpoints[0].port
        ));
    }
    let node = share_fetch_response::NodeEndpoint::default()
        .with_host(text(HOST))
        .with_port(real);
    let message = ShareFetchResponse::default().with_node_endpoints(vec![node]);
    let got = cluster.answered(ApiKey::ShareFetch, 1, &message).await;
    assert!(changed(
        &got.node_endpoints[0].host,
        got.node_endpoints[0].port
    ));
    let node = share_acknowledge_response::NodeEndpoint::default()
        .with_host(text(HOST))
        .with_port(real);
    let message = ShareAcknowledgeResponse::default().with_node_endpoints(vec![node]);
    let got = cluster
        .answered(ApiKey::ShareAcknowledge, 1, &message)
        .await;
    assert!(changed(
        &got.node_endpoints[0].host,
        got.node_endpoints[0].port
    ));

    let node = produce_response::NodeEndpoint::default()
        .with_host(text(HOST))
        .with_port(real);
    let message = ProduceResponse::default().with_node_endpoints(vec![node]);
    for version in [10, 13] {
        let asked = produce(version, 3, -1);
        let (passed, mut got) = cluster
            .exchange(asked.clone(), answer(ApiKey::Produce, version, 3, &message))
            .await;
        assert_eq!(passed, asked);
        got.advance(9);
        let got = ProduceResponse::decode(&mut got, version).expect("an answer");
        assert!(changed(
            &got.node_endpoints[0].host,
            got.node_endpoints[0].port
        ));
    }
    assert!(cluster.proxy.failure().is_none());
}

/// A Produce request; with acks=0 it has no answer.
fn produce(version: i16, correlation: i32, acks: i16) -> Bytes {
    let mut frame = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(0)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(text(&"client".repeat(40))));
    header.encode(&mut frame, 2).expect("encoded");
    let body = ProduceRequest::default()
        .with_acks(acks)
        .with_transactional_id(Some(text(&"tx".repeat(100)).into()));
    body.encode(&mut frame, version).expect("encoded");
    let mut whole = BytesMut::new();
    whole.put_i32(i32::try_from(frame.len()).expect("small"));
    whole.put_slice(&frame);
    whole.freeze()
}

#[tokio::test]
async fn what_has_no_answer_or_no_address_passes_as_it_is() {
    let mut cluster = Cluster::new().await;
    cluster
        .proxy
        .set(Direction::Both, Fault::Slices { bytes: 3 });
    // Correlations are used again, as after a request without an answer.
    let unanswered = produce(12, 5, 0);
    cluster
        .client
        .write_all(&unanswered)
        .await
        .expect("written");
    assert_eq!(frame(&mut cluster.server).await, unanswered);
    // A request that this proxy has never heard of, with an answer of any bytes.
    let asked = request(999, 3, 5, &bytes(100));
    let answer = request(0, 5, 1, &bytes(5000));
    let (passed, got) = cluster.exchange(asked.clone(), answer.clone()).await;
    assert_eq!((passed, got), (asked, answer));
    // Half a frame at the end.
    let half = &produce(12, 6, 1)[..30];
    cluster.client.write_all(half).await.expect("written");
    cluster.client.shutdown().await.expect("ended");
    let mut rest = Vec::new();
    soon(cluster.server.read_to_end(&mut rest))
        .await
        .expect("read");
    assert_eq!(rest, half);
    assert!(cluster.proxy.failure().is_none());
}

#[tokio::test]
async fn no_version_is_offered_that_could_not_be_rewritten() {
    let mut cluster = Cluster::new().await;
    let offer = |key: i16, least, most| {
        ApiVersion::default()
            .with_api_key(key)
            .with_min_version(least)
            .with_max_version(most)
    };
    let offered = [
        offer(ApiKey::Metadata as i16, 0, 99),
        offer(ApiKey::Fetch as i16, 4, 17),
        offer(ApiKey::ListOffsets as i16, 1, 99),
        offer(ApiKey::SaslHandshake as i16, 0, 1),
        offer(ApiKey::ApiVersions as i16, 0, 9),
        offer(ApiKey::DescribeQuorum as i16, 0, 2),
        offer(ApiKey::ShareFetch as i16, 1, 2),
        offer(ApiKey::ShareAcknowledge as i16, 2, 2),
        offer(999, 0, 3),
    ];
    let message = ApiVersionsResponse::default().with_api_keys(offered.to_vec());
    let limited = |versions: &[ApiVersion]| -> Vec<(i16, i16, i16)> {
        versions
            .iter()
            .map(|v| (v.api_key, v.min_version, v.max_version))
            .collect()
    };
    let expected = [
        (3, 0, 13),
        (1, 4, 17),
        (2, 1, 99),
        (17, 1, 1),
        (18, 0, 4),
        (55, 0, 1),
        (78, 1, 1),
        (999, 0, 3),
    ];
    for version in [0, 3, 4] {
        let got = cluster
            .answered(ApiKey::ApiVersions, version, &message)
            .await;
        assert_eq!(limited(&got.api_keys), expected, "version {version}");
    }
    // A client of a later time: the broker is told a version that no broker knows, and answers in
    // version 0 (KIP-511).
    let unknown = message.with_error_code(35);
    let (asked, mut got) = cluster
        .exchange(
            request(18, 9, 8, b"rest"),
            answer(ApiKey::ApiVersions, 0, 8, &unknown),
        )
        .await;
    assert_eq!(asked, request(18, i16::MAX, 8, b"rest"));
    got.advance(8);
    let got = ApiVersionsResponse::decode(&mut got, 0).expect("an answer");
    assert_eq!(
        (got.error_code, limited(&got.api_keys)),
        (35, expected.to_vec())
    );
}

#[tokio::test]
async fn what_cannot_be_followed_is_reset_and_told() {
    let ask = [
        (request(3, 14, 1, b""), "request 3 in version 14"),
        (request(78, 2, 1, b""), "request 78 in version 2"),
        (request(17, 0, 1, b""), "request 17 in version 0"),
        (request(55, 2, 1, b""), "request 55 in version 2"),
        (
            Bytes::from_static(b"AMQP\0\0\x09\x01    "),
            "not Kafka's protocol",
        ),
        (
            Bytes::from_static(b"\xff\xff\xff\xff\0\0\0\0    "),
            "not Kafka's protocol",
        ),
        (Bytes::from_static(b"\x16\x03\x01\x02\0"), "TLS"),
    ];
    for (bytes, why) in ask {
        let mut cluster = Cluster::new().await;
        cluster.client.write_all(&bytes).await.expect("written");
        let error = soon(cluster.client.read(&mut [0]))
            .await
            .expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let failure = cluster.proxy.failure().expect("told");
        assert_eq!(matches!(&*failure, ProxyError::Tls), why == "TLS");
        assert!(failure.to_string().contains(why), "{failure}");
        let mut passed = Vec::new();
        let _ = soon(cluster.server.read_to_end(&mut passed)).await;
        assert_eq!(passed, b"");
    }
    // An answer that is none.
    let mut cluster = Cluster::new().await;
    cluster
        .client
        .write_all(&request(3, 12, 1, b""))
        .await
        .expect("written");
    frame(&mut cluster.server).await;
    let mut garbage = BytesMut::new();
    garbage.put_i32(20);
    garbage.put_i32(1);
    garbage.put_bytes(0xff, 16);
    let _ = cluster.server.write_all(&garbage).await;
    let error = soon(async {
        loop {
            if let Err(error) = cluster.client.read(&mut [0; 64]).await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(
        cluster
            .proxy
            .failure()
            .is_some_and(|f| matches!(&*f, ProxyError::Kafka(_)))
    );
}

#[tokio::test]
async fn each_server_that_is_given_has_a_port() {
    let proxy = Proxy::start_kafka("a:1, b:2,a:1").await.expect("a proxy");
    let servers = proxy.servers();
    let servers: Vec<SocketAddr> = servers
        .split(',')
        .map(|s| s.parse().expect("an address"))
        .collect();
    assert_eq!(servers.len(), 3);
    assert!(servers[0] == servers[2] && servers[0] != servers[1] && servers[0] == proxy.address());
    assert!(matches!(
        Proxy::start_kafka("a:1,").await,
        Err(ProxyError::Address(_))
    ));
}
