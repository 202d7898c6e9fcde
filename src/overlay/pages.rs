//! Which pages of a view are the template's, its own, or punched: two bits a page. Pure.
//!
//! Only chunks that hold something else than template pages take memory, so a view of a sparse
//! terabyte costs what was touched of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The unit of copy-on-write. Larger blocks are paid for: with 64 KiB, scattered writes to a
/// tenth of a view would copy most of it.
pub const PAGE: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The template's content; zeros beyond its end.
    Template = 0,
    /// The view's own content.
    Private = 1,
    /// Punched: zeros, although the template holds data there.
    Zero = 2,
}

/// Pages in one u64 of states, page 0 in its lowest two bits.
pub const PAGES_PER_WORD: u64 = 32;
/// What is kept at once, and never in part: a sector of 512 bytes with its seal (seal.rs).
pub const WORDS_PER_CHUNK: usize = 63;
/// Of the largest view.
const WORDS: u64 = (super::MAX_SIZE / PAGE).div_ceil(PAGES_PER_WORD);
const PAGES_PER_CHUNK: u64 = PAGES_PER_WORD * WORDS_PER_CHUNK as u64;

/// The states of as many pages as are kept at once.
pub type Words = [u64; WORDS_PER_CHUNK];

/// Bit 0 of each page's two.
const LOW: u64 = 0x5555_5555_5555_5555;

type Chunk = Box<Words>;

#[derive(Debug, Default)]
pub struct PageMap {
    chunks: BTreeMap<u64, Chunk>,
    private: u64,
    zero: u64,
}

impl PageMap {
    /// Number of pages that the view owns.
    pub fn private(&self) -> u64 {
        self.private
    }

    /// Number of punched pages.
    pub fn zero(&self) -> u64 {
        self.zero
    }

    /// The last page that the view owns.
    pub fn last_private(&self) -> Option<u64> {
        let last_of = |(number, words): (u64, &Words)| {
            let at = words.iter().rposition(|word| word & LOW != 0)?;
            let page = u64::from((words[at] & LOW).ilog2()) / 2;
            Some(number * PAGES_PER_CHUNK + at as u64 * PAGES_PER_WORD + page)
        };
        self.chunks().filter_map(last_of).max()
    }

    pub fn get(&self, page: u64) -> State {
        let word = page / PAGES_PER_WORD;
        state_in(self.word(word), page % PAGES_PER_WORD)
    }

    /// The state of `start` and the end of the run of pages that share it, at most `limit`.
    pub fn run(&self, start: u64, limit: u64) -> (State, u64) {
        let state = self.get(start);
        let mut page = start;
        while page < limit {
            let chunk = Self::chunk_of(page);
            if !self.chunks.contains_key(&chunk) {
                if state != State::Template {
                    break;
                }
                page = self.next_chunk(chunk).min(limit);
                continue;
            }
            let differs = self.word(page / PAGES_PER_WORD) ^ uniform(state);
            let within = page % PAGES_PER_WORD;
            let skip = u64::from((differs >> (2 * within)).trailing_zeros() / 2).min(PAGES_PER_WORD - within);
            page += skip;
            if within + skip < PAGES_PER_WORD {
                break;
            }
        }
        (state, page.min(limit))
    }

    /// The states of the pages below `end`, as runs: first page, how many, their state.
    pub fn runs(&self, end: u64) -> Vec<(u64, u64, State)> {
        let mut runs = Vec::new();
        let mut at = 0;
        while at < end {
            let (state, stop) = self.run(at, end);
            runs.push((at, stop - at, state));
            at = stop;
        }
        runs
    }

    /// Gives the pages `range` one state.
    pub fn set(&mut self, range: Range<u64>, state: State) {
        let mut page = range.start;
        while page < range.end {
            let key = Self::chunk_of(page);
            if state == State::Template && !self.chunks.contains_key(&key) {
                page = self.next_chunk(key).min(range.end);
                continue;
            }
            let chunk_end = Self::chunk_end(page).min(range.end);
            let chunk = self.chunks.entry(key).or_insert_with(|| Box::new([0; WORDS_PER_CHUNK]));
            for_each_word(page..chunk_end, |at, mask| {
                let word = &mut chunk[at];
                let new = with(*word, mask, state);
                self.private = self.private + count_private(new) - count_private(*word);
                self.zero = self.zero + count_zero(new) - count_zero(*word);
                *word = new;
            });
            page = chunk_end;
            if chunk.iter().all(|word| *word == 0) {
                self.chunks.remove(&key);
            }
        }
    }

