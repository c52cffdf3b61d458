//! Which versions of which requests the proxy understands.

use kafka_protocol::messages::ApiKey;

/// A request whose answer holds addresses, from a version on.
struct Telling {
    key: ApiKey,
    from: i16,
}

/// All of them; KIP-951 brought them to Produce and Fetch, KIP-932 to the share groups.
const TELLING: [Telling; 7] = [
    Telling {
        key: ApiKey::Metadata,
        from: 0,
    },
    Telling {
        key: ApiKey::FindCoordinator,
        from: 0,
    },
    Telling {
        key: ApiKey::DescribeCluster,
        from: 0,
    },
    Telling {
        key: ApiKey::Produce,
        from: 10,
    },
    Telling {
        key: ApiKey::Fetch,
        from: 16,
    },
    Telling {
        key: ApiKey::ShareFetch,
        from: 0,
    },
    Telling {
        key: ApiKey::ShareAcknowledge,
        from: 0,
    },
];

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Its answer names no address.
    Passes,
    /// Its answer is to be rewritten.
    Rewritten(ApiKey),
    /// Its answer might hold what cannot be rewritten.
    Refused,
    /// ApiVersions in a version to come: the broker is to answer in version 0, by KIP-511.
    Downgraded,
}

pub(super) fn judge(key: i16, version: i16) -> Judgement {
    let Ok(key) = ApiKey::try_from(key) else {
        return Judgement::Passes;
    };
    let known = key.valid_versions();
    match key {
        ApiKey::ApiVersions if version > known.max => Judgement::Downgraded,
        ApiKey::ApiVersions => Judgement::Rewritten(key),
        _ if least(key).is_some_and(|least| version < least) => Judgement::Refused,
        _ if most(key).is_some_and(|most| version > most) => Judgement::Refused,
        _ => match TELLING.iter().find(|telling| telling.key == key) {
            Some(telling) if version >= telling.from => Judgement::Rewritten(key),
            _ => Judgement::Passes,
        },
    }
}

/// The lowest version that may be used, where there is one.
pub(super) fn least(key: ApiKey) -> Option<i16> {
    match key {
        // Version 0 is followed by bytes that are no requests.
        ApiKey::SaslHandshake => Some(1),
        ApiKey::ShareFetch | ApiKey::ShareAcknowledge => Some(key.valid_versions().min),
        _ => None,
    }
}

/// The highest version that may be used, where there is one.
pub(super) fn most(key: ApiKey) -> Option<i16> {
    match key {
        // Version 2 names the controllers' addresses.
        ApiKey::DescribeQuorum => Some(1),
        ApiKey::ApiVersions => Some(key.valid_versions().max),
        _ if TELLING.iter().any(|telling| telling.key == key) => Some(key.valid_versions().max),
        _ => None,
    }
}
