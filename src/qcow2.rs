//! Writes a qcow2 image of the pages that a view has of its own, over its template as backing file
//! (docs/interop/qcow2.rst of QEMU). All of it is written once, in order, and nothing is ever changed:
//!
//! ```text
//! header, name of the backing file | L1 table | refcount table | refcount blocks | L2 tables | data
//! ```
//!
//! A cluster is a page, so that no byte of the template is in it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::overlay::PAGE;

const CLUSTER: u64 = PAGE;
const CLUSTER_BITS: u32 = CLUSTER.trailing_zeros();
/// Entries of a table in one cluster, of 8 bytes each.
const ENTRIES: u64 = CLUSTER / 8;
/// Counts in one refcount block, of 16 bits each.
const COUNTS: u64 = CLUSTER / 2;
/// QEMU reads no longer L1 table (block/qcow2.h, QCOW_MAX_L1_SIZE).
const MAX_L1: u64 = (32 << 20) / 8;
/// The longest name of a backing file.
pub const MAX_BACKING: usize = 1023;
const HEADER: usize = 104;
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Only this table refers to the cluster.
const COPIED: u64 = 1 << 63;
/// It reads as zeros.
const ZERO: u64 = 1;

/// What is not the backing file's.
pub struct Run {
    /// Clusters.
    pub clusters: Range<u64>,
    pub is_zero: bool,
}

/// The largest image that can be written so.
pub const MAX_SIZE: u64 = MAX_L1 * ENTRIES * CLUSTER;

/// Where everything is, in clusters.
struct Layout {
    size: u64,
    l1: Range<u64>,
    refcount_table: Range<u64>,
    refcount_blocks: Range<u64>,
    /// Which entries of the L1 table have a table, in order.
    tables: Vec<u64>,
    l2_start: u64,
    data_start: u64,
    end: u64,
}

impl Layout {
    fn new(size: u64, runs: &[Run]) -> Self {
        let l1_clusters = size.div_ceil(CLUSTER * ENTRIES).max(1).div_ceil(ENTRIES);
        let mut tables: Vec<u64> = Vec::new();
        for run in runs.iter().filter(|run| !run.clusters.is_empty()) {
            let (first, last) = (run.clusters.start / ENTRIES, (run.clusters.end - 1) / ENTRIES);
            tables.extend(first.max(tables.last().map_or(0, |last| last + 1))..=last);
        }
        let data: u64 =
            runs.iter().filter(|run| !run.is_zero).map(|run| run.clusters.end - run.clusters.start).sum();
        let others = 1 + l1_clusters + tables.len() as u64 + data;
        // The counts are of their own clusters too.
        let (mut blocks, mut table) = (0, 0);
        loop {
            let end = others + blocks + table;
            let (needed, needed_table) = (end.div_ceil(COUNTS), blocks.div_ceil(ENTRIES).max(1));
            if (needed, needed_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (needed.max(blocks), needed_table);
        }
        let l1 = 1..1 + l1_clusters;
        let refcount_table = l1.end..l1.end + table;
        let refcount_blocks = refcount_table.end..refcount_table.end + blocks;
        let l2_start = refcount_blocks.end;
        let data_start = l2_start + tables.len() as u64;
        Self {
            size,
            l1,
            refcount_table,
            refcount_blocks,
            l2_start,
            data_start,
            end: data_start + data,
            tables,
        }
    }

    fn header(&self, backing: &str) -> Vec<u8> {
        let name_at = HEADER + 16 + 8;
        let mut out = Vec::with_capacity(CLUSTER as usize);
        let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_be_bytes());
        let long = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_be_bytes());
        out.extend_from_slice(b"QFI\xfb");
        word(&mut out, 3);
        long(&mut out, name_at as u64);
        word(&mut out, backing.len() as u32);
        word(&mut out, CLUSTER_BITS);
        long(&mut out, self.size);
        word(&mut out, 0);
        word(&mut out, self.size.div_ceil(CLUSTER * ENTRIES) as u32);
        long(&mut out, self.l1.start * CLUSTER);
        long(&mut out, self.refcount_table.start * CLUSTER);
        word(&mut out, (self.refcount_table.end - self.refcount_table.start) as u32);
        // No snapshots, no features.
        word(&mut out, 0);
        for _ in 0..4 {
            long(&mut out, 0);
        }
        // 2^4 bits a count.
        word(&mut out, 4);
        word(&mut out, HEADER as u32);
        word(&mut out, BACKING_FORMAT);
        word(&mut out, 3);
        out.extend_from_slice(b"raw\0\0\0\0\0");
        long(&mut out, 0);
        debug_assert_eq!(out.len(), name_at);
        out.extend_from_slice(backing.as_bytes());
        out
    }
}

