//! `templatefs map` on a real mount: a known pattern of pages as text, SVG and PNG.

mod common;

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user, binary};
use rustix::fs::{FallocateFlags, fallocate};

const PAGE: usize = 4096;
const PAGES: usize = 256;

const PRIVATE: [Range<usize>; 2] = [0..16, 70..71];
const PUNCHED: Range<usize> = 128..160;

fn mounted() -> Mounted {
    let mounted = Mounted::start(Options::default());
    mounted.template("debian/12.ram", &vec![1; PAGES * PAGE]);
    mounted
}

/// A view named `v` with the pattern, held open.
fn patterned(mounted: &Mounted) -> File {
    let view =
        File::options().read(true).write(true).open(mounted.path("debian/12.ram?rom=off&view=v")).unwrap();
    for run in PRIVATE {
        view.write_all_at(&vec![7; run.len() * PAGE], (run.start * PAGE) as u64).unwrap();
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&view, flags, (PUNCHED.start * PAGE) as u64, (PUNCHED.len() * PAGE) as u64).unwrap();
    view
}

/// In a window in which a cell is a page and a row 64 of them.
fn map(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("map").args(arguments).env("COLUMNS", "79").env("LINES", "26").output().unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = map(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The characters of the cells, in order.
fn cells(text: &str) -> Vec<char> {
    let rows = text.lines().skip(3).take_while(|line| !line.is_empty());
    rows.flat_map(|row| row.chars().skip(14).collect::<Vec<_>>()).collect()
}

fn expected(page: usize) -> char {
    match page {
        _ if PRIVATE.iter().any(|run| run.contains(&page)) => '█',
        _ if PUNCHED.contains(&page) => 'O',
        _ => '·',
    }
}

#[test]
fn a_known_pattern_is_drawn_page_by_page() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let view = patterned(&mounted);
    let mountpoint = mounted.mountpoint.to_str().unwrap();
    let drawn = text(&[mountpoint, "v"]);
    assert!(drawn.starts_with("view v of debian/12.ram (private): 1.0 MiB\n"), "{drawn}");
    assert!(drawn.contains("\na cell is 1 page (4 KiB), a row 64 cells (256 KiB)\n"), "{drawn}");
    assert_eq!(cells(&drawn), (0..PAGES).map(expected).collect::<Vec<_>>(), "{drawn}");
    for line in [
        "         207   828 KiB  the template's",
        "          17    68 KiB  private",
        "          32   128 KiB  punched",
    ] {
        assert!(drawn.contains(line), "{line}: {drawn}");
    }
    assert!(!drawn.contains('\x1b'), "no colour where it is not a terminal");
    let by_path = mounted.path("debian/12.ram?rom=off&view=v");
    assert_eq!(text(&[by_path.to_str().unwrap()]), drawn);
    let by_directory = mounted.path(".templatefs/views/v");
    assert_eq!(text(&[by_directory.to_str().unwrap()]), drawn);
    drop(view);
    assert_eq!(text(&[mountpoint, "v"]), drawn, "a view that nobody has open is drawn as well");
}

#[test]
fn as_an_ordinary_user_it_is_drawn_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_known_pattern_is_drawn_page_by_page");
}

#[test]
fn what_a_private_mapping_copied_and_what_it_has_in_memory_is_drawn() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let file = File::open(mounted.path("debian/12.ram?rom=off")).unwrap();
    // SAFETY: nobody truncates the template; the mapping is private.
    let mut map = unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() };
    let copied = [3, 5, 200];
    for page in copied {
        map[page * PAGE] = 9;
    }
    let sum: u32 = (0..16).map(|page| u32::from(map[page * PAGE])).sum();
    assert_eq!(sum, 14 + 2 * 9);
    let id = format!("@{}", file.metadata().unwrap().ino());
    let resident = fs::read_to_string(mounted.path(".templatefs/views").join(&id).join("resident")).unwrap();
    if resident.starts_with("unknown") {
        println!("skipped: this kernel has no PAGEMAP_SCAN (Linux 6.7)");
        return;
    }
    for line in ["3 1 copied", "5 1 copied", "200 1 copied"] {
        assert!(resident.lines().any(|found| found == line), "{resident}");
    }
    let drawn = text(&[mounted.mountpoint.to_str().unwrap(), &id]);
    let cells = cells(&drawn);
    let copies: Vec<usize> = (0..PAGES).filter(|page| cells[*page] == '#').collect();
    assert_eq!(copies, copied, "{drawn}");
    assert!((0..16).all(|page| copied.contains(&page) || cells[page] == ':'), "{drawn}");
    assert!(drawn.contains("           3    12 KiB  copied"), "{drawn}");
}

