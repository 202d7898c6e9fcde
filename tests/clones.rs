//! Real guests through a real mount: eight clones of one template at a time, for each way in which QEMU may
//! open its memory, and the template is what it was.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::Duration;

use common::clones::{
    CLONES, Captured, TEMPLATING, assert_keeps_its_data, assert_nvdimm_is_rom, at_once, digest, eight,
    mount_for_guests, nvdimm_image, open_directory, publish, settle, work, work_all,
};
use common::guest::{Backend, Guest, Machine, Template};
use common::limit::{limit, poll};
use common::mounted::{Mounted, Options, is_root};
use common::qemu::{id_of, ordinary_user};
use common::views::{view, views};
use rustix::process::{Signal, kill_process};
use templatefs::inspect::ViewReport;
use templatefs::name::Label;

const TIME: Duration = Duration::from_secs(240);
/// The ways to open a private view, for tests in which clones of all ways run beside each other.
const WAYS: [&str; 3] = [TEMPLATING, "share=on", "share=off,readonly=off"];
const RAM: u64 = Machine::SMALL.ram_mib << 20;

/// Eight clones with RAM at these paths of the mount.
fn clones(
    mounted: &Mounted,
    captured: &Captured,
    path: impl Fn(usize) -> String,
    options: impl Fn(usize) -> &'static str,
) -> Vec<Guest> {
    let template = &captured.template;
    let ram = |number| Backend::new(mounted.path(&path(number)), options(number));
    eight(template, |number| template.start_as(ordinary_user(), ram(number), None))
}

/// The clones' views: one each, with its QEMU and nobody else as opener.
fn views_of(mounted: &Mounted, clones: &[Guest]) -> Vec<ViewReport> {
    let mut views = views_once(mounted, 1);
    let pids: Vec<u32> = clones.iter().map(|guest| guest.qemu.pid()).collect();
    let number = |view: &ViewReport| pids.iter().position(|pid| *pid == view.processes[0].pid);
    views.sort_by_key(number);
    let numbers: Vec<_> = views.iter().map(number).collect();
    assert_eq!(numbers, (0..clones.len()).map(Some).collect::<Vec<_>>(), "{views:#?}");
    assert!(views.iter().all(|view| view.processes[0].comm.starts_with("qemu-system")), "{views:#?}");
    views
}

/// All views, once each has so many openers: a close is told to the daemon a little later.
fn views_once(mounted: &Mounted, openers: usize) -> Vec<ViewReport> {
    let settled = || Some(views(mounted)).filter(|all| all.iter().all(|view| view.opens == openers as u64));
    poll(TIME, settled).unwrap_or_else(|| panic!("{:#?}", views(mounted)))
}

fn assert_no_view_is_left(mounted: &Mounted) {
    let gone = poll(TIME, || views(mounted).is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", views(mounted));
    let files =
        poll(TIME, || fs::read_dir(mounted.state.join("views")).unwrap().next().is_none().then_some(()));
    assert!(files.is_some());
}

#[test]
fn templating_clones_read_the_template_itself_and_outlive_the_daemon() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mut mounted = mount_for_guests(&captured.template, "ram");
    let mut clones = clones(&mounted, captured, |n| format!("ram?rom=off&vm=web-{n}"), |_| TEMPLATING);
    work_all(&mut clones);
    for (number, view) in views_of(&mounted, &clones).iter().enumerate() {
        assert_eq!(view.vm.as_ref().map(Label::as_str), Some(&*format!("web-{number}")));
        assert_eq!((&*view.kind, &*view.backing, &*view.template), ("private", "template", "ram"));
        assert_eq!((view.size_bytes, view.private_bytes, view.zero_bytes), (RAM, 0, 0));
        assert!(!view.processes[0].writable);
    }
    if !is_root() {
        println!("skipped: without passthrough the daemon must live");
        return;
    }
    kill_process(mounted.daemon(), Signal::KILL).unwrap();
    mounted.wait();
    // It was in the template all along, and most of it in no clone's memory yet.
    let sums = at_once(clones.iter_mut().collect(), |_, guest| guest.ok("md5sum </bin/busybox"));
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    at_once(clones.iter_mut().collect(), |number, guest| assert_keeps_its_data(guest, number));
    at_once(clones.iter_mut().collect(), |number, guest| work(guest, CLONES + number));
    captured.assert_unchanged();
}

