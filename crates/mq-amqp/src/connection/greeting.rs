//! What the broker says of itself. The client library keeps it to itself, so it is read on its way.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use lapin::types::{AMQPValue, FieldTable, parsing::parse_field_table};

use super::login::{METHOD, frame_length};

/// Product and version of a broker, by the server properties of `connection.start` (AMQP 0-9-1,
/// section 1.4.2.1). Of several nodes, of the one that greeted last.
#[derive(Debug, Default)]
pub(crate) struct Product(Mutex<Option<Named>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    product: String,
    version: String,
}

/// Reads the first frame of a connection.
pub(super) struct Greeting {
    held: Vec<u8>,
    product: Arc<Product>,
}

impl Product {
    /// True if it is a RabbitMQ of this or a later version.
    pub(crate) fn is_rabbitmq(&self, major: u32, minor: u32) -> bool {
        self.get().is_some_and(|named| {
            named.product == RABBITMQ && number(&named.version) >= (major, minor)
        })
    }

    fn get(&self) -> Option<Named> {
        // It is whole after any panic.
        let named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.clone()
    }

    fn set(&self, named: Named) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(named);
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(Named { product, version }) => write!(f, "{product} {version}"),
            None => f.write_str(RABBITMQ),
        }
    }
}

impl Greeting {
    pub(super) fn new(product: Arc<Product>) -> Self {
        let held = Vec::new();
        Self { held, product }
    }

    /// Takes what the broker wrote; true once nothing more is of interest.
    pub(super) fn read(&mut self, bytes: &[u8]) -> bool {
        let room = LONGEST.saturating_sub(self.held.len());
        self.held.extend(bytes.iter().take(room));
        let Some(length) = frame_length(&self.held) else {
            return self.held.len() >= LONGEST;
        };
        let frame = self.held.get(..length).unwrap_or_default();
        if let Some(named) = named(frame) {
            self.product.set(named);
        }
        true
    }
}

fn named(frame: &[u8]) -> Option<Named> {
    if frame.get(METHOD)? != START {
        return None;
    }
    let (_, properties) = parse_field_table(frame.get(PROPERTIES..)?).ok()?;
    Some(Named {
        product: text(&properties, "product")?,
        version: text(&properties, "version")?,
    })
}

fn text(properties: &FieldTable, name: &str) -> Option<String> {
    let AMQPValue::LongString(text) = properties.inner().get(name)? else {
        return None;
    };
    // It is shown and logged: no more than a line of it.
    let text = String::from_utf8_lossy(text.as_bytes());
    let shown = |c: &char| !c.is_control();
    Some(text.chars().filter(shown).take(100).collect())
}

/// The first two numbers of a version.
fn number(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}

const RABBITMQ: &str = "RabbitMQ";
const START: &[u8] = &[0, 10, 0, 10];
/// Behind class and method, and the two numbers of the protocol's version.
const PROPERTIES: usize = METHOD.end + 2;
/// A greeting that is longer is not understood.
const LONGEST: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `connection.start` with these properties.
    fn start(properties: &[(&str, &str)]) -> Vec<u8> {
        // As RabbitMQ has it: a table before the texts.
        let mut table = b"\x0ccapabilitiesF\0\0\0\x05\x02ont\x01".to_vec();
        for (name, value) in properties {
            table.push(u8::try_from(name.len()).expect("short"));
            table.extend(name.as_bytes());
            table.push(b'S');
            table.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
            table.extend(value.as_bytes());
        }
        let mut method = [START, &[0, 9]].concat();
        method.extend(u32::try_from(table.len()).expect("short").to_be_bytes());
        method.extend(table);
        method.extend(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(method.len()).expect("short").to_be_bytes());
        frame.extend(method);
        frame.push(0xCE);
        frame
    }

    fn read(chunks: impl IntoIterator<Item = Vec<u8>>) -> (bool, Arc<Product>) {
        let product = Arc::<Product>::default();
        let mut greeting = Greeting::new(Arc::clone(&product));
        let done = chunks.into_iter().any(|chunk| greeting.read(&chunk));
        (done, product)
    }

    #[test]
    fn product_and_version_are_read_however_they_come() {
        let frame = start(&[("product", "RabbitMQ"), ("version", "4.3.6")]);
        for size in [1, 7, frame.len()] {
            let (done, product) = read(frame.chunks(size).map(<[u8]>::to_vec));
            assert!(done);
            assert_eq!(product.to_string(), "RabbitMQ 4.3.6");
            assert!(product.is_rabbitmq(4, 3) && product.is_rabbitmq(3, 13));
            assert!(!product.is_rabbitmq(4, 4) && !product.is_rabbitmq(5, 0));
        }
    }

    #[test]
    fn another_broker_is_no_rabbitmq() {
        let (_, product) = read([start(&[("product", "LavinMQ"), ("version", "9.0")])]);
        assert_eq!(product.to_string(), "LavinMQ 9.0");
        assert!(!product.is_rabbitmq(4, 0));
    }

    #[test]
    fn what_does_not_name_itself_is_not_made_up() {
        let (done, product) = read([start(&[("product", "RabbitMQ")])]);
        assert!(done);
        assert_eq!(product.to_string(), "RabbitMQ");
        assert!(!product.is_rabbitmq(0, 0));
    }

    #[test]
    fn a_greeting_without_end_is_given_up() {
        let endless = std::iter::repeat_n(vec![0xFF; 1000], 100);
        assert!(read(endless).0);
    }

    proptest! {
        #[test]
        fn anything_is_survived(bytes: Vec<u8>) {
            read([bytes]);
        }

        #[test]
        fn a_broken_greeting_is_survived(at in 0_usize..120, byte: u8) {
            let mut frame = start(&[("product", "RabbitMQ"), ("version", "4.3.6")]);
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
            read([frame]);
        }
    }
}
