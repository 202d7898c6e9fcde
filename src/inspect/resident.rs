//! What of a mapping is in memory, and whose: from PAGEMAP_SCAN (Linux 6.7), or else from smaps.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;

use super::processes::{Mapper, Mapping};
use crate::broker::{self, ProcessFile};
use crate::sys::{self, PageKind};

/// Pages of one process's mappings of a file, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resident {
    /// Copied by private mappings, and in memory.
    pub anon: u64,
    /// Copied, and swapped out.
    pub swap: u64,
    /// The file's own pages.
    pub file: u64,
    /// Where in the file all these lie, in bytes; not known from smaps.
    pub runs: Option<Vec<(Range<u64>, PageKind)>>,
}

impl Resident {
    /// Of a process that maps nothing.
    pub fn none() -> Self {
        Self { runs: Some(Vec::new()), ..Self::default() }
    }
}

/// What one process has of each of these files, in their order; they are all mappers of that
/// process, and /proc is opened once for them. An error where it may not be looked at, or is gone.
pub fn residents(mappers: &[Mapper]) -> io::Result<Vec<Resident>> {
    match by_scan(mappers) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS)) => {
            by_smaps(mappers)
        }
        result => result,
    }
}

fn by_scan(mappers: &[Mapper]) -> io::Result<Vec<Resident>> {
    let Some(Mapper { pid, .. }) = mappers.first() else { return Ok(Vec::new()) };
    let pagemap = broker::open(*pid, ProcessFile::Pagemap)?;
    mappers.iter().map(|mapper| scan(&pagemap, &mapper.mappings)).collect()
}

fn scan(pagemap: &File, mappings: &[Mapping]) -> io::Result<Resident> {
    let mut found = Resident::default();
    let mut runs = Vec::new();
    for Mapping { addresses, offset, .. } in mappings {
        sys::scan_pages(pagemap, addresses.clone(), |region, kind| {
            let bytes = region.end - region.start;
            match kind {
                PageKind::Anon => found.anon += bytes,
                PageKind::Swap => found.swap += bytes,
                PageKind::File => found.file += bytes,
            }
            let from = region.start - addresses.start + offset;
            runs.push((from..from + bytes, kind));
        })?;
    }
    found.runs = Some(runs);
    Ok(found)
}

fn by_smaps(mappers: &[Mapper]) -> io::Result<Vec<Resident>> {
    let Some(Mapper { pid, .. }) = mappers.first() else { return Ok(Vec::new()) };
    let smaps = parse_smaps(&String::from_utf8_lossy(&broker::read(*pid, ProcessFile::Smaps)?));
    Ok(mappers.iter().map(|mapper| sum_smaps(&smaps, &mapper.mappings)).collect())
}

/// `Rss`, `Anonymous` and `Swap` of each range of addresses, in bytes.
type Smaps = HashMap<Range<u64>, Resident>;

fn parse_smaps(text: &str) -> Smaps {
    let mut smaps = Smaps::new();
    let mut current = 0..0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((start, end)) = first.split_once('-') {
            let hex = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            current = hex(start)..hex(end);
            continue;
        }
        let bytes = words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024;
        if !matches!(first, "Rss:" | "Anonymous:" | "Swap:") {
            continue;
        }
        let range = smaps.entry(current.clone()).or_default();
        match first {
            "Rss:" => range.file += bytes,
            "Swap:" => range.swap += bytes,
            _ => {
                range.anon += bytes;
                range.file = range.file.saturating_sub(bytes);
            }
        }
    }
    smaps
}

fn sum_smaps(smaps: &Smaps, mappings: &[Mapping]) -> Resident {
    let mut found = Resident::default();
    for range in mappings.iter().filter_map(|mapping| smaps.get(&mapping.addresses)) {
        found.anon += range.anon;
        found.swap += range.swap;
        found.file += range.file;
    }
    found
}

/// How many bytes the union of `ranges` covers.
pub fn covered(ranges: Vec<Range<u64>>) -> u64 {
    union(ranges).iter().map(|range| range.end - range.start).sum()
}

/// The same bytes, each once: in order, and neither empty nor touching.
pub fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::PAGE;

    #[test]
    fn a_page_that_two_processes_map_counts_once() {
        assert_eq!(covered(vec![8..12, 0..4, 2..9, 20..20]), 12);
        assert_eq!(covered(vec![]), 0);
        assert_eq!(union(vec![8..12, 0..4, 4..5, 20..20]), [0..5, 8..12]);
    }

    #[test]
    fn smaps_are_summed_over_the_ranges_asked_for() {
        let text = "1000-3000 rw-p 00000000 00:39 65 /mnt/t\nSize: 8 kB\nRss: 8 kB\nAnonymous: 4 kB\nSwap: 4 kB\n\
                    3000-4000 rw-p 00000000 00:00 0\nRss: 4 kB\nAnonymous: 4 kB\n";
        let mapping = Mapping { addresses: 0x1000..0x3000, offset: 0, is_private: true };
        let expected = Resident { anon: 4096, swap: 4096, file: 4096, runs: None };
        assert_eq!(sum_smaps(&parse_smaps(text), &[mapping]), expected);
    }

    fn mapping(map: &memmap2::MmapMut, pages: Range<u64>, offset: u64) -> Mapping {
        let start = map.as_ptr() as u64;
        let addresses = start + pages.start * PAGE..start + pages.end * PAGE;
        Mapping { addresses, offset, is_private: true }
    }

    /// Both ways of looking must agree, on this process's own memory: two files, of which one is
    /// mapped twice, and both have pages that were read, written, and never touched.
    #[test]
    fn a_scan_and_smaps_agree() {
        let map = || {
            let file = tempfile::tempfile().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1; 64 * PAGE as usize], 0).unwrap();
            // SAFETY: nobody else has this file; it is not truncated while it is mapped.
            unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() }
        };
        let mut maps = [map(), map(), map()];
        for (index, map) in maps.iter_mut().enumerate() {
            let sum: u32 = (0..32).map(|page| u32::from(map[page * PAGE as usize])).sum();
            assert_eq!(sum, 32);
            for page in (0..20).step_by(index + 2) {
                map[page * PAGE as usize] = 2;
            }
        }
        let pid = std::process::id();
        let [first, second, third] = &maps;
        let twice = vec![mapping(first, 0..64, 0), mapping(second, 0..64, 64 * PAGE)];
        let mappers =
            [Mapper { pid, mappings: twice }, Mapper { pid, mappings: vec![mapping(third, 0..64, 0)] }];
        let smaps = by_smaps(&mappers).unwrap();
        assert_eq!([smaps[0].anon, smaps[1].anon], [17 * PAGE, 5 * PAGE]);
        let scans = match by_scan(&mappers) {
            Err(e) => return println!("skipped: this kernel has no PAGEMAP_SCAN (Linux 6.7): {e}"),
            Ok(scans) => scans,
        };
        for (scan, smaps) in scans.iter().zip(&smaps) {
            assert_eq!((scan.anon, scan.swap, scan.file), (smaps.anon, smaps.swap, smaps.file));
            assert_eq!(smaps.runs, None);
        }
        let copied = scans[1].runs.iter().flatten().filter(|(_, kind)| *kind == PageKind::Anon);
        let expected: Vec<_> = (0..20).step_by(4).map(|page| page * PAGE..(page + 1) * PAGE).collect();
        assert_eq!(copied.map(|(range, _)| range.clone()).collect::<Vec<_>>(), expected);
    }
}
