//! What is done at random to a file under test.

use super::random::Random;

const PAGE: u64 = 4096;

/// Numbers are bytes; `tag` makes the data ([`pattern`]). Ranges may reach beyond the file's end
/// where the system call allows it.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Read { at: u64, length: u64 },
    Write { at: u64, length: u64, tag: u64 },
    Append { length: u64, tag: u64 },
    DirectRead { at: u64, length: u64 },
    DirectWrite { at: u64, length: u64, tag: u64 },
    Map,
    MapRead { at: u64, length: u64 },
    MapWrite { at: u64, length: u64, tag: u64 },
    MapSync { at: u64, length: u64 },
    MapRemove { at: u64, length: u64 },
    PrivateMapWrite { at: u64, length: u64, tag: u64 },
    Truncate { size: u64 },
    Punch { at: u64, length: u64 },
    Zero { at: u64, length: u64, keep: bool },
    Allocate { at: u64, length: u64, keep: bool },
    SeekData { at: u64 },
    SeekHole { at: u64 },
    Sync,
    Stat,
    DropCache { unmap: bool },
    CopyIn { from: u64, at: u64, length: u64 },
    CopyOut { at: u64, length: u64 },
    CopyWithin { from: u64, at: u64, length: u64 },
    Reopen,
}

impl Op {
    /// An operation on a file of `size` bytes that is never to become longer than `limit`.
    pub fn random(random: &mut Random, size: u64, limit: u64) -> Op {
        // Offsets that often meet page boundaries and the file's end, lengths that often meet pages.
        let place = |random: &mut Random, end: u64| match random.below(8) {
            0 => size.saturating_sub(random.below(PAGE + 2)).min(end),
            1 => (size + random.below(3)).min(end),
            2 => random.below(end / PAGE + 1) * PAGE,
            3 => (random.below(end / PAGE + 1) * PAGE + PAGE - 1).min(end),
            _ => random.below(end + 1),
        };
        let at = place(random, limit - 1);
        let length = match random.below(6) {
            0 => PAGE,
            1 => 1 + random.below(PAGE * 4),
            2 => 1 + random.below(limit),
            3 => PAGE * (1 + random.below(40)),
            _ => 1 + random.below(600),
        };
        let length = length.min(limit - at);
        let from = place(random, limit - 1);
        let tag = random.next();
        let keep = random.one_in(2);
        let page = at - at % PAGE;
        let pages = length.next_multiple_of(PAGE);
        match random.below(48) {
            0..5 => Op::Read { at, length },
            5..10 => Op::Write { at, length, tag },
            10 => Op::Append { length: length.min(limit.saturating_sub(size)), tag },
            11 | 12 => Op::DirectRead { at: page, length: pages },
            13 | 14 => Op::DirectWrite { at: page, length: pages, tag },
            15 | 16 => Op::Map,
            17..22 => Op::MapRead { at, length },
            22..27 => Op::MapWrite { at, length, tag },
            27 => Op::MapSync { at, length },
            28 => Op::MapRemove { at: page, length: pages },
            29 => Op::PrivateMapWrite { at, length, tag },
            30 | 31 => Op::Truncate { size: if keep { at } else { size / 2 + at / 2 } },
            32..34 => Op::Punch { at, length },
            34 => Op::Zero { at, length, keep },
            35 => Op::Allocate { at, length, keep },
            36 | 37 => Op::SeekData { at },
            38 | 39 => Op::SeekHole { at },
            40 => Op::Sync,
            41 => Op::Stat,
            42 => Op::DropCache { unmap: keep },
            43 => Op::CopyIn { from, at, length },
            44 => Op::CopyOut { at, length },
            45 => Op::CopyWithin { from, at, length },
            _ => Op::Reopen,
        }
    }
}
