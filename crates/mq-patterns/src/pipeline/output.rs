//! The outputs of a stage: their messages, and the ids that tell a duplicate.

use std::sync::Arc;

use mq_core::{
    Destination, Failure, Message, MessageBuilder, MessageId, Outcome, Received, Result,
    codec::Codec,
};
use serde::Serialize;
use uuid::Uuid;

/// Where a stage's outputs go, and what their messages have.
pub(super) struct Output<U> {
    pub(super) stage: Arc<str>,
    pub(super) to: Destination,
    pub(super) envelope: Option<Envelope<U>>,
    /// The namespace of the stage's ids.
    ids: Uuid,
}

pub(super) type Envelope<U> =
    Arc<dyn Fn(&Received, &U, MessageBuilder) -> MessageBuilder + Send + Sync>;

impl<U> Output<U> {
    pub(super) fn new(stage: Arc<str>, to: Destination) -> Self {
        let ids = Uuid::new_v5(&STAGES, stage.as_bytes());
        Self {
            stage,
            to,
            envelope: None,
            ids,
        }
    }

    /// Acknowledges the input once these are stored; one that cannot be written is a permanent
    /// failure, since no retry writes it.
    pub(super) fn outcome<C: Codec>(
        &self,
        input: &Received,
        outputs: impl IntoIterator<Item = U>,
    ) -> Outcome
    where
        U: Serialize,
    {
        let mut outcome = Outcome::ack();
        for (index, output) in outputs.into_iter().enumerate() {
            match self.message::<C>(input, &output, index) {
                Ok(message) => outcome = outcome.publish(&self.to, message),
                Err(error) => {
                    let error = error.with("stage", &self.stage).with("output", index);
                    return Outcome::retry(Failure::permanent(error));
                }
            }
        }
        outcome
    }

    fn message<C: Codec>(&self, input: &Received, output: &U, index: usize) -> Result<Message>
    where
        U: Serialize,
    {
        let mut message = Message::encode::<C, U>(output)?.id(self.id(input.id(), index)?);
        if let Some(key) = input.key() {
            message = message.key(key.clone());
        }
        if let Some(id) = input.correlation_id() {
            message = message.correlation_id(id);
        }
        Ok(match &self.envelope {
            Some(envelope) => envelope(input, output, message),
            None => message,
        }
        .build())
    }

    /// The id of an output: the same for the same stage, input and index, and of the same length
    /// however many stages there are.
    fn id(&self, input: &MessageId, index: usize) -> Result<MessageId> {
        let input = Uuid::new_v5(&self.ids, input.encode(&mut [0; 36]).as_bytes());
        let output = Uuid::new_v5(&input, index.to_string().as_bytes());
        MessageId::new(output.to_string())
    }
}

impl<U> Clone for Output<U> {
    fn clone(&self) -> Self {
        Self {
            stage: Arc::clone(&self.stage),
            to: self.to.clone(),
            envelope: self.envelope.clone(),
            ids: self.ids,
        }
    }
}

/// The namespace of stages. Part of the public contract: another one would give a redelivered input
/// other outputs after an upgrade.
const STAGES: Uuid = Uuid::from_u128(0x8a0c_61f7_94f2_4d0e_9a51_5d3c_2b7f_0e64);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(stage: &str, input: &str, index: usize) -> String {
        let output = Output::<()>::new(stage.into(), Destination::queue("out"));
        let input = MessageId::new(input).expect("an id");
        output.id(&input, index).expect("an id").to_string()
    }

    #[test]
    fn ids_depend_on_stage_input_and_index_and_nothing_else() {
        let one = id("bill", "order-1", 0);
        assert_eq!(one, id("bill", "order-1", 0));
        let others = [
            id("ship", "order-1", 0),
            id("bill", "order-2", 0),
            id("bill", "order-1", 1),
            id("bill", "order-11", 0),
            id("billorder-1", "0", 0),
        ];
        assert!(!others.contains(&one), "{others:?}");
    }

    #[test]
    fn ids_stay_what_they_are_in_later_versions() {
        // As Python's `uuid.uuid5` has it.
        let bill = "f625fb6b-24b1-5731-9ea7-5415e24c2b5f";
        assert_eq!(id("bill", "order-1", 0), bill);
    }
}