#[test]
fn shared_clones_each_have_a_view_of_their_own_that_goes_with_them() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let mut clones = clones(&mounted, captured, |n| format!("ram?rom=off,vm=web-{n}"), |_| "share=on");
    work_all(&mut clones);
    clones.iter().for_each(|guest| settle(guest, &mounted));
    for (number, view) in views_of(&mounted, &clones).iter().enumerate() {
        assert_eq!(view.vm.as_ref().map(Label::as_str), Some(&*format!("web-{number}")));
        assert!(view.id.starts_with('@'), "{view:?}");
        assert_eq!((&*view.kind, &*view.backing, &*view.template), ("private", "overlay", "ram"));
        // The guest wrote 2.7 MB, and its kernel a little.
        assert!((2 << 20..RAM / 2).contains(&view.private_bytes), "{view:?}");
        assert!(view.processes[0].writable);
        if let Some(user) = ordinary_user() {
            assert_eq!(
                (Some(view.uid), view.processes[0].uid),
                (Some(id_of(user, "-u")), Some(id_of(user, "-u")))
            );
        }
    }
    drop(clones);
    assert_no_view_is_left(&mounted);
    captured.assert_unchanged();
}

#[test]
fn clones_copy_pages_of_a_writable_view_themselves_where_share_is_off() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let mut clones = clones(&mounted, captured, |_| "ram?rom=off".to_owned(), |_| "share=off,readonly=off");
    work_all(&mut clones);
    for view in views_of(&mounted, &clones) {
        assert_eq!((&*view.backing, view.private_bytes), ("overlay", 0));
    }
    drop(clones);
    assert_no_view_is_left(&mounted);
    captured.assert_unchanged();
}

/// A named view holds a VM's memory while there is neither a VM nor a daemon.
#[test]
fn clones_with_named_views_are_put_to_sleep_and_wake_after_a_restart() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mut mounted = mount_for_guests(&captured.template, "ram");
    let path = |number| format!("ram?rom=off&view=vm-{number}&vm=web-{number}");
    let mut awake = clones(&mounted, captured, path, |_| "share=on");
    work_all(&mut awake);
    for (number, view) in views_of(&mounted, &awake).iter().enumerate() {
        assert_eq!(view.id, format!("vm-{number}"));
        assert_eq!(view.vm.as_ref().map(Label::as_str), Some(&*format!("web-{number}")));
    }
    let states = open_directory();
    fs::set_permissions(states.path(), Permissions::from_mode(0o777)).unwrap();
    let state = |number: usize| states.path().join(number.to_string());
    at_once(awake, |number, guest| guest.capture(&state(number)));

    for number in 0..CLONES {
        let ram = fs::read(mounted.path(&path(number))).unwrap();
        let found = |clone: usize| {
            let written = format!("clone {clone}\n").repeat(512);
            ram.chunks(4096).filter(|page| *page == written.as_bytes()).count()
        };
        // The guest's files of 2.7 MB.
        assert!(found(number) > 600, "{} pages", found(number));
        assert_eq!(found((number + 1) % CLONES), 0);
    }
    let ageless = |mut views: Vec<ViewReport>| {
        views.iter_mut().for_each(|view| view.age_seconds = 0.0);
        views
    };
    let before = ageless(views_once(&mounted, 0));
    assert!(before.iter().all(|view| view.private_bytes > 2 << 20), "{before:#?}");
    assert!(mounted.stop().success());
    mounted.mount();
    assert_eq!(ageless(views(&mounted)), before);

    let template = &captured.template;
    let ram = |number| Backend::new(mounted.path(&path(number)), "share=on");
    let start = |number| template.start_as(ordinary_user(), ram(number), None);
    let mut clones =
        at_once((0..CLONES).map(start).collect(), |number, restoring| restoring.restore_from(&state(number)));
    at_once(clones.iter_mut().collect(), |number, guest| {
        assert_keeps_its_data(guest, number);
        work(guest, CLONES + number);
    });
    captured.assert_unchanged();
}

