//! Puts the proxy's addresses in the place of the brokers', and limits the versions offered.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsResponse, DescribeClusterResponse, FetchResponse,
        FindCoordinatorResponse, MetadataResponse, ProduceResponse, ResponseHeader,
        ShareAcknowledgeResponse, ShareFetchResponse,
    },
    protocol::{Decodable, Encodable, StrBytes},
};

use super::{
    limits::{least, most},
    nodes::Nodes,
    requests::Asked,
};
use crate::proxy::ProxyError;

/// Writes what the client is to get in place of a frame.
pub(super) fn rewrite(
    asked: Asked,
    frame: Bytes,
    nodes: &Nodes,
    to: &mut BytesMut,
) -> Result<(), ProxyError> {
    let answer = Answer { asked, frame, to };
    match asked.key {
        ApiKey::ApiVersions => answer.versions(),
        ApiKey::Metadata => answer.change(|answer: &mut MetadataResponse| {
            each(&mut answer.brokers, |broker| {
                nodes.put(&mut broker.host, &mut broker.port)
            })
        }),
        ApiKey::FindCoordinator => answer.change(|answer: &mut FindCoordinatorResponse| {
            let one = nodes.put(&mut answer.host, &mut answer.port)?;
            let all = each(&mut answer.coordinators, |found| {
                nodes.put(&mut found.host, &mut found.port)
            })?;
            Ok(one | all)
        }),
        ApiKey::DescribeCluster => answer.change(|answer: &mut DescribeClusterResponse| {
            each(&mut answer.brokers, |broker| {
                nodes.put(&mut broker.host, &mut broker.port)
            })
        }),
        ApiKey::Produce => answer.change(|answer: &mut ProduceResponse| {
            each(&mut answer.node_endpoints, |node| {
                nodes.put(&mut node.host, &mut node.port)
            })
        }),
        ApiKey::Fetch => answer.change(|answer: &mut FetchResponse| {
            each(&mut answer.node_endpoints, |node| {
                nodes.put(&mut node.host, &mut node.port)
            })
        }),
        ApiKey::ShareFetch => answer.change(|answer: &mut ShareFetchResponse| {
            each(&mut answer.node_endpoints, |node| {
                nodes.put(&mut node.host, &mut node.port)
            })
        }),
        ApiKey::ShareAcknowledge => answer.change(|answer: &mut ShareAcknowledgeResponse| {
            each(&mut answer.node_endpoints, |node| {
                nodes.put(&mut node.host, &mut node.port)
            })
        }),
        other => Err(ProxyError::Kafka(format!("no rewriting of {other:?}"))),
    }
}

struct Answer<'a> {
    asked: Asked,
    frame: Bytes,
    to: &'a mut BytesMut,
}

impl Answer<'_> {
    /// Changes it; the bytes stay as they are if nothing was to be changed.
    fn change<M: Decodable + Encodable>(
        self,
        change: impl FnOnce(&mut M) -> Result<bool, ProxyError>,
    ) -> Result<(), ProxyError> {
        let (key, version) = (self.asked.key, self.asked.version);
        let mut body = self.frame.slice(4..);
        let header = ResponseHeader::decode(&mut body, key.response_header_version(version))
            .map_err(|error| self.unreadable(&error))?;
        let mut message = M::decode(&mut body, version).map_err(|error| self.unreadable(&error))?;
        if body.has_remaining() {
            return Err(self.unreadable(&"bytes are left over"));
        }
        if !change(&mut message)? {
            self.to.extend_from_slice(&self.frame);
            return Ok(());
        }
        self.write(&header, &message, version)
    }

    /// Offers no version that is not understood.
    fn versions(mut self) -> Result<(), ProxyError> {
        // A broker that does not know the version answers in version 0 (KIP-511).
        if self.frame.get(8..10) == Some(&UNSUPPORTED_VERSION.to_be_bytes()) {
            self.asked.version = 0;
        }
        self.change(|answer: &mut ApiVersionsResponse| {
            let mut changed = false;
            answer.api_keys.retain_mut(|offered| {
                let Ok(key) = ApiKey::try_from(offered.api_key) else {
                    return true;
                };
                let lowest = offered.min_version.max(least(key).unwrap_or(i16::MIN));
                let highest = offered.max_version.min(most(key).unwrap_or(i16::MAX));
                changed |= (lowest, highest) != (offered.min_version, offered.max_version);
                (offered.min_version, offered.max_version) = (lowest, highest);
                lowest <= highest
            });
            Ok(changed)
        })
    }

    fn write(
        self,
        header: &ResponseHeader,
        message: &impl Encodable,
        version: i16,
    ) -> Result<(), ProxyError> {
        let mut body = BytesMut::new();
        header
            .encode(&mut body, self.asked.key.response_header_version(version))
            .and_then(|()| message.encode(&mut body, version))
            .map_err(|error| self.unreadable(&error))?;
        let size = i32::try_from(body.len()).map_err(|error| self.unreadable(&error))?;
        self.to.put_i32(size);
        self.to.unsplit(body);
        Ok(())
    }

    fn unreadable(&self, why: &dyn std::fmt::Display) -> ProxyError {
        let Asked { key, version, .. } = self.asked;
        ProxyError::Kafka(format!("an answer to {key:?} in version {version}: {why}"))
    }
}

impl Nodes {
    /// Puts the proxy's address there, if there is one.
    fn put(&self, host: &mut StrBytes, port: &mut i32) -> Result<bool, ProxyError> {
        if host.is_empty() || *port <= 0 {
            return Ok(false);
        }
        let address = self.address_of(host, *port)?;
        *host = StrBytes::from_string(address.ip().to_string());
        *port = i32::from(address.port());
        Ok(true)
    }
}

/// Changes all; true if one was.
fn each<T>(
    all: &mut [T],
    mut change: impl FnMut(&mut T) -> Result<bool, ProxyError>,
) -> Result<bool, ProxyError> {
    all.iter_mut()
        .try_fold(false, |changed, one| Ok(changed | change(one)?))
}

const UNSUPPORTED_VERSION: i16 = 35;