    /// Pages from `page` on are the template's again.
    pub fn truncate(&mut self, page: u64) {
        let end = self.chunks.last_key_value().map_or(0, |(key, _)| (key + 1) * PAGES_PER_CHUNK);
        if page < end {
            self.set(page..end, State::Template);
        }
    }

    /// The number of the chunk that holds `page`.
    pub fn chunk_of(page: u64) -> u64 {
        page / PAGES_PER_CHUNK
    }

    /// The first page that the chunk of `page` does not hold.
    pub fn chunk_end(page: u64) -> u64 {
        (Self::chunk_of(page) + 1) * PAGES_PER_CHUNK
    }

    pub fn chunk(&self, number: u64) -> Words {
        self.chunks.get(&number).map_or([0; WORDS_PER_CHUNK], |chunk| **chunk)
    }

    /// The chunk that holds `pages`, which end with it at the latest, as it would be if all of these had `state`.
    pub fn chunk_with(&self, pages: Range<u64>, state: State) -> Words {
        let mut chunk = self.chunk(Self::chunk_of(pages.start));
        for_each_word(pages, |at, mask| chunk[at] = with(chunk[at], mask, state));
        chunk
    }

    /// All chunks that hold something, with their numbers.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, &Words)> {
        self.chunks.iter().map(|(number, words)| (*number, &**words))
    }

    /// The chunks that differ in `other`, by their number.
    pub fn differing(&self, other: &Self) -> BTreeSet<u64> {
        let chunks = self.chunks.keys().chain(other.chunks.keys());
        chunks.filter(|chunk| self.chunks.get(chunk) != other.chunks.get(chunk)).copied().collect()
    }

    /// Takes over words kept earlier. False, and nothing taken, if one holds no states at all, or
    /// those of pages that no view has.
    pub fn load(&mut self, first: u64, words: &[u64]) -> bool {
        let words = words.iter().enumerate().map(|(at, word)| (first.saturating_add(at as u64), word));
        let words = words.filter(|(_, word)| **word != 0);
        let sane = |(index, word): (u64, &u64)| index < WORDS && word & (word >> 1) & LOW == 0;
        if !words.clone().all(sane) {
            return false;
        }
        for (index, word) in words {
            let chunk = index / WORDS_PER_CHUNK as u64;
            let chunk = self.chunks.entry(chunk).or_insert_with(|| Box::new([0; WORDS_PER_CHUNK]));
            let slot = &mut chunk[index as usize % WORDS_PER_CHUNK];
            self.private = self.private + count_private(*word) - count_private(*slot);
            self.zero = self.zero + count_zero(*word) - count_zero(*slot);
            *slot = *word;
        }
        true
    }

    /// The first page of the first chunk from this one on that holds something.
    fn next_chunk(&self, chunk: u64) -> u64 {
        let next = self.chunks.range(chunk..).next();
        next.map_or(u64::MAX, |(key, _)| key * PAGES_PER_CHUNK)
    }

    fn word(&self, index: u64) -> u64 {
        let chunk = self.chunks.get(&(index / WORDS_PER_CHUNK as u64));
        chunk.map_or(0, |chunk| chunk[index as usize % WORDS_PER_CHUNK])
    }
}

fn state_in(word: u64, page: u64) -> State {
    match (word >> (2 * page)) & 3 {
        0 => State::Template,
        1 => State::Private,
        _ => State::Zero,
    }
}

fn uniform(state: State) -> u64 {
    LOW * state as u64
}

/// The word, with this state for the pages of `mask`.
fn with(word: u64, mask: u64, state: State) -> u64 {
    (word & !mask) | (uniform(state) & mask)
}

/// The index in their chunk of the words that hold `pages`, and the bits there.
fn for_each_word(pages: Range<u64>, mut act: impl FnMut(usize, u64)) {
    let mut page = pages.start;
    while page < pages.end {
        let from = page % PAGES_PER_WORD;
        let to = (from + (pages.end - page)).min(PAGES_PER_WORD);
        act((page % PAGES_PER_CHUNK / PAGES_PER_WORD) as usize, lanes(from, to));
        page += to - from;
    }
}

