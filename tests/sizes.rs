//! Files of sizes at which a 32-bit number, a page or a disk would end.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use common::limit::limit;
use common::maps::Mapping;
use common::mounted::{Mounted, Options, again_as_ordinary_user};
use common::sparse::sparse_template;

const PAGE: u64 = 4096;
const SIZES: [u64; 7] =
    [(1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 40];

#[test]
fn views_of_large_sparse_templates_work_at_both_ends() {
    let _limit = limit(Duration::from_secs(120));
    let mut mounted = Mounted::start(Options::default());
    for size in SIZES {
        let template = sparse_template(&mounted, "t", size, &[(0, b"start"), (size - 3, b"end")]);
        check_rom(&mounted.path("t"), size);
        let path = mounted.path(&format!("t?rom=off&view=v{size}"));
        check_view(&path, size);
        assert_unchanged(&template, size);
        assert!(mounted.stop().success());
        mounted.mount();
        let view = File::open(&path).unwrap();
        assert_eq!(view.metadata().unwrap().len(), size + PAGE + 3, "{size}");
        assert_eq!(bytes_at::<4>(&view, size - 4), *b"new!", "{size}");
        assert_eq!(bytes_at::<3>(&view, size + PAGE), *b"far", "{size}");
        assert_eq!(seek(&view, SeekFrom::Data(2 * PAGE)), Ok((size - 4) / PAGE * PAGE), "{size}");
    }
}

#[test]
fn views_of_large_sparse_templates_work_at_both_ends_for_an_ordinary_user() {
    let _limit = limit(Duration::from_secs(120));
    again_as_ordinary_user("views_of_large_sparse_templates_work_at_both_ends");
}

fn check_rom(path: &Path, size: u64) {
    let rom = File::open(path).unwrap();
    assert_eq!(rom.metadata().unwrap().len(), size);
    assert_eq!(bytes_at::<3>(&rom, size - 3), *b"end", "{size}");
    assert_eq!(rom.read_at(&mut [0; 8], size).unwrap(), 0);
    // Only what the store's filesystem calls data: a page or a little more at each end.
    let data = seek(&rom, SeekFrom::Data(1 << 20)).unwrap();
    assert!(data > size - (1 << 20), "{size}: data at {data}");
}

fn check_view(path: &Path, size: u64) {
    let view = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let blocks = || view.metadata().unwrap().blocks();
    assert_eq!((view.metadata().unwrap().len(), blocks()), (size, 0));
    assert_eq!(bytes_at::<5>(&view, 0), *b"start");
    view.write_all_at(b"new!", size - 4).unwrap();
    assert_eq!(bytes_at::<4>(&view, size - 4), *b"new!", "{size}");
    let last_pages = (size - 1) / PAGE - (size - 4) / PAGE + 1;
    assert_eq!(blocks(), last_pages * PAGE / 512, "{size}");

    // Through memory, which ends in the middle of a page.
    let start = (size - 5) / PAGE * PAGE;
    let map = Mapping::shared_part(&view, start, (size - start) as usize).unwrap();
    assert_eq!(map.read((size - 4 - start) as usize, 4), b"new!");
    map.write((size - 5 - start) as usize, b"<");
    map.sync(0, map.len()).unwrap();
    assert_eq!(bytes_at::<5>(&view, size - 5), *b"<new!", "{size}");

    assert!(seek(&view, SeekFrom::Data(1 << 20)).unwrap() > size - (1 << 20));
    assert_eq!(seek(&view, SeekFrom::Data(size)), Err(Errno::NXIO));
    assert_eq!(seek(&view, SeekFrom::End(0)), Ok(size));

    view.write_all_at(b"far", size + PAGE).unwrap();
    assert_eq!(view.metadata().unwrap().len(), size + PAGE + 3);
    assert_eq!(bytes_at::<8>(&view, size), [0; 8], "{size}");
    assert!(blocks() <= 5 * PAGE / 512, "{size}: {} blocks", blocks());
    map.write((size - 5 - start) as usize, b"\0");
}

fn assert_unchanged(template: &Path, size: u64) {
    let file = File::open(template).unwrap();
    assert_eq!(fs::metadata(template).unwrap().len(), size);
    assert_eq!(bytes_at::<5>(&file, 0), *b"start");
    assert_eq!(bytes_at::<5>(&file, size - 5), *b"\0\0end");
}

fn bytes_at<const N: usize>(file: &File, at: u64) -> [u8; N] {
    let mut bytes = [0xEE; N];
    file.read_exact_at(&mut bytes, at).unwrap_or_else(|error| panic!("{N} bytes at {at}: {error}"));
    bytes
}
