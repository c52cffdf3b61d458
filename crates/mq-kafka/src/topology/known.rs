//! What a connection remembers of the topics it uses, and the check of each at its first use.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use mq_core::{ErrorKind, Result};

use super::{
    WeakTopics,
    configs::{self, Configs},
    durability::Standing,
    topics::{Topic, describe, missing, topic_name},
};
use crate::connection::Inner;

/// What a connection knows of the topics it uses.
#[derive(Debug, Default)]
pub(crate) struct Topics(RwLock<HashMap<Arc<str>, Known>>);

/// What is known of one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// The most bytes of one batch that it takes. Whoever may not read it is told by the broker's
    /// refusal later.
    pub(crate) limit: usize,
    standing: Standing,
    /// Its weakness was told, or there is none.
    told: bool,
}

impl Topics {
    /// What is known of a topic; `None` if it is not there.
    pub(crate) async fn known(
        &self,
        inner: &Inner,
        operation: &'static str,
        name: &str,
    ) -> Result<Option<Known>> {
        if let Some(known) = self.cached(name) {
            return Ok(Some(known));
        }
        topic_name(operation, name)?;
        match describe(inner, operation, &[name]).await?.pop().flatten() {
            Some(topic) => Ok(Some(self.look(inner, operation, name, &topic).await?)),
            None => Ok(None),
        }
    }

    /// Warns of a topic that cannot carry the guarantee of a confirmed message, or refuses it.
    pub(crate) async fn check(
        &self,
        inner: &Inner,
        operation: &'static str,
        name: &str,
        mut known: Known,
    ) -> Result<()> {
        if known.told {
            return Ok(());
        }
        if inner.config.weak_topics == WeakTopics::Refuse {
            // It may have been mended since.
            self.forget(name);
            match self.known(inner, operation, name).await? {
                Some(now) => known = now,
                None => return Err(missing(operation, "topic", name)),
            }
        }
        self.judge(inner.config.weak_topics, operation, name, known)
    }

    /// The same for a topic that was just described, and whose configs were just read.
    pub(super) fn check_now(
        &self,
        inner: &Inner,
        operation: &'static str,
        name: &str,
        topic: &Topic,
        configs: &Configs,
    ) -> Result<()> {
        let known = self.learn(name, topic, configs);
        self.judge(inner.config.weak_topics, operation, name, known)
    }

    /// Forgets a topic that turned out to be gone.
    pub(crate) fn forget(&self, name: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(name);
    }

    fn judge(
        &self,
        weak: WeakTopics,
        operation: &'static str,
        name: &str,
        known: Known,
    ) -> Result<()> {
        match (known.standing, weak) {
            (Standing::Carries, _) => Ok(()),
            (Standing::Weak(weakness), WeakTopics::Refuse) => Err(weakness.error(operation, name)),
            (Standing::Weak(weakness), WeakTopics::Warn) => {
                if self.tell(name) {
                    weakness.warn(name);
                }
                Ok(())
            }
        }
    }

    /// True for the first who asks: of several tasks that find a weakness at once, one tells it.
    fn tell(&self, name: &str) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(name) {
            Some(known) => !std::mem::replace(&mut known.told, true),
            // Another one forgot it meanwhile, and tells it when it looks again.
            None => false,
        }
    }

    async fn look(
        &self,
        inner: &Inner,
        operation: &'static str,
        name: &str,
        topic: &Topic,
    ) -> Result<Known> {
        let configs = match configs::read(inner, operation, name).await {
            Ok(configs) => configs,
            // This user may use the topic and not look at its settings.
            Err(error) if error.kind() == ErrorKind::Permission => Configs::default(),
            Err(error) => return Err(error),
        };
        Ok(self.learn(name, topic, &configs))
    }

    fn learn(&self, name: &str, topic: &Topic, configs: &Configs) -> Known {
        let standing = Standing::of(topic, configs);
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // What was told once is not told again because it was looked at again.
        let before = all.get(name).is_some_and(|known| {
            known.told && known.standing == standing && standing != Standing::Carries
        });
        let known = Known {
            limit: configs.max_bytes.unwrap_or(usize::MAX),
            standing,
            told: before || standing == Standing::Carries,
        };
        if all.len() >= KNOWN {
            all.clear();
        }
        all.insert(Arc::from(name), known);
        known
    }

    fn cached(&self, name: &str) -> Option<Known> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).copied()
    }
}

/// Names that a connection remembers, so that made-up names cannot fill the memory.
const KNOWN: usize = 10_000;