#[test]
fn the_svg_is_well_formed_and_has_the_right_rectangles() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let _view = patterned(&mounted);
    let file = mounted.state.parent().unwrap().join("v.svg");
    let drawn = text(&[mounted.mountpoint.to_str().unwrap(), "v", "--svg", file.to_str().unwrap()]);
    assert_eq!(drawn, "");
    let svg = fs::read_to_string(&file).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
    let size: Vec<f64> = root.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    let group = root.children().find(|node| node.attribute("id") == Some("cells")).unwrap();
    let rects: Vec<_> = group.children().filter(|node| node.has_tag_name("rect")).collect();
    let number = |node: &roxmltree::Node, name| node.attribute(name).unwrap().parse::<usize>().unwrap();
    let (left, top) = (number(&rects[0], "x"), number(&rects[0], "y"));
    let mut found = vec![None; PAGES];
    for rect in &rects {
        assert!((number(rect, "x") + number(rect, "width")) as f64 <= size[2]);
        assert!((number(rect, "y") + number(rect, "height")) as f64 <= size[3]);
        let first = (number(rect, "y") - top) / 8 * 128 + (number(rect, "x") - left) / 8;
        for cell in &mut found[first..first + number(rect, "width") / 8] {
            assert!(cell.replace(rect.attribute("fill").unwrap()).is_none(), "each page is drawn once");
        }
    }
    for (page, colour) in found.into_iter().enumerate() {
        let wanted = match expected(page) {
            '█' => "#9a3f00",
            'O' => "#0c6b64",
            _ => "#e8eaed",
        };
        assert_eq!(colour, Some(wanted), "page {page}");
    }
    // 0..16, to 70, the page, to 128; 128..160, to the end: equal neighbours are one.
    assert_eq!(rects.len(), 6);
    let words: String = document.descendants().filter_map(|node| node.text()).collect();
    for part in ["view v of debian/12.ram", "a cell is 1 page (4 KiB)", "punched"] {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[test]
fn the_png_has_the_right_pixels() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let _view = patterned(&mounted);
    let output = map(&[mounted.mountpoint.to_str().unwrap(), "v", "--png", "-"]);
    assert!(output.status.success());
    let mut decoder = png::Decoder::new(std::io::Cursor::new(output.stdout));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (128 * 8, 2 * 8));
    assert_eq!(info.color_type, png::ColorType::Rgb);
    for page in 0..PAGES {
        let (x, y) = (page % 128 * 8 + 4, page / 128 * 8 + 4);
        let pixel = &pixels[(y * info.width as usize + x) * 3..][..3];
        let wanted = match expected(page) {
            '█' => [0x9a, 0x3f, 0x00],
            'O' => [0x0c, 0x6b, 0x64],
            _ => [0xe8, 0xea, 0xed],
        };
        assert_eq!(pixel, wanted, "page {page}");
    }
}

/// How often the daemon has looked at all processes.
fn looks(mounted: &Mounted) -> usize {
    mounted.log().matches("looked at all processes").count()
}

#[test]
fn a_templates_heat_is_how_many_views_own_the_same_pages() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let open = |id: &str| {
        let path = mounted.path(&format!("debian/12.ram?rom=off&view={id}"));
        File::options().read(true).write(true).open(path).unwrap()
    };
    let views: Vec<File> = ["a", "b", "c", "d"].map(open).into();
    for (index, view) in views.iter().enumerate() {
        // Pages 32..40 in all four; 100 + index in one each.
        view.write_all_at(&[7; 8 * PAGE], 32 * PAGE as u64).unwrap();
        view.write_all_at(&[7; PAGE], ((100 + index) * PAGE) as u64).unwrap();
    }
    views[0].write_all_at(&[7; 2 * PAGE], 64 * PAGE as u64).unwrap();
    views[1].write_all_at(&[7; 2 * PAGE], 64 * PAGE as u64).unwrap();
    let mountpoint = mounted.mountpoint.to_str().unwrap();
    let before = looks(&mounted);
    let drawn = text(&["--template", "debian/12.ram", mountpoint]);
    assert_eq!(looks(&mounted) - before, 2, "one for the list of views, one for the pages of all");
    assert!(drawn.starts_with("template debian/12.ram: 1.0 MiB, 4 views\n"), "{drawn}");
    let heat = |page: usize| match page {
        32..40 => '█',
        64 | 65 => '▒',
        100..104 => '░',
        _ => '·',
    };
    assert_eq!(cells(&drawn), (0..PAGES).map(heat).collect::<Vec<_>>(), "{drawn}");
    let tail: Vec<Vec<&str>> =
        drawn.lines().rev().take(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(tail[1], ["0x20000", "32", "KiB", "4", "of", "4", "96", "KiB"]);
    assert_eq!(tail[0], ["0x40000", "8.0", "KiB", "2", "of", "4", "8.0", "KiB"]);
    let svg = text(&["--template", "debian/12.ram", mountpoint, "--svg", "-"]);
    assert!(roxmltree::Document::parse(&svg).is_ok() && svg.contains("#800026"));
}

/// A view of a sparse terabyte is drawn from its runs.
#[test]
fn a_sparse_terabyte_is_drawn_at_once() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let file = File::create(mounted.store.join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let view = File::options().read(true).write(true).open(mounted.path("huge?rom=off&view=h")).unwrap();
    view.write_all_at(&[1], 1 << 39).unwrap();
    let drawn = text(&[mounted.mountpoint.to_str().unwrap(), "h"]);
    assert!(drawn.contains("a cell is 262144 pages (1 GiB), a row 64 cells (64 GiB)"), "{drawn}");
    assert_eq!(cells(&drawn).iter().position(|cell| *cell == '░'), Some(512), "{drawn}");
    let svg = text(&[mounted.mountpoint.to_str().unwrap(), "h", "--svg", "-"]);
    assert!(svg.len() < 64 << 10, "{}", svg.len());
}

#[test]
fn what_is_no_view_is_refused_in_one_line() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = mounted();
    let mountpoint = mounted.mountpoint.to_str().unwrap();
    let rom = mounted.path("debian/12.ram");
    for (arguments, words) in [
        (vec![mountpoint, "none"], "there is no view none"),
        (vec!["no-such-view-anywhere"], "on any mount"),
        (vec![rom.to_str().unwrap()], "names no view"),
        (vec!["/proc/self/maps"], "not on a mount of templatefs"),
        (vec!["/proc", "v"], "no templatefs is mounted there"),
        (vec!["--template", "debian/12.ram", mountpoint], "no view of a template"),
    ] {
        let output = map(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(words) && message.lines().count() == 1, "{arguments:?}: {message}");
    }
    let _view = patterned(&mounted);
    let output = map(&[mountpoint, "v", "--svg", "/nonexistent/v.svg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!Path::new("/nonexistent").exists());
}
