//! The end of a transactional producer: which of the broker's answers say that it is fenced, and which do not.

use krafka::{KrafkaError, error::ErrorCode};
use mq_core::{Error, ErrorKind, RetryAdvice};

use super::{Stage, broker, help, map};

/// True if the code says that this producer's id is no longer its own.
///
/// `INVALID_TXN_STATE` is among them. Under `transaction.version` 2 whoever takes the id over gets the next epoch, and so does
/// a transaction that ends: the coordinator takes the commit of the one before for that of the new one, sent again, finds it
/// aborted, and answers that the state does not allow it. The client asks for what the state does not allow in one
/// case: below transactions V2, to abort a transaction that has nothing.
pub(super) fn is_fencing(code: ErrorCode) -> bool {
    use ErrorCode as C;
    matches!(
        code,
        C::ProducerFenced
            | C::InvalidProducerEpoch
            | C::InvalidTxnState
            | C::TransactionCoordinatorFenced
    )
}

/// True if the broker does not know the producer by its transactional id any more: it forgets an id that makes no transaction for
/// `transactional.id.expiration.ms`.
///
/// A twin is answered for only after that, or after as many transactions of its own as there are epochs: until then one that takes
/// the id over has a later epoch, which fences. So two instances can not go on in turns for ever by starting again.
pub(crate) fn is_forgotten(error: &KrafkaError) -> bool {
    match error {
        KrafkaError::Broker { code, .. } => *code == ErrorCode::InvalidProducerIdMapping,
        // Under transactions V2 the client takes it for fencing, and names the code in its text alone.
        KrafkaError::Fenced { message } | KrafkaError::TransactionAbortable { message } => {
            message.contains(&format!("{:?}", ErrorCode::InvalidProducerIdMapping))
        }
        _ => false,
    }
}

/// The error of a producer that can make no further transaction: it is fenced, unless the error says something else.
pub(crate) fn over(operation: &'static str, error: KrafkaError) -> Error {
    if is_forgotten(&error) {
        let text =
            "the broker has forgotten this transactional id, or gave it to another client since";
        return Error::new(ErrorKind::Broker, operation, text)
            .help("start again: it is forgotten after transactional.id.expiration.ms without a transaction")
            .advise(RetryAdvice::Later)
            .caused_by(error);
    }
    match &error {
        KrafkaError::Auth { .. } | KrafkaError::Closed { .. } => {
            return map(operation, Stage::Before, error);
        }
        // Once a send has failed the client answers every call so, and names what it failed with in its text alone.
        KrafkaError::TransactionAbortable { message } => {
            let named = |code: &ErrorCode| message.contains(&format!("{code:?}"));
            if let Some(code) = OTHERS.into_iter().find(named) {
                return refused(operation, code).caused_by(error);
            }
        }
        KrafkaError::Broker { code, .. } if OTHERS.contains(code) => {
            return refused(operation, *code).caused_by(error);
        }
        _ => {}
    }
    Error::new(ErrorKind::Lost, operation, "another client took over this identity")
        .help("another instance has this transactional id, or this one stood still for longer than its transaction time-out")
        .advise(RetryAdvice::Never)
        .caused_by(error)
}

fn refused(operation: &'static str, code: ErrorCode) -> Error {
    let (kind, text) = broker(false, code);
    let error = Error::new(kind, operation, text);
    match help(kind) {
        Some(help) => error.help(help),
        None => error,
    }
}

/// What ends a producer without fencing it.
const OTHERS: [ErrorCode; 4] = [
    ErrorCode::TransactionalIdAuthorizationFailed,
    ErrorCode::ClusterAuthorizationFailed,
    ErrorCode::SaslAuthenticationFailed,
    ErrorCode::UnsupportedVersion,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// As the client says it of a call after a send that failed so.
    fn masked(cause: &KrafkaError) -> KrafkaError {
        KrafkaError::transaction_abortable(format!(
            "cannot send: a send in this transaction failed ({cause}); abort the transaction"
        ))
    }

    #[test]
    fn every_way_of_being_fenced_has_one_kind() {
        let codes = [
            ErrorCode::ProducerFenced,
            ErrorCode::InvalidProducerEpoch,
            ErrorCode::InvalidTxnState,
            ErrorCode::TransactionCoordinatorFenced,
        ];
        let mut all = vec![
            KrafkaError::fenced("x"),
            masked(&KrafkaError::fenced("x")),
            KrafkaError::illegal_state("cannot abort in state Fatal"),
        ];
        for code in codes {
            let error = KrafkaError::broker(code, "x");
            all.push(masked(&error));
            // Also where a producer begins, which has no transaction yet.
            let begun = map("consume", Stage::Before, error.clone());
            let found = (begun.kind(), begun.retry());
            assert_eq!(found, (ErrorKind::Lost, RetryAdvice::Never), "{begun:?}");
            all.push(error);
        }
        for error in all {
            let over = over("transaction", error);
            let found = (over.kind(), over.retry());
            assert_eq!(found, (ErrorKind::Lost, RetryAdvice::Never), "{over:?}");
        }
    }

    #[test]
    fn one_that_the_broker_forgot_is_not_said_to_be_fenced() {
        let code = ErrorCode::InvalidProducerIdMapping;
        let error = KrafkaError::broker(code, "x");
        let fenced = KrafkaError::fenced(format!("{code:?}: x"));
        for error in [masked(&fenced), fenced, masked(&error), error] {
            let over = over("transaction", error);
            let found = (over.kind(), over.retry());
            assert_eq!(found, (ErrorKind::Broker, RetryAdvice::Later), "{over:?}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_not_said_to_be_fenced() {
        let table = [
            (
                ErrorCode::TransactionalIdAuthorizationFailed,
                ErrorKind::Permission,
            ),
            (ErrorCode::ClusterAuthorizationFailed, ErrorKind::Permission),
            (ErrorCode::SaslAuthenticationFailed, ErrorKind::Auth),
            (ErrorCode::UnsupportedVersion, ErrorKind::Unsupported),
        ];
        for (code, kind) in table {
            let error = KrafkaError::broker(code, "x");
            for error in [masked(&error), error] {
                assert_eq!(over("transaction", error).kind(), kind, "{code:?}");
            }
        }
        let closed = over("transaction", KrafkaError::closed("x"));
        assert_eq!(closed.kind(), ErrorKind::Closed);
    }
}
