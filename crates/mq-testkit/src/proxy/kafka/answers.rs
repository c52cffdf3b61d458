//! What a cluster answers: passed as it is, or kept until it is whole and then rewritten.

use bytes::{Buf, BytesMut};

use super::{
    nodes::Nodes,
    requests::{Asked, Pending, frame_size},
    rewrite::rewrite,
};
use crate::proxy::{ProxyError, pump::Tap};

pub(super) struct Answers {
    nodes: Nodes,
    pending: Pending,
    /// The beginning of a frame, or all of one that is to be rewritten.
    kept: BytesMut,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Its size and correlation are to come.
    Head,
    Passes {
        left: usize,
    },
    Kept {
        asked: Asked,
        left: usize,
    },
}

impl Answers {
    pub(super) fn new(nodes: Nodes, pending: Pending) -> Self {
        Self {
            nodes,
            pending,
            kept: BytesMut::new(),
            state: State::Head,
        }
    }

    fn begin(&mut self, to: &mut BytesMut) -> Result<State, ProxyError> {
        if self.kept.len() < HEAD {
            return Ok(State::Head);
        }
        let mut head = &self.kept[..];
        let left = frame_size(head.get_i32())? + 4 - HEAD;
        match self.pending.answered(head.get_i32()) {
            Some(asked) => Ok(State::Kept { asked, left }),
            None => {
                to.unsplit(self.kept.split());
                Ok(State::Passes { left })
            }
        }
    }
}

impl Tap for Answers {
    fn pass(&mut self, mut bytes: &[u8], to: &mut BytesMut) -> Result<(), ProxyError> {
        let mut take = |most: usize| {
            let (now, rest) = bytes.split_at(most.min(bytes.len()));
            bytes = rest;
            now
        };
        loop {
            let now;
            (self.state, now) = match self.state {
                State::Head => {
                    let now = take(HEAD - self.kept.len());
                    self.kept.extend_from_slice(now);
                    (self.begin(to)?, now)
                }
                State::Passes { left } => {
                    let now = take(left);
                    to.extend_from_slice(now);
                    (
                        State::Passes {
                            left: left - now.len(),
                        },
                        now,
                    )
                }
                State::Kept { asked, left } => {
                    let now = take(left);
                    self.kept.extend_from_slice(now);
                    (
                        State::Kept {
                            asked,
                            left: left - now.len(),
                        },
                        now,
                    )
                }
            };
            match self.state {
                State::Passes { left: 0 } => self.state = State::Head,
                State::Kept { asked, left: 0 } => {
                    let frame = self.kept.split().freeze();
                    rewrite(asked, frame, &self.nodes, to)?;
                    self.state = State::Head;
                }
                _ if now.is_empty() => return Ok(()),
                _ => {}
            }
        }
    }

    fn end(&mut self, _: &mut BytesMut) {
        // A torn answer could hold half an address: it is not passed on.
    }
}

/// Size and correlation.
const HEAD: usize = 8;
