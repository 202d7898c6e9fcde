//! What of a mapping is in memory, and whose: from PAGEMAP_SCAN (Linux 6.7), or else from smaps.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::processes::{Mapper, Mapping};
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
    /// Where in the file these lie, in bytes; not known from smaps.
    pub ranges: Option<Vec<Range<u64>>>,
}

/// An error where this process may not be looked at, or is gone.
pub fn resident(mapper: &Mapper) -> io::Result<Resident> {
    match by_scan(mapper) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS)) => {
            by_smaps(mapper)
        }
        result => result,
    }
}

fn by_scan(mapper: &Mapper) -> io::Result<Resident> {
    let mut found = Resident::default();
    let mut ranges = Vec::new();
    scan(mapper, |range, kind| {
        let bytes = range.end - range.start;
        match kind {
            PageKind::Anon => found.anon += bytes,
            PageKind::Swap => found.swap += bytes,
            PageKind::File => {
                found.file += bytes;
                ranges.push(range);
            }
        }
    })?;
    found.ranges = Some(ranges);
    Ok(found)
}

/// Calls `found` with each run of pages that a process has of the file, in bytes of the file, and
/// whose they are.
fn scan(mapper: &Mapper, mut found: impl FnMut(Range<u64>, PageKind)) -> io::Result<()> {
    let pagemap = File::open(format!("/proc/{}/pagemap", mapper.pid))?;
    for Mapping { addresses, offset, .. } in &mapper.mappings {
        sys::scan_pages(&pagemap, addresses.clone(), |region, kind| {
            let from = region.start - addresses.start + offset;
            found(from..from + (region.end - region.start), kind);
        })?;
    }
    Ok(())
}

/// The same as runs. Only PAGEMAP_SCAN tells them: an error before Linux 6.7.
pub fn runs(mapper: &Mapper) -> io::Result<Vec<(Range<u64>, PageKind)>> {
    let mut runs = Vec::new();
    scan(mapper, |range, kind| runs.push((range, kind)))?;
    Ok(runs)
}

fn by_smaps(mapper: &Mapper) -> io::Result<Resident> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", mapper.pid))?;
    Ok(sum_smaps(&text, &mapper.mappings))
}

/// `Rss`, `Anonymous` and `Swap` (in kB) of the ranges that are `mappings`.
fn sum_smaps(text: &str, mappings: &[Mapping]) -> Resident {
    let mut found = Resident::default();
    let mut ours = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((start, end)) = first.split_once('-') {
            let hex = |text| u64::from_str_radix(text, 16).ok();
            ours = match (hex(start), hex(end)) {
                (Some(start), Some(end)) => mappings.iter().any(|m| m.addresses == (start..end)),
                _ => false,
            };
            continue;
        }
        let Some(kib) = words.next().and_then(|n| n.parse::<u64>().ok()).filter(|_| ours) else { continue };
        match first {
            "Rss:" => found.file += kib * 1024,
            "Anonymous:" => {
                found.anon += kib * 1024;
                found.file = found.file.saturating_sub(kib * 1024);
            }
            "Swap:" => found.swap += kib * 1024,
            _ => {}
        }
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
        let expected = Resident { anon: 4096, swap: 4096, file: 4096, ranges: None };
        assert_eq!(sum_smaps(text, &[mapping]), expected);
    }

    /// Both ways of looking must agree, on this process's own memory.
    #[test]
    fn a_scan_and_smaps_agree() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 64 * 4096], 0).unwrap();
        // SAFETY: nobody else has this file; it is not truncated while it is mapped.
        let mut map = unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() };
        let mut sum = 0u32;
        for page in 0..32 {
            sum += u32::from(map[page * 4096]);
        }
        for page in (0..20).step_by(2) {
            map[page * 4096] = 2;
        }
        assert_eq!(sum, 32);
        let start = map.as_ptr() as u64;
        let mapping = Mapping { addresses: start..start + 64 * 4096, offset: 0, is_private: true };
        let mapper = Mapper { pid: std::process::id(), mappings: vec![mapping] };
        let smaps = by_smaps(&mapper).unwrap();
        assert_eq!((smaps.anon, smaps.swap), (10 * 4096, 0));
        match by_scan(&mapper) {
            Ok(scan) => {
                assert_eq!((scan.anon, scan.swap, scan.file), (smaps.anon, smaps.swap, smaps.file));
                assert_eq!(covered(scan.ranges.unwrap()), scan.file);
                let copied = runs(&mapper).unwrap().into_iter().filter(|(_, kind)| *kind == PageKind::Anon);
                let expected: Vec<_> =
                    (0..20).step_by(2).map(|page| page * 4096..(page + 1) * 4096).collect();
                assert_eq!(copied.map(|(range, _)| range).collect::<Vec<_>>(), expected);
            }
            Err(e) => println!("skipped: this kernel has no PAGEMAP_SCAN (Linux 6.7): {e}"),
        }
    }
}
