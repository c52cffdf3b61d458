//! Repeats of a block of lines, folded into one.

use super::line::Line;

/// A block of lines that comes so many times in a row, each time for other messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) lines: Vec<Line>,
    pub(super) times: usize,
    /// The last message of the last time.
    pub(super) last: Option<usize>,
}

/// Folds what comes at least [`OFTEN`] times in a row. From the front, and at each place what takes
/// in most lines.
pub(super) fn fold(lines: &[Line]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let best = (1..=LONGEST.min(rest.len()))
            .map(|length| (length, times(rest, length)))
            .filter(|(_, times)| *times >= OFTEN)
            .max_by_key(|(length, times)| (length * times, std::cmp::Reverse(*length)));
        let (length, times) = best.unwrap_or((1, 1));
        let all = length * times;
        let last = rest[all - length..all]
            .iter()
            .filter_map(|line| line.message);
        blocks.push(Block {
            lines: rest[..length].to_vec(),
            times,
            last: last.max(),
        });
        rest = &rest[all..];
    }
    blocks
}

/// How many times a block of this length stands at the front.
fn times(lines: &[Line], length: usize) -> usize {
    let (first, _) = lines.split_at(length);
    let like = |block: &&[Line]| {
        block.len() == length && block.iter().zip(first).all(|(a, b)| a.is_like(b))
    };
    lines.chunks(length).take_while(like).count()
}

const OFTEN: usize = 3;
const LONGEST: usize = 16;
