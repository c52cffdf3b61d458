//! Whether a static member that is told to be fenced lost its name to another consumer, or to itself.
//!
//! krafka 0.28 forgets its member id when a heartbeat is answered by what is past: one that waited
//! behind the member's own join. Should that join have ended meanwhile, the next heartbeat goes out
//! without an id, and a broker that knows the name by an id says "fenced" to it. Only the broker
//! knows whose the name is.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use krafka::{
    KrafkaError,
    admin::{AdminClient, DescribeConsumerGroupsOptions},
    consumer::Consumer,
    error::ErrorCode,
};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::error::is_passing;

/// The ids that a static member had.
pub(super) struct Identity {
    group: Arc<str>,
    instance: Arc<str>,
    had: Mutex<VecDeque<String>>,
}

/// Who has the name, as the broker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// An id that this member had, or nobody.
    Itself,
    Another,
}

impl Identity {
    pub(super) fn new(group: Arc<str>, instance: Arc<str>) -> Self {
        Self {
            group,
            instance,
            had: Mutex::default(),
        }
    }

    /// Notes the id that the member has now, if it has one.
    pub(super) async fn note(&self, consumer: &Consumer) {
        let Some(member) = consumer.group_metadata().await else {
            return;
        };
        let mut had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        if had.front().is_none_or(|last| last != member.member_id()) {
            had.push_front(member.member_id().to_owned());
            had.truncate(REMEMBERED);
        }
    }

    /// Asks the broker, and goes on until it answers: nobody may join before, which would take the
    /// name from another consumer. A join that is on its way may still tell which id it got, so an
    /// id that is not known here is looked at for a while.
    pub(super) async fn holder(&self, consumer: &Consumer, admin: &AdminClient) -> Holder {
        let start = Instant::now();
        loop {
            let described = self.described(admin).await;
            self.note(consumer).await;
            match described {
                Ok(id) if self.is_own(id.as_deref()) => return Holder::Itself,
                Ok(_) if start.elapsed() < SETTLES => {}
                Err(error) if is_passing(&error) => {
                    debug!(group = %self.group, %error, "whose name it is, is not known");
                }
                _ => return Holder::Another,
            }
            sleep(AGAIN).await;
        }
    }

    /// The id by which the broker knows the name.
    async fn described(&self, admin: &AdminClient) -> Result<Option<String>, KrafkaError> {
        let options = DescribeConsumerGroupsOptions::default();
        let mut groups = admin
            .describe_consumer_groups([&*self.group], options)
            .await?;
        let Some(group) = groups.remove(&*self.group) else {
            return Ok(None);
        };
        let members = match group {
            Err(KrafkaError::Broker {
                code: ErrorCode::GroupIdNotFound,
                ..
            }) => return Ok(None),
            group => group?.members.into_iter(),
        };
        let mut named = members.filter(|m| m.instance_id.as_deref() == Some(&*self.instance));
        Ok(named.next().map(|member| member.member_id))
    }

    fn is_own(&self, id: Option<&str>) -> bool {
        let had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        id.is_none_or(|id| had.iter().any(|one| one == id))
    }
}

/// The broker may know the last but one: the answer to the last join is on its way.
const REMEMBERED: usize = 4;
const AGAIN: Duration = Duration::from_millis(200);
/// Within that a join that the broker has answered is known here.
const SETTLES: Duration = Duration::from_secs(2);

#[cfg(test)]
pub(super) mod tests;
