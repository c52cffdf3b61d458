//! Where the records come from: text lines, JSON lines or a JSON array, read as a stream.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde::{
    Deserialize, Serialize,
    de::{DeserializeSeed, Deserializer, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::{sync::mpsc, task};

/// One record of the input, as it goes through the broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its place in the input, from 1.
    pub(crate) number: u64,
    /// The ordering key: the field that was asked for.
    pub(crate) key: Option<String>,
    /// The record's own JSON, byte for byte; a line of text is a JSON string.
    pub(crate) body: Box<RawValue>,
}

/// How the input is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One record per line, any text.
    TextLines,
    /// One JSON object per line.
    JsonLines,
    /// One JSON array of records.
    JsonArray,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TextLines => "text lines",
            Self::JsonLines => "JSON lines",
            Self::JsonArray => "a JSON array",
        })
    }
}

/// Records that are read while they are used: at most [`AHEAD`] are in memory.
#[derive(Debug)]
pub(crate) struct Input {
    format: Format,
    records: mpsc::Receiver<Result<Record, BoxError>>,
}

impl Input {
    /// Opens a file and detects its format by its beginning.
    pub(crate) fn open(path: &Path, key: Option<&str>) -> Result<Self, BoxError> {
        let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::read(BufReader::new(file), key)
    }

    /// Reads from anything that has bytes.
    pub(crate) fn read(
        mut from: impl BufRead + Send + 'static,
        key: Option<&str>,
    ) -> Result<Self, BoxError> {
        let format = detect(&mut from)?;
        if format == Format::TextLines && key.is_some() {
            return Err("--key needs JSON records, and the input is text lines".into());
        }
        let (sender, records) = mpsc::channel(AHEAD);
        let mut sink = Sink {
            sender,
            key: key.map(str::to_owned),
            number: 0,
        };
        // Reading files blocks, so it has a thread of its own. It ends when the receiver is gone.
        task::spawn_blocking(move || {
            let result = match format {
                Format::JsonArray => array(from, &mut sink),
                Format::TextLines | Format::JsonLines => lines(from, format, &mut sink),
            };
            if let Err(error) = result {
                let _ = sink.sender.blocking_send(Err(error));
            }
        });
        Ok(Self { format, records })
    }

    /// How the input is written.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The next record; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Record>, BoxError> {
        self.records.recv().await.transpose()
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Where the reading thread puts what it has read.
struct Sink {
    sender: mpsc::Sender<Result<Record, BoxError>>,
    key: Option<String>,
    number: u64,
}

impl Sink {
    fn put(&mut self, body: Box<RawValue>) -> Result<(), BoxError> {
        self.number += 1;
        let key = match &self.key {
            Some(field) => key_of(&body, field)
                .map_err(|e| format!("record {}: {e}", self.number))?
                .map(Some)
                .ok_or_else(|| format!("record {} has no field {field:?}", self.number))?,
            None => None,
        };
        let record = Record {
            number: self.number,
            key,
            body,
        };
        let sent = self.sender.blocking_send(Ok(record));
        sent.map_err(|_| "nobody reads the input any more".into())
    }
}

/// The text of a field: of a string its content, of anything else its JSON.
fn key_of(body: &RawValue, field: &str) -> Result<Option<String>, serde_json::Error> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body.get())?;
    Ok(fields.remove(field).map(|value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }))
}

/// Looks at what is buffered, without using it up.
fn detect(from: &mut impl BufRead) -> Result<Format, BoxError> {
    if from.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        from.consume(BYTE_ORDER_MARK.len());
    }
    let beginning = from.fill_buf()?;
    Ok(match beginning.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => Format::JsonArray,
        Some(b'{') => Format::JsonLines,
        _ => Format::TextLines,
    })
}

fn lines(mut from: impl BufRead, format: Format, sink: &mut Sink) -> Result<(), BoxError> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let limit = u64::try_from(MAX_LINE)? + 1;
        let read = from.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if read > MAX_LINE {
            return Err(format!("line {number} is longer than {MAX_LINE} bytes").into());
        }
        let text = std::str::from_utf8(&line).map_err(|e| format!("line {number}: {e}"))?;
        let text = text.trim_end_matches(['\r', '\n']);
        let body = match format {
            Format::JsonLines if text.trim().is_empty() => continue,
            Format::JsonLines => serde_json::from_str(text),
            _ => serde_json::value::to_raw_value(text),
        };
        sink.put(body.map_err(|e| format!("line {number}: {e}"))?)?;
    }
    Ok(())
}