#[test]
fn clones_share_a_read_only_nvdimm_that_none_can_write() {
    let _limit = limit(TIME);
    let directory = open_directory();
    let disk = nvdimm_image(directory.path());
    let template = Template::make(directory.path(), Machine::WITH_NVDIMM, Some(&disk));
    let mounted = mount_for_guests(&template, "ram");
    publish(&mounted, &disk, "disk");
    let before = (digest(&template.ram), digest(&disk));
    let options = ["share=on,readonly=on", "share=off,readonly=on,rom=on"];
    let clones = eight(&template, |number| {
        let ram = Backend::new(mounted.path("ram?rom=off"), TEMPLATING);
        let nvdimm = Backend::new(mounted.path("disk"), options[number % 2]);
        template.start_as(ordinary_user(), ram, Some(nvdimm))
    });
    at_once(clones, |number, mut guest| {
        assert_nvdimm_is_rom(&mut guest, "templatetemplate");
        work(&mut guest, number);
    });
    assert_eq!((digest(&template.ram), digest(&disk)), before);
}

#[test]
fn a_template_is_authored_through_the_mount_and_cloned_from_it() {
    let _limit = limit(TIME);
    let arguments: &[_] =
        if is_root() { &["--allow-other", "--allow-template-writes"] } else { &["--allow-template-writes"] };
    let mounted = Mounted::start(Options::with(arguments));
    let directory = open_directory();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let file = mounted.store.join("ram");
    File::create(&file).unwrap().set_len(RAM).unwrap();
    if let Some(user) = ordinary_user() {
        chown(&file, Some(id_of(user, "-u")), None).unwrap();
    }
    let path = mounted.path("ram?share=on&readonly=off");
    let template = Template::author(ordinary_user(), directory.path(), Machine::SMALL, path, None);
    fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
    let before = digest(&file);
    // The last RELEASE comes after QEMU is gone, and until then the template has a writer.
    let free = poll(TIME, || File::open(mounted.path("ram")).ok());
    assert!(free.is_some(), "{}", mounted.log());
    let mut clones = eight(&template, |number| {
        let ram = Backend::new(mounted.path("ram?rom=off"), WAYS[number % WAYS.len()]);
        template.start_as(ordinary_user(), ram, None)
    });
    work_all(&mut clones);
    assert_eq!(digest(&file), before);
}

/// Without passthrough, and without any privilege: fusermount3 mounts, and QEMU runs as the same user.
#[test]
fn clones_run_on_an_ordinary_users_own_mount() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = Mounted::start(ordinary_user().map_or_else(Options::default, Options::as_user));
    publish(&mounted, &captured.template.ram, "ram");
    let path = |number| format!("ram?rom=off&vm=web-{number}");
    let mut clones = clones(&mounted, captured, path, |number| WAYS[number % WAYS.len()]);
    work_all(&mut clones);
    for (number, view) in views_of(&mounted, &clones).iter().enumerate() {
        let copied_by_qemu = WAYS[number % WAYS.len()] == TEMPLATING;
        assert_eq!(view.backing, if copied_by_qemu { "template" } else { "overlay" });
        assert_eq!(view.processes[0].writable, !copied_by_qemu);
    }
    drop(clones);
    assert_no_view_is_left(&mounted);
    captured.assert_unchanged();
}

