//! Asks a broker whether it is there, in its own protocol: a port that is open says nothing yet about the broker behind it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::Result;

/// What a broker said about itself, such as `RabbitMQ 4.3.6`.
pub(crate) type Answer = String;

/// Asks until the broker answers or the time is over; the error then holds the last reason.
pub(crate) fn wait(
    name: &str,
    patience: Duration,
    mut ask: impl FnMut() -> io::Result<Answer>,
) -> Result<Answer> {
    let start = Instant::now();
    let mut shown = start;
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if start.elapsed() >= patience {
            return Err(format!("did not answer within {} s: {error}", patience.as_secs()).into());
        }
        if shown.elapsed() >= Duration::from_secs(5) {
            eprintln!(
                "    waiting for {name}, {} s: {error}",
                start.elapsed().as_secs()
            );
            shown = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// AMQP 0-9-1, section 4.2.2: the protocol header is answered by `Connection.Start`. Behind TLS only the port is asked.
pub(crate) fn amqp(url: &str) -> io::Result<Answer> {
    let (tls, address) = amqp_address(url);
    let mut stream = connect(&address)?;
    if tls {
        return Ok("TLS, port open".into());
    }
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut header = [0; 7];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    if header[..3] != [1, 0, 0] {
        return Err(invalid("the answer is no AMQP 0-9-1 method frame"));
    }
    start_frame(&exactly(&mut stream, length)?)
}

fn start_frame(payload: &[u8]) -> io::Result<Answer> {
    // Class 10 (connection), method 10 (start), version 0-9, then the server's properties.
    if !payload.starts_with(&[0, 10, 0, 10, 0, 9]) {
        return Err(invalid("the answer is not Connection.Start"));
    }
    let product = property(payload, b"\x07productS").unwrap_or_else(|| "AMQP 0-9-1 broker".into());
    let version = property(payload, b"\x07versionS").unwrap_or_default();
    Ok(format!("{product} {version}").trim_end().to_owned())
}

/// A long string of the server's properties: short-string name, `S`, length, bytes.
fn property(payload: &[u8], name: &[u8]) -> Option<String> {
    let at = payload
        .windows(name.len())
        .position(|window| window == name)?
        + name.len();
    let (length, rest) = payload.get(at..)?.split_first_chunk::<4>()?;
    let value = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Kafka: `ApiVersions` in version 0, the one request that every broker answers whatever it speaks.
pub(crate) fn kafka(servers: &str) -> io::Result<Answer> {
    let mut last = invalid("no server is named");
    for server in servers
        .trim_start_matches("kafka://")
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
    {
        match kafka_server(server) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn kafka_server(server: &str) -> io::Result<Answer> {
    api_versions(&kafka_request(server, 18, 0, &[])?, CORRELATION)
}

/// Kafka: how many brokers a broker knows to be alive, by `Metadata` in version 1 for no topic.
pub(crate) fn kafka_brokers(server: &str) -> io::Result<usize> {
    brokers_alive(&kafka_request(server, 3, 1, &[0; 4])?, CORRELATION)
}

fn brokers_alive(answer: &[u8], correlation: [u8; 4]) -> io::Result<usize> {
    match answer {
        [a, b, c, d, count @ ..] if [*a, *b, *c, *d] == correlation => {
            let count = count
                .first_chunk::<4>()
                .map(|count| u32::from_be_bytes(*count));
            // A broker takes at least ten bytes: number, host, port.
            match count.map(|count| count as usize) {
                Some(count) if count <= answer.len() / 10 => Ok(count),
                _ => Err(invalid("the answer ends early")),
            }
        }
        _ => Err(invalid("the answer is no Kafka response")),
    }
}

fn kafka_request(server: &str, key: u8, version: u8, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = vec![0, key, 0, version];
    request.extend(CORRELATION);
    request.extend([0xff, 0xff]); // no client id
    request.extend(body);
    let mut stream = connect(&with_port(server, 9092))?;
    stream.write_all(&u32::try_from(request.len()).unwrap_or(0).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    exactly(&mut stream, u32::from_be_bytes(length))
}

fn api_versions(answer: &[u8], correlation: [u8; 4]) -> io::Result<Answer> {
    match answer {
        [a, b, c, d, 0, 0, count @ ..] if [*a, *b, *c, *d] == correlation => {
            match count.first_chunk::<4>() {
                Some(count) => Ok(format!(
                    "Kafka protocol, {} requests",
                    u32::from_be_bytes(*count)
                )),
                None => Err(invalid("the answer ends early")),
            }
        }
        [_, _, _, _, high, low, ..] => Err(invalid(&format!(
            "ApiVersions was refused with error {}",
            i16::from_be_bytes([*high, *low])
        ))),
        _ => Err(invalid("the answer is no Kafka response")),
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut last = invalid(&format!("{address} has no address"));
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The bytes of a frame, unless its length is one that no honest answer has.
fn exactly(stream: &mut TcpStream, length: u32) -> io::Result<Vec<u8>> {
    if length > 1 << 20 {
        return Err(invalid("the answer's length makes no sense"));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn amqp_address(url: &str) -> (bool, String) {
    let (tls, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme == "amqps", rest),
        None => (false, url),
    };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    (tls, with_port(host, if tls { 5671 } else { 5672 }))
}

fn with_port(host: &str, port: u16) -> String {
    let after_brackets = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    if after_brackets.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

/// What a Kafka answer has to repeat.
const CORRELATION: [u8; 4] = *b"mq-x";

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers its first connection with these bytes.
    fn answering(bytes: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(&bytes);
        });
        address
    }

    fn start() -> Vec<u8> {
        let mut payload = vec![0, 10, 0, 10, 0, 9, 0, 0, 0, 40];
        payload.extend(b"\x07productS\x00\x00\x00\x08RabbitMQ\x07versionS\x00\x00\x00\x054.3.6");
        let mut frame = vec![1, 0, 0];
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(0xce);
        frame
    }

    #[test]
    fn amqp_is_there_when_it_answers_connection_start() {
        let url = format!("amqp://guest:guest@{}/%2f", answering(start()));
        assert_eq!(amqp(&url).unwrap(), "RabbitMQ 4.3.6");
    }

    #[test]
    fn an_open_port_that_speaks_something_else_is_no_broker() {
        assert!(amqp(&answering(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())).is_err());
        assert!(kafka(&answering(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())).is_err());
        assert!(amqp(&answering(vec![1, 0, 0, 0xff, 0xff, 0xff, 0xff])).is_err());
    }

    #[test]
    fn kafka_is_there_when_it_answers_api_versions_without_error() {
        let answer = |error: u8| [&[0, 0, 0, 10][..], b"mq-x", &[0, error, 0, 0, 0, 61]].concat();
        assert_eq!(
            kafka(&answering(answer(0))).unwrap(),
            "Kafka protocol, 61 requests"
        );
        assert!(
            kafka(&answering(answer(35)))
                .unwrap_err()
                .to_string()
                .contains("error 35")
        );
    }

    #[test]
    fn the_brokers_of_a_kafka_cluster_are_counted() {
        let metadata = |brokers: u8| [&b"mq-x"[..], &[0, 0, 0, brokers], &[0; 30]].concat();
        let frame = |answer: Vec<u8>| [&[0, 0, 0, answer.len() as u8][..], &answer].concat();
        assert_eq!(kafka_brokers(&answering(frame(metadata(3)))).unwrap(), 3);
        assert!(kafka_brokers(&answering(frame(metadata(200)))).is_err());
        assert!(kafka_brokers(&answering(frame(b"mq-y".to_vec()))).is_err());
    }

    #[test]
    fn waiting_ends_with_the_last_reason() {
        let error = wait("it", Duration::ZERO, || Err(invalid("not yet"))).unwrap_err();
        assert_eq!(error.to_string(), "did not answer within 0 s: not yet");
    }

    #[test]
    fn finds_the_address_in_an_amqp_url() {
        for (url, expected) in [
            (
                "amqp://guest:guest@127.0.0.1:25672/%2f",
                (false, "127.0.0.1:25672"),
            ),
            (
                "amqps://u:p%40@broker.example/v",
                (true, "broker.example:5671"),
            ),
            ("amqp://[::1]?heartbeat=5", (false, "[::1]:5672")),
            ("amqp://u:a@b@[::1]:7", (false, "[::1]:7")),
        ] {
            assert_eq!(
                amqp_address(url),
                (expected.0, expected.1.to_owned()),
                "{url}"
            );
        }
    }
}