/// Hands on each element of an array as it is read.
fn array(from: impl Read, sink: &mut Sink) -> Result<(), BoxError> {
    struct Elements<'a>(&'a mut Sink);

    impl<'de> Visitor<'de> for Elements<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of records")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
            while let Some(body) = elements.next_element()? {
                self.0.put(body).map_err(serde::de::Error::custom)?;
            }
            Ok(())
        }
    }

    impl<'de> DeserializeSeed<'de> for Elements<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
            from.deserialize_seq(self)
        }
    }

    let mut json = serde_json::Deserializer::from_reader(from);
    Elements(sink).deserialize(&mut json)?;
    json.end()?;
    Ok(())
}

const AHEAD: usize = 1024;
/// A line this long is a file that is not made of lines.
const MAX_LINE: usize = 1024 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: impl Into<Vec<u8>>, key: Option<&str>) -> (Format, Vec<Record>) {
        try_read(text, key).await.expect("readable")
    }

    async fn try_read(
        text: impl Into<Vec<u8>>,
        key: Option<&str>,
    ) -> Result<(Format, Vec<Record>), BoxError> {
        let mut input = Input::read(std::io::Cursor::new(text.into()), key)?;
        let mut records = Vec::new();
        while let Some(record) = input.next().await? {
            records.push(record);
        }
        Ok((input.format(), records))
    }

    fn bodies(records: &[Record]) -> Vec<&str> {
        records.iter().map(|r| r.body.get()).collect()
    }

    #[tokio::test]
    async fn lines_of_text_become_json_strings() {
        let (format, records) = read("tea\n\n17 \"kg\"\r\nlast", None).await;
        assert_eq!(format, Format::TextLines);
        assert_eq!(
            bodies(&records),
            ["\"tea\"", "\"\"", r#""17 \"kg\"""#, "\"last\""]
        );
        assert_eq!(records.last().map(|r| r.number), Some(4));
    }

    #[tokio::test]
    async fn json_lines_keep_their_bytes_and_give_their_key() {
        let text = "\u{feff}\n{\"b\": 1.0, \"a\":\"x\"}\n\n{\"a\":7}\n";
        let (format, records) = read(text, Some("a")).await;
        assert_eq!(format, Format::JsonLines);
        assert_eq!(bodies(&records), [r#"{"b": 1.0, "a":"x"}"#, r#"{"a":7}"#]);
        let keys: Vec<_> = records.iter().map(|r| r.key.as_deref()).collect();
        assert_eq!(keys, [Some("x"), Some("7")]);
    }

    #[tokio::test]
    async fn the_elements_of_an_array_keep_their_bytes() {
        let (format, records) = read("\n [ {\"time\":0.0},\n 2 , [3] ]\n", None).await;
        assert_eq!(format, Format::JsonArray);
        assert_eq!(bodies(&records), ["{\"time\":0.0}", "2", "[3]"]);
    }

    #[tokio::test]
    async fn an_empty_input_has_no_records() {
        assert!(read("", None).await.1.is_empty());
        assert!(read("[]", None).await.1.is_empty());
    }

    #[tokio::test]
    async fn says_where_the_input_is_wrong() {
        for (text, key, place) in [
            ("{\"a\":1}\n{\"b\":2}", Some("a"), "record 2"),
            ("{\"a\":1}\n{oops}", None, "line 2"),
            ("[{\"a\":1}, {\"a\":", None, "line 1"),
            ("[1] trailing", None, "trailing"),
            ("plain", Some("a"), "--key"),
        ] {
            let error = try_read(text, key).await.expect_err(text).to_string();
            assert!(error.contains(place), "{text}: {error}");
        }
        let error = try_read(b"a\n\xff".to_vec(), None)
            .await
            .expect_err("bytes");
        assert!(error.to_string().contains("line 2"), "{error}");
        let error = try_read(vec![b'x'; MAX_LINE + 1], None)
            .await
            .expect_err("long");
        assert!(error.to_string().contains("longer"), "{error}");
    }
}