#[test]
fn memory_that_a_guest_gives_back_leaves_its_view() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let path = mounted.path("ram?rom=off&view=vm");
    let data = mounted.state.join("views/n-vm.data");
    let cost = || {
        File::open(&path).unwrap().sync_all().unwrap();
        // The guest goes on writing between two looks: they agree once it paused.
        let agree = || {
            let (view, stat) = (view(&mounted, "vm"), fs::metadata(&path).unwrap());
            (stat.blocks() * 512 == view.private_bytes).then_some(view)
        };
        let view = poll(TIME, agree).expect("stat and views never agree");
        (view, fs::metadata(&data).unwrap().blocks() * 512)
    };
    let ram = Backend::new(&path, "share=on,discard-data=on");
    let mut guest = captured.template.restore_as(ordinary_user(), ram, None);
    guest.ok("head -c 20000000 /dev/zero | tr '\\0' x >big; rm big");
    let (before, blocks_before) = cost();
    assert!(before.private_bytes > 18 << 20 && blocks_before > 18 << 20, "{before:?}, {blocks_before}");

    guest.balloon(Machine::SMALL.ram_mib - 24);
    let (inflated, blocks_inflated) = cost();
    println!("{before:?} {blocks_before}\n{inflated:?} {blocks_inflated}");
    assert!(inflated.private_bytes + (12 << 20) < before.private_bytes, "{inflated:?}");
    assert!(blocks_inflated + (12 << 20) < blocks_before, "{blocks_inflated}");
    guest.balloon(Machine::SMALL.ram_mib);
    work(&mut guest, 0);

    guest.qemu.quit();
    let (quit, blocks_quit) = cost();
    println!("{quit:?} {blocks_quit}");
    assert_eq!((quit.private_bytes, blocks_quit), (0, 0));
    assert!(quit.zero_bytes > 0);
    assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0), "a discarded page shows the template");
    captured.assert_unchanged();
}

/// Nothing of these is served by the daemon, which may as well be dead.
#[test]
fn clones_in_memory_of_their_own_outlive_the_daemon() {
    let _limit = limit(TIME);
    if !is_root() {
        println!("skipped: views in memory need root");
        return;
    }
    let captured = &Captured::get();
    let mut mounted = mount_for_guests(&captured.template, "ram");
    drop(File::open(mounted.path("ram")).unwrap());
    if mounted.log().contains("read through the daemon") {
        println!("skipped: views in memory need Linux 6.9");
        return;
    }
    let path = |n| format!("ram?rom=off&backing=memory&vm=web-{n}");
    let way = |n| if n % 2 == 0 { "share=on" } else { "share=off,readonly=off" };
    let mut clones = clones(&mounted, captured, path, way);
    for view in views_of(&mounted, &clones) {
        assert_eq!((&*view.kind, &*view.backing, view.size_bytes), ("private", "memory", RAM));
        // What of the template is not zeros, and what the guest did since.
        let (private, data) = (view.private_bytes, view.data_bytes.unwrap());
        assert!(private > data / 2 && private <= RAM, "{view:?}");
    }
    at_once(clones.iter_mut().collect(), |number, guest| work(guest, number));
    kill_process(mounted.daemon(), Signal::KILL).unwrap();
    mounted.wait();
    at_once(clones.iter_mut().collect(), |number, guest| assert_keeps_its_data(guest, number));
    at_once(clones.iter_mut().collect(), |number, guest| work(guest, CLONES + number));
    captured.assert_unchanged();
}

/// For a VMM that opens a path of its own choice for writing, as Kata Containers' templates are: the path is a link
/// to one view, into which nobody writes, and whose pages all clones share.
#[test]
fn clones_of_a_vmm_with_a_path_of_its_own_share_one_view() {
    let _limit = limit(TIME);
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let directory = open_directory();
    let link = directory.path().join("memory");
    symlink(mounted.path("ram?rom=off&view=template"), &link).unwrap();
    let ram = || Backend::new(&link, "share=off,readonly=off");
    let start = |_| captured.template.start_as(ordinary_user(), ram(), None);
    let mut clones =
        at_once((0..2).map(start).collect(), |_, restoring| restoring.restore_from(&captured.template.state));
    work_all(&mut clones);
    let view = view(&mounted, "template");
    assert_eq!((view.opens, view.private_bytes, views(&mounted).len()), (2, 0, 1), "{view:?}");
    captured.assert_unchanged();
}

/// `readonly=off`: for whoever may write the template file, as in QEMU. Nothing is written to it.
#[test]
fn whoever_may_write_a_template_may_clone_it_with_readonly_off() {
    let _limit = limit(TIME);
    if !is_root() {
        println!("skipped: nobody but root may write a template of mode 0444");
        return;
    }
    let captured = &Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let start = |options: &&'static str| {
        captured.template.start_as(
            None,
            Backend::new(mounted.path("ram?rom=off&readonly=off"), options),
            None,
        )
    };
    let mut clones = at_once(WAYS[1..].iter().map(start).collect(), |_, restoring| {
        restoring.restore_from(&captured.template.state)
    });
    work_all(&mut clones);
    captured.assert_unchanged();
}
