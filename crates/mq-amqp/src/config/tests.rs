//! URLs, ranges and redaction.

use super::*;

fn parsed(url: &str) -> Settings {
    AmqpBuilder::new().url(url).expect("a URL").0
}

fn first(settings: &Settings) -> AMQPUri {
    settings.uri(&settings.addresses()[0])
}

#[test]
fn other_hosts_have_the_port_of_the_first_unless_they_name_one() {
    let builder = AmqpBuilder::new().url("amqp://a:7").expect("a URL");
    let builder = builder.another_host("b").another_host("c:8");
    let builder = builder.another_host("::1").another_host("[::2]:9");
    let told = builder
        .0
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert_eq!(told, ["a:7", "b:7", "c:8", "::1:7", "::2:9"]);
}

#[test]
fn takes_every_part_from_a_url() {
    let settings =
        parsed("amqps://al%69ce:p%40ss@[::1]:1234/a%2fb?heartbeat=30&connection_timeout=500");
    let uri = first(&settings);
    assert_eq!(
        (uri.scheme, uri.authority.host.as_str()),
        (AMQPScheme::AMQPS, "::1")
    );
    assert_eq!((uri.authority.port, uri.vhost.as_str()), (1234, "a/b"));
    assert_eq!(uri.authority.userinfo.username, "alice");
    assert_eq!(settings.login(), ("alice", "p@ss"));
    assert_eq!(uri.authority.userinfo.password, PLACEHOLDER);
    assert_eq!(uri.query.heartbeat, Some(30));
    assert_eq!(settings.connect_timeout, Duration::from_millis(500));
    let uri = first(&parsed("amqp://127.0.0.1"));
    assert_eq!(
        (uri.authority.host.as_str(), uri.authority.port),
        ("127.0.0.1", 5672)
    );
    assert_eq!(
        (
            uri.vhost.as_str(),
            first(&parsed("amqps://h")).authority.port
        ),
        ("/", 5671)
    );
}

#[test]
fn no_password_in_debug_or_errors() {
    let builder = AmqpBuilder::new()
        .url("amqp://u:canary@h")
        .expect("a URL")
        .password("canary");
    assert!(!format!("{builder:?}").contains("canary"));
    let bad = [
        "canary:x",
        "amqp:canary",
        "http://u:canary@h",
        "amqp://u:canary@h:x",
        "amqp://u:canary@",
        "amqp://u:canary@h?verify=canary&x=1",
        "amqp://u:canary%ff@h",
        "",
        "amqp://u:canary@h?heartbeat=99999999",
    ];
    for url in bad {
        let error = AmqpBuilder::new().url(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            !format!("{error} {error:?}").contains("canary"),
            "{url}: {error:?}"
        );
    }
}

#[test]
fn refuses_settings_out_of_range() {
    let refused = |builder: AmqpBuilder| builder.0.check().expect_err("refused").kind();
    let new = AmqpBuilder::new;
    assert_eq!(
        refused(new().heartbeat(Duration::from_secs(4))),
        ErrorKind::Config
    );
    assert_eq!(refused(new().publish_window(0)), ErrorKind::Config);
    assert_eq!(
        refused(new().connect_timeout(Duration::ZERO)),
        ErrorKind::Config
    );
    assert_eq!(
        refused(new().virtual_host("v".repeat(256))),
        ErrorKind::Config
    );
    assert!(new().0.check().is_ok());
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_refuses_it() {
    let error = AmqpBuilder::new()
        .tls(Tls::new())
        .0
        .check()
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(parsed("amqps://h").check().is_err());
}
