//! A peer that writes records by hand: what no Rust client lets through. It speaks to the first
//! server alone, so the cluster has to have one broker.

use bytes::{BufMut, BytesMut};
use mq_testkit::{Check, Failure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A header as it stands on the wire: the name need not be text.
pub type RawHeader = (Vec<u8>, Option<Vec<u8>>);

/// Writes one record (Produce version 3, record batch version 2), and waits until it is stored.
pub async fn write(
    servers: &str,
    topic: &str,
    partition: i32,
    headers: &[RawHeader],
    value: &[u8],
) -> Check {
    let batch = batch(headers, value);
    let mut request = BytesMut::new();
    request.put_i16(0); // Produce
    request.put_i16(3);
    request.put_i32(1); // correlation
    request.put_i16(-1); // no client id
    request.put_i16(-1); // no transaction
    request.put_i16(-1); // acks=all
    request.put_i32(10_000);
    request.put_i32(1);
    request.put_i16(i16::try_from(topic.len())?);
    request.put_slice(topic.as_bytes());
    request.put_i32(1);
    request.put_i32(partition);
    request.put_i32(i32::try_from(batch.len())?);
    request.put_slice(&batch);
    let answer = ask(servers, &request).await?;
    // Correlation, one topic with its name, one partition; then the code.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    match answer.get(at..at + 2) {
        Some([0, 0]) => Ok(()),
        other => Err(Failure::new(format!("the broker answered {other:?}"))),
    }
}

/// Asks once for a transactional id (InitProducerId version 1); the code of the answer.
pub async fn ask_id(servers: &str, id: &str) -> Check<i16> {
    let mut request = BytesMut::new();
    request.put_i16(22); // InitProducerId
    request.put_i16(1);
    request.put_i32(1); // correlation
    request.put_i16(-1); // no client id
    request.put_i16(i16::try_from(id.len())?);
    request.put_slice(id.as_bytes());
    request.put_i32(30_000);
    let answer = ask(servers, &request).await?;
    // Correlation and throttle time; then the code.
    match answer.get(8..10) {
        Some(&[high, low]) => Ok(i16::from_be_bytes([high, low])),
        _ => Err(Failure::new(format!("the broker answered {answer:?}"))),
    }
}

/// The id has an open transaction, which is aborted now.
pub const CONCURRENT_TRANSACTIONS: i16 = 51;

async fn ask(servers: &str, request: &[u8]) -> Check<Vec<u8>> {
    let server = servers.split(',').next().unwrap_or_default();
    let mut socket = TcpStream::connect(server).await?;
    socket.write_i32(i32::try_from(request.len())?).await?;
    socket.write_all(request).await?;
    let length = socket.read_i32().await?;
    let mut answer = vec![0; usize::try_from(length)?];
    socket.read_exact(&mut answer).await?;
    Ok(answer)
}

fn batch(headers: &[RawHeader], value: &[u8]) -> BytesMut {
    let mut record = BytesMut::new();
    record.put_i8(0);
    varint(&mut record, 0); // time
    varint(&mut record, 0); // offset
    varint(&mut record, -1); // no key
    sized(&mut record, Some(value));
    varint(&mut record, headers.len().cast_signed());
    for (name, value) in headers {
        sized(&mut record, Some(name));
        sized(&mut record, value.as_deref());
    }
    let mut body = BytesMut::new();
    body.put_i16(0);
    body.put_i32(0); // last offset
    body.put_i64(1_700_000_000_000);
    body.put_i64(1_700_000_000_000);
    body.put_i64(-1); // no producer id
    body.put_i16(-1);
    body.put_i32(-1);
    body.put_i32(1);
    varint(&mut body, record.len().cast_signed());
    body.put_slice(&record);
    let mut batch = BytesMut::new();
    batch.put_i64(0);
    batch.put_u32(u32::try_from(body.len() + 9).unwrap_or_default());
    batch.put_i32(-1);
    batch.put_i8(2);
    batch.put_u32(crc32c(&body));
    batch.put_slice(&body);
    batch
}

fn sized(to: &mut BytesMut, bytes: Option<&[u8]>) {
    varint(to, bytes.map_or(-1, |b| b.len().cast_signed()));
    to.put_slice(bytes.unwrap_or_default());
}

fn varint(to: &mut BytesMut, number: isize) {
    let mut rest = ((number << 1) ^ (number >> (isize::BITS - 1))).cast_unsigned();
    while rest >= 0x80 {
        to.put_u8(0x80 | u8::try_from(rest & 0x7f).unwrap_or_default());
        rest >>= 7;
    }
    to.put_u8(u8::try_from(rest).unwrap_or_default());
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}
