//! The password, put in on its way to the socket.
//!
//! The client library logs every frame at `TRACE`, with the login among them. So it is given a
//! placeholder, and never has the password.

use std::ops::Range;

/// What the client library takes for the password. It tells nothing, not even a length.
pub(crate) const PLACEHOLDER: &str = "put-in-on-the-wire";

/// Passes on what a client writes, with the password in `connection.start-ok` (AMQP 0-9-1, section
/// 1.4.2.2), which is answered by SASL PLAIN (RFC 4616): no authorization id, user, password.
pub(super) struct Login {
    /// What the client wrote, up to where a frame is incomplete.
    held: Vec<u8>,
    phase: Phase,
    answer: Vec<u8>,
    placed: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the protocol header.
    Header,
    /// Before `start-ok`.
    Frames,
    Done,
}

impl Login {
    pub(super) fn new(user: &str, password: &str) -> Self {
        let plain = |password: &str| format!("\0{user}\0{password}").into_bytes();
        Self {
            held: Vec::new(),
            phase: Phase::Header,
            answer: plain(password),
            placed: plain(PLACEHOLDER),
        }
    }

    /// Nothing more is held back or changed.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Takes what the client writes, and adds to `out` what goes to the broker.
    pub(super) fn pass(&mut self, written: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(written);
        if self.phase == Phase::Header && self.held.len() >= HEADER {
            out.extend(self.held.drain(..HEADER));
            self.phase = Phase::Frames;
        }
        while self.phase == Phase::Frames
            && let Some(length) = frame_length(&self.held)
        {
            let frame: Vec<u8> = self.held.drain(..length).collect();
            if frame.get(METHOD).is_some_and(|method| method == START_OK) {
                out.extend(self.answered(frame));
                self.phase = Phase::Done;
            } else {
                out.extend(frame);
            }
        }
        if self.is_done() {
            out.append(&mut self.held);
        }
    }

    /// The frame with the password. One that does not have the placeholder stays as it is: the broker
    /// then refuses the login.
    fn answered(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let placed = |window: &[u8]| window == self.placed;
        // What stands before it is the client's, such as its name.
        let Some(at) = frame.windows(self.placed.len()).rposition(placed) else {
            return frame;
        };
        frame.splice(at..at + self.placed.len(), self.answer.iter().copied());
        let size = frame.len() - FRAME_HEADER - FRAME_END;
        put(&mut frame, SIZE, size);
        if let Some(length) = at.checked_sub(4) {
            put(&mut frame, length..at, self.answer.len());
        }
        frame
    }
}

/// Writes a number of four bytes.
fn put(frame: &mut [u8], place: Range<usize>, number: usize) {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    if let Some(place) = frame.get_mut(place) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// Bytes of the first frame, if it is complete.
pub(super) fn frame_length(bytes: &[u8]) -> Option<usize> {
    let size = bytes.get(SIZE)?.try_into().ok()?;
    let length = FRAME_HEADER + u32::from_be_bytes(size) as usize + FRAME_END;
    (bytes.len() >= length).then_some(length)
}

/// `AMQP`, and four numbers.
const HEADER: usize = 8;
/// Type, channel and size (AMQP 0-9-1, section 4.2.3).
const FRAME_HEADER: usize = 7;
const SIZE: Range<usize> = 3..7;
const FRAME_END: usize = 1;
/// Class and method of a method frame.
pub(super) const METHOD: Range<usize> = 7..11;
const START_OK: &[u8] = &[0, 10, 0, 11];

#[cfg(test)]
mod tests;