/// The bits of pages `from..to` of one word; `from <= to <= 32`.
pub fn lanes(from: u64, to: u64) -> u64 {
    let below = |page: u64| if page == PAGES_PER_WORD { u64::MAX } else { (1 << (2 * page)) - 1 };
    below(to) & !below(from)
}

fn count_private(word: u64) -> u64 {
    (word & LOW).count_ones().into()
}

fn count_zero(word: u64) -> u64 {
    ((word >> 1) & LOW).count_ones().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u64 = 3 * PAGES_PER_CHUNK + 17;

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![Just(State::Template), Just(State::Private), Just(State::Zero)]
    }

    proptest! {
        #[test]
        fn agrees_with_a_vector(
            sets in proptest::collection::vec((0..PAGES, 0..PAGES, state()), 1..20),
            cut in 0..PAGES,
            probes in proptest::collection::vec(0..PAGES, 1..50),
        ) {
            let mut map = PageMap::default();
            let mut model = vec![State::Template; PAGES as usize];
            for (a, b, state) in sets {
                let range = a.min(b)..a.max(b);
                map.set(range.clone(), state);
                model[range.start as usize..range.end as usize].fill(state);
            }
            let check = |map: &PageMap, model: &[State]| {
                for page in &probes {
                    let state = model[*page as usize];
                    let end = model[*page as usize..].iter().position(|s| *s != state)
                        .map_or(PAGES, |at| page + at as u64);
                    prop_assert_eq!(map.run(*page, PAGES), (state, end));
                    prop_assert_eq!(map.get(*page), state);
                }
                let count = |want| model.iter().filter(|s| **s == want).count() as u64;
                prop_assert_eq!((map.private(), map.zero()), (count(State::Private), count(State::Zero)));
                Ok(())
            };
            check(&map, &model)?;

            let start = cut / 2;
            let (at, state) = (start..cut.min(PageMap::chunk_end(start)), State::Zero);
            let words = map.chunk_with(at.clone(), state);
            map.set(at.clone(), state);
            model[at.start as usize..at.end as usize].fill(state);
            prop_assert_eq!(words, map.chunk(PageMap::chunk_of(start)));

            let words: Vec<u64> = (0..PAGES.div_ceil(PAGES_PER_WORD)).map(|w| map.word(w)).collect();
            let mut again = PageMap::default();
            prop_assert!(again.load(0, &words));
            check(&again, &model)?;
            prop_assert!(again.differing(&map).is_empty());
            again.set(0..1, if model[0] == State::Zero { State::Private } else { State::Zero });
            prop_assert_eq!(again.differing(&map), BTreeSet::from([0]));

            map.truncate(cut);
            model[cut as usize..].fill(State::Template);
            check(&map, &model)?;
        }
    }

    #[test]
    fn words_that_are_no_states_are_refused() {
        let mut map = PageMap::default();
        assert!(!map.load(0, &[0b11]));
        assert_eq!(map.private(), 0);
    }

    /// One that was written at both ends and cut to nothing kept its daemon busy for hours.
    #[test]
    fn the_largest_view_is_cut_at_once() {
        let mut map = PageMap::default();
        let last = super::super::MAX_SIZE / PAGE;
        for page in [0, last] {
            map.set(page..page + 1, State::Private);
        }
        assert_eq!(map.run(1, last), (State::Template, last));
        map.truncate(1);
        assert_eq!((map.private(), map.run(1, u64::MAX)), (1, (State::Template, u64::MAX)));
    }

    /// Words at an impossible place of a damaged file made the arithmetic of pages overflow.
    #[test]
    fn words_of_pages_that_no_view_has_are_refused() {
        let mut map = PageMap::default();
        assert!(!map.load(WORDS - 1, &[1, 1]) && !map.load(u64::MAX, &[1, 1]));
        assert_eq!(map.private(), 0);
        assert!(map.load(WORDS - 1, &[1, 0]));
        map.truncate(0);
        assert_eq!(map.private(), 0);
    }

    #[test]
    fn a_terabyte_of_template_pages_costs_nothing() {
        let mut map = PageMap::default();
        map.set(1 << 27..(1 << 27) + 1, State::Private);
        assert_eq!(map.run(0, 1 << 28), (State::Template, 1 << 27));
        assert_eq!(map.run((1 << 27) + 1, 1 << 28), (State::Template, 1 << 28));
        assert_eq!(map.chunks.len(), 1);
    }
}
