//! Where the broker under test is, and what it means if it is not there.

use std::env;

/// Where the broker under test is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a fourth answer would leave a test program without a verdict, so it must not compile"
)]
pub enum Address {
    /// Here; empty for a broker in the test's own process.
    Here(String),
    /// Not there: the tests are ignored, with this reason.
    Missing(String),
    /// Not there although it has to be: the tests fail, with this reason.
    Required(String),
}

impl Address {
    /// The broker is in the test's own process.
    pub fn in_process() -> Self {
        Self::Here(String::new())
    }
}

/// The address that an environment variable such as `MQ_RABBITMQ_URL` holds.
///
/// Without it the broker is missing; under `MQ_REQUIRE_BROKERS=1` or `CI=true` that is a failure,
/// so that no run is green because it tested nothing.
pub fn broker_address(variable: &str) -> Address {
    resolve(variable, |name| env::var(name).ok())
}

fn resolve(variable: &str, read: impl Fn(&str) -> Option<String>) -> Address {
    if let Some(address) = read(variable).filter(|address| !address.is_empty()) {
        return Address::Here(address);
    }
    let reason = format!("no broker: {variable} is not set");
    let is = |name, value| read(name).is_some_and(|found| found == value);
    if is("MQ_REQUIRE_BROKERS", "1") || is("CI", "true") {
        Address::Required(reason)
    } else {
        Address::Missing(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Address {
        resolve("MQ_TEST_URL", |name| {
            let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn a_set_variable_is_the_address() {
        let here = Address::Here("amqp://host".to_owned());
        assert_eq!(
            with(&[("MQ_TEST_URL", "amqp://host"), ("CI", "true")]),
            here
        );
    }

    #[test]
    fn a_missing_broker_is_a_failure_only_where_brokers_are_required() {
        for required in [("MQ_REQUIRE_BROKERS", "1"), ("CI", "true")] {
            assert!(
                matches!(with(&[required]), Address::Required(_)),
                "{required:?}"
            );
        }
        for optional in [("MQ_REQUIRE_BROKERS", "0"), ("CI", ""), ("MQ_TEST_URL", "")] {
            assert!(
                matches!(with(&[optional]), Address::Missing(_)),
                "{optional:?}"
            );
        }
    }
}
