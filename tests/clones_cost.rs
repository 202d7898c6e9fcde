//! Eight real clones, made in two ways: what one guest writes is its own VM's cost, and no other's.
//!
//! TEMPLATEFS_TEST_PICTURES=DIRECTORY: there the README's screen of `top` and docs/map.svg are made anew.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::clones::{TEMPLATING, at_once, digest, eight, mount_for_guests, open_directory, settle};
use common::files::templatefs;
use common::guest::{Backend, Guest, Machine, Template};
use common::limit::limit;
use common::mounted::{Mounted, binary};
use common::qemu::ordinary_user;
use common::terminal::Terminal;
use common::views::views;
use templatefs::inspect::ViewReport;

const TIME: Duration = Duration::from_secs(240);
const MIB: u64 = 1 << 20;
const WRITTEN: u64 = 64 * MIB;
/// Of what is written: the guest's kernel keeps an index of the file, and pages for the commands that write it.
const TOLERANCE: u64 = WRITTEN / 20;
/// What a guest that is left alone may write meanwhile: clock, scheduler, timers. Mostly the same pages.
const IDLE: u64 = 2 * MIB;
/// A file in the guest's memory, of random data.
const WRITE: &str = "for i in $(seq 64); do cat seed; done >big; wc -c <big";
/// One VM of each way.
const COPYING: usize = 1;
const SHARING: usize = 6;

/// The paths and ways of the eight: four that QEMU copies, and four shared, of which two have a name.
fn ram(mounted: &Mounted, number: usize) -> Backend {
    let (view, options) = match number {
        0..4 => (String::new(), TEMPLATING),
        4..6 => (String::new(), "share=on"),
        _ => (format!("view=web-{number}&"), "share=on"),
    };
    Backend::new(mounted.path(&format!("debian/12.ram?rom=off&{view}vm=web-{number}")), options)
}

type Figures = BTreeMap<String, ViewReport>;

/// Each VM's view.
fn figures(mounted: &Mounted) -> Figures {
    let by_vm: Figures = views(mounted)
        .into_iter()
        .map(|view| (view.vm.as_ref().expect("a label").to_string(), view))
        .collect();
    assert_eq!(by_vm.len(), 8, "{by_vm:#?}");
    by_vm
}

/// The same, once what guests stored to shared mappings is written back.
fn settled(mounted: &Mounted, clones: &[Guest]) -> Figures {
    clones[4..].iter().for_each(|guest| settle(guest, mounted));
    figures(mounted)
}

/// What is the VM's own, wherever its pages are.
fn own(view: &ViewReport) -> u64 {
    view.private_bytes + view.cow_anon_bytes.unwrap() + view.cow_swap_bytes.unwrap()
}

fn assert_grew(before: &Figures, after: &Figures, writer: &str) {
    for (vm, view) in after {
        let growth = own(view) as i64 - own(&before[vm]) as i64;
        println!("{vm} grew by {:.2} MiB", growth as f64 / MIB as f64);
        let copied_by_qemu = view.backing == "template";
        assert_eq!(view.private_bytes == 0, copied_by_qemu, "{view:#?}");
        assert_eq!(view.cow_anon_bytes != Some(0), copied_by_qemu, "{view:#?}");
        assert_eq!(view.cost_bytes, view.cached_bytes.map(|cached| cached + own(view)), "{view:#?}");
        if vm == writer {
            assert!(growth.abs_diff(WRITTEN as i64) <= TOLERANCE, "{growth}: {view:#?}");
        } else {
            assert!(growth <= IDLE as i64, "{vm}, while {writer} wrote: {growth}");
        }
    }
}

