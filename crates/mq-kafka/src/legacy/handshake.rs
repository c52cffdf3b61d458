//! Whether a cluster still answers this client: asked before the client is let loose on it.
//!
//! On Kafka 4.x the client's own requests end in a closed connection, which looks like a network that
//! fails. The list of versions tells it: the entry for `Fetch`, not that for `Produce`, which names
//! versions that the broker rejects (KAFKA-18659).

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use mq_core::{Error, ErrorKind};

/// The first of the servers that answers. Nothing is sent that changes anything.
pub(super) fn find<'a>(
    servers: &'a [String],
    name: &str,
    timeout: Duration,
) -> Result<&'a str, Error> {
    let mut last = None;
    // Half for the connection, half for the answer.
    let each = timeout / u32::try_from(2 * servers.len().max(1)).unwrap_or(u32::MAX);
    for server in servers {
        match oldest_fetch(server, name, each) {
            Ok(0) => return Ok(server),
            Ok(oldest) => return Err(removed(server, oldest)),
            Err(error) => last = Some(unreachable(server, error)),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Config, "connect", "there is no server")))
}

/// The oldest version of `Fetch` that a broker answers.
fn oldest_fetch(server: &str, name: &str, timeout: Duration) -> io::Result<i16> {
    let mut stream = connect(server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(&request(name))?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if size > LARGEST_ANSWER {
        return Err(io::Error::other("what answers is no Kafka broker"));
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer)?;
    oldest(&answer).ok_or_else(|| io::Error::other("the answer cannot be read"))
}

fn connect(server: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// `ApiVersions`, version 0, which every broker since 0.10 answers.
fn request(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    // The builder bounds the name.
    let length = i16::try_from(name.len()).unwrap_or(i16::MAX);
    let mut body = Vec::with_capacity(14 + name.len());
    body.extend(18_i16.to_be_bytes());
    body.extend(0_i16.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(length.to_be_bytes());
    body.extend(name);
    let size = i32::try_from(body.len()).unwrap_or(i32::MAX);
    [&size.to_be_bytes()[..], &body].concat()
}

/// The oldest version of `Fetch` in an answer.
fn oldest(answer: &[u8]) -> Option<i16> {
    let (head, entries) = answer.split_at_checked(10)?;
    let error = i16::from_be_bytes([head[4], head[5]]);
    if error != 0 {
        return None;
    }
    let entry = entries
        .chunks_exact(6)
        .find(|entry| i16::from_be_bytes([entry[0], entry[1]]) == FETCH)?;
    Some(i16::from_be_bytes([entry[2], entry[3]]))
}

fn removed(server: &str, oldest: i16) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "connect",
        "this cluster no longer answers the protocol versions that the legacy client speaks: \
         Kafka 4.0 removed them (KIP-896)",
    )
    .with("server", server)
    .with("oldest fetch version", oldest)
    .help(
        "use `mq_kafka::Kafka`, which needs Kafka 3.9 or later; `legacy` is for brokers up to 3.9",
    )
}

fn unreachable(server: &str, error: io::Error) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            (ErrorKind::Timeout, "no answer in time")
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => (
            ErrorKind::Connect,
            "the server closed the connection instead of naming its versions: it is no Kafka broker \
             of 0.10 or later, or its port asks for TLS, which this client does not speak",
        ),
        _ => (ErrorKind::Connect, "no broker can be reached"),
    };
    Error::new(kind, "connect", text)
        .with("server", server)
        .caused_by(error)
}

const FETCH: i16 = 1;
const LARGEST_ANSWER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(entries: &[[i16; 3]]) -> Vec<u8> {
        let mut bytes = vec![0; 10];
        for number in entries.iter().flatten() {
            bytes.extend(number.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn the_entry_for_fetch_counts_and_not_that_for_produce() {
        // What Kafka 4.3 answers, and what 3.9 does.
        assert_eq!(oldest(&answer(&[[0, 0, 13], [1, 4, 18]])), Some(4));
        assert_eq!(oldest(&answer(&[[0, 0, 11], [1, 0, 17]])), Some(0));
    }

    #[test]
    fn what_is_no_answer_is_no_version() {
        assert_eq!(oldest(&[]), None);
        assert_eq!(oldest(&answer(&[[0, 0, 11]])), None);
        let mut refused = answer(&[[1, 0, 17]]);
        refused[5] = 35;
        assert_eq!(oldest(&refused), None);
    }
}