/// Writes to `to`, which is empty. `runs` are in order and do not overlap; `read` gives what is in the clusters of
/// those that are not zeros, and fills what lies beyond the end with zeros.
pub fn write(
    to: &File,
    size: u64,
    backing: &str,
    runs: &[Run],
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    if size > MAX_SIZE || backing.len() > MAX_BACKING {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is too large for a qcow2 with clusters of a page, or the path of its template too long: export it raw",
        ));
    }
    // QEMU counts in sectors.
    let layout = Layout::new(size.next_multiple_of(512), runs);
    to.write_all_at(&layout.header(backing), 0)?;
    write_table(
        to,
        layout.l1.start,
        layout
            .tables
            .iter()
            .enumerate()
            .map(|(at, entry)| (*entry, ((layout.l2_start + at as u64) * CLUSTER) | COPIED)),
    )?;
    let blocks = layout.refcount_blocks.clone().enumerate();
    write_table(to, layout.refcount_table.start, blocks.map(|(at, block)| (at as u64, block * CLUSTER)))?;
    let ones: Vec<u8> = [0, 1].repeat(layout.end as usize);
    to.write_all_at(&ones, layout.refcount_blocks.start * CLUSTER)?;
    write_clusters(to, &layout, runs, read)?;
    to.set_len(layout.end * CLUSTER)
}

/// Entries of a table that starts at this cluster.
fn write_table(to: &File, start: u64, entries: impl Iterator<Item = (u64, u64)>) -> io::Result<()> {
    for (index, value) in entries {
        to.write_all_at(&value.to_be_bytes(), start * CLUSTER + index * 8)?;
    }
    Ok(())
}

/// The data, and the L2 tables that lead there.
fn write_clusters(
    to: &File,
    layout: &Layout,
    runs: &[Run],
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 256 * CLUSTER as usize];
    let mut next = layout.data_start;
    for run in runs {
        let mut at = run.clusters.start;
        while at < run.clusters.end {
            let in_table = (at / ENTRIES + 1) * ENTRIES;
            let stop = run.clusters.end.min(in_table).min(at + 256);
            let count = stop - at;
            let entries: Vec<u8> = (0..count)
                .flat_map(|n| if run.is_zero { ZERO } else { ((next + n) * CLUSTER) | COPIED }.to_be_bytes())
                .collect();
            let table = layout.tables.binary_search(&(at / ENTRIES)).unwrap_or_default() as u64;
            to.write_all_at(&entries, (layout.l2_start + table) * CLUSTER + at % ENTRIES * 8)?;
            if !run.is_zero {
                let piece = &mut buffer[..(count * CLUSTER) as usize];
                read(piece, at * CLUSTER)?;
                to.write_all_at(piece, next * CLUSTER)?;
                next += count;
            }
            at = stop;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No two parts of an image overlap, and each cluster has its count.
        #[test]
        fn a_layout_holds_all_of_it(lengths in proptest::collection::vec((0u64..3000, 0u64..3000, any::<bool>()), 0..40)) {
            let mut at = 0;
            let mut runs = Vec::new();
            for (gap, length, is_zero) in lengths {
                runs.push(Run { clusters: at + gap..at + gap + length, is_zero });
                at += gap + length;
            }
            let layout = Layout::new(at * CLUSTER, &runs);
            let blocks = layout.refcount_blocks.end - layout.refcount_blocks.start;
            prop_assert!(blocks * COUNTS >= layout.end);
            prop_assert!((layout.refcount_table.end - layout.refcount_table.start) * ENTRIES >= blocks);
            prop_assert!((layout.l1.end - layout.l1.start) * ENTRIES * ENTRIES >= at);
            prop_assert!(layout.tables.is_sorted_by(|one, other| one < other));
            for run in runs.iter().filter(|run| !run.clusters.is_empty()) {
                for cluster in [run.clusters.start, run.clusters.end - 1] {
                    prop_assert!(layout.tables.contains(&(cluster / ENTRIES)));
                }
            }
            prop_assert_eq!(layout.data_start - layout.l2_start, layout.tables.len() as u64);
        }
    }
}