#[test]
fn what_one_guest_writes_is_its_vms_cost_and_no_others() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let template = Template::make(directory.path(), Machine::ROOMY, None);
    let digest_before = digest(&template.ram);
    let mounted = mount_for_guests(&template, "debian/12.ram");
    let mut clones =
        eight(&template, |number| template.start_as(ordinary_user(), ram(&mounted, number), None));
    // All that writing takes is in memory then, and the guests are past their restoration.
    at_once(clones.iter_mut().collect(), |_, guest: &mut Guest| {
        guest.ok("head -c 1048576 /dev/urandom >seed; cat seed >big; wc -c <big")
    });

    let before = settled(&mounted, &clones);
    assert_eq!(clones[SHARING].ok(WRITE), WRITTEN.to_string());
    let unsettled = figures(&mounted);
    let (old, new) = (&before["web-6"], &unsettled["web-6"]);
    // A page that was stored to is dirty, or written back and then the view's: none is missing.
    let stored = own(new) + new.dirty_bytes.unwrap() - own(old);
    assert!(stored >= WRITTEN - TOLERANCE, "{stored}: {new:#?}");
    assert_eq!(new.cost_bytes, Some(own(new) + new.cached_bytes.unwrap()), "{new:#?}");
    let after = settled(&mounted, &clones);
    assert_grew(&before, &after, "web-6");

    let screen = top_while_it_writes(&mounted, &mut clones[COPYING]);
    let last = settled(&mounted, &clones);
    assert_grew(&after, &last, "web-1");
    let picture = map_of(&mounted, &last["web-6"]);
    assert_eq!(digest(&template.ram), digest_before);
    if let (Some(place), Some(screen)) = (std::env::var_os("TEMPLATEFS_TEST_PICTURES"), screen) {
        std::fs::write(Path::new(&place).join("top.txt"), screen).unwrap();
        std::fs::copy(picture, Path::new(&place).join("map.svg")).unwrap();
    }
}

/// Column `index` of the row of this VM in `top`.
fn cell<'a>(screen: &'a str, vm: &str, index: usize) -> Option<&'a str> {
    let mut rows = screen.lines().map(|line| line.trim_start_matches('>').split_whitespace());
    rows.find_map(|mut row| (row.clone().nth(1) == Some(vm)).then(|| row.nth(index))?)
}

/// A screen of `top` that shows it growing.
fn top_while_it_writes(mounted: &Mounted, guest: &mut Guest) -> Option<String> {
    let Some(terminal) = Terminal::of(100, 15) else {
        guest.ok(WRITE);
        return None;
    };
    const GROWTH: usize = 4;
    const COPIED: usize = 6;
    let directory = mounted.mountpoint.parent().unwrap().display();
    terminal.type_line(&format!("cd {directory}; {} top --interval 1 mnt", binary().display()));
    terminal.wait_for("eight VMs", |screen| (0..8).all(|n| cell(screen, &format!("web-{n}"), 0).is_some()));
    let megabytes = |text: &str| text.strip_suffix('M').and_then(|number| number.parse::<f64>().ok());
    let growing = |screen: &str| {
        let growth = cell(screen, "web-1", GROWTH)?.strip_prefix('+').and_then(megabytes)?;
        (growth > 1.0).then_some(())
    };
    let screen = thread::scope(|scope| {
        let writing = scope.spawn(|| guest.ok(WRITE));
        let screen = terminal.wait_for("growth", |screen| growing(screen).is_some());
        writing.join().unwrap();
        screen
    });
    println!("{screen}");
    let copied = |screen: &str, vm: &str| cell(screen, vm, COPIED).and_then(megabytes).unwrap_or(0.0);
    terminal.wait_for("what was written", |screen| copied(screen, "web-1") > 60.0);
    let rest = terminal.wait_for("rest", |screen| growing(screen).is_none());
    assert!(["web-0", "web-2", "web-3"].iter().all(|vm| copied(&rest, vm) < 16.0), "{rest}");
    terminal.press("q");
    Some(screen)
}

/// A picture of this view.
fn map_of(mounted: &Mounted, view: &ViewReport) -> PathBuf {
    let file = mounted.state.parent().unwrap().join("map.svg");
    let paths: [&OsStr; 3] = [file.as_ref(), mounted.mountpoint.as_ref(), view.id.as_ref()];
    let output = templatefs([OsStr::new("map"), OsStr::new("--svg")].iter().chain(&paths));
    assert!(output.status.success(), "{output:?}");
    let svg = std::fs::read_to_string(&file).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let words: String = document.descendants().filter_map(|node| node.text()).collect();
    assert!(words.contains("view web-6 of debian/12.ram (private, VM web-6): 192 MiB"), "{words}");
    let legend =
        document.descendants().find_map(|node| node.text().filter(|text| text.contains(" private: ")));
    let pages = legend.unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap();
    assert!((pages * 4096).abs_diff(view.private_bytes) <= IDLE, "{legend:?}: {view:#?}");
    file
}
