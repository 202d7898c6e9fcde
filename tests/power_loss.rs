//! The machine goes down. What a kernel has brought to a device is seen by a copy of the device;
//! another start of the machine by processes that are shown another id of it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::child;
use common::disks::Disk;
use common::files::{SOON, opened};
use common::limit::{limit, poll};
use common::maps::Mapping;
use common::mounted::{Mounted, Options, binary, is_mounted, is_root};
use common::random::pattern;

const PAGE: usize = 4096;
const SIZE: usize = 256 * PAGE;

/// Runs `child` on the state directory as after another start of the machine.
fn after_restart(store: &Path, state: &Path, what: &str) {
    let directory = tempfile::Builder::new().prefix("templatefs-test-").tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("boot_id"), "11111111-2222-3333-4444-555555555555\n").unwrap();
    fs::create_dir(at("mnt")).unwrap();
    fs::write(at("store"), store.to_str().unwrap()).unwrap();
    fs::write(at("state"), state.to_str().unwrap()).unwrap();
    let test = child::command(what, directory.path());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"").arg(at("boot_id"));
    command.arg(test.get_program()).args(test.get_args());
    command.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(command.status().expect("unshare (util-linux)").success(), "{what}");
}

/// A process in another start of the machine: mounts what was left, and looks.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Some((what, directory)) = child::asked() else { return };
    let _limit = limit(Duration::from_secs(60));
    let read = |name: &str| PathBuf::from(fs::read_to_string(directory.join(name)).unwrap());
    let mountpoint = directory.join("mnt");
    let mut daemon = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(binary())
        .args(["mount", "--foreground", "--state-dir"])
        .args([read("state"), read("store"), mountpoint.clone()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    poll(SOON, || is_mounted(&mountpoint).then_some(())).expect("a mount");
    match what.as_str() {
        "synced" => assert_synced(&mountpoint),
        "all" => assert!(fs::read(mountpoint.join("t?rom=off&view=a")).unwrap() == stored(0..256)),
        other => panic!("{other}"),
    }
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    let ended = poll(SOON, || daemon.try_wait().unwrap());
    assert!(ended.is_some_and(|status| status.success()));
}

fn template() -> Vec<u8> {
    pattern(1, SIZE)
}

/// The template with these pages written.
fn stored(pages: std::ops::Range<usize>) -> Vec<u8> {
    let mut content = template();
    let bytes = pages.start * PAGE..pages.end * PAGE;
    content[bytes.clone()].copy_from_slice(&pattern(2, SIZE)[bytes]);
    content
}

/// The first half was synced; the rest may have arrived or not, page by page.
fn assert_synced(mountpoint: &Path) {
    let found = fs::read(mountpoint.join("t?rom=off&view=a")).unwrap();
    let (old, new) = (template(), stored(0..256));
    assert!(found[..SIZE / 2] == new[..SIZE / 2], "what was synced is there");
    for page in SIZE / 2 / PAGE..SIZE / PAGE {
        let bytes = page * PAGE..(page + 1) * PAGE;
        assert!(
            found[bytes.clone()] == old[bytes.clone()] || found[bytes.clone()] == new[bytes],
            "page {page}"
        );
    }
    let again = fs::read(mountpoint.join("t?rom=off&view=b")).unwrap();
    assert!(again == old, "a view that holds nothing of another");
}

/// msync returned, and after a power cut the page map could claim pages whose data had not come.
#[test]
fn what_msync_returned_for_is_on_the_device() {
    let _limit = limit(Duration::from_secs(180));
    if !is_root() {
        println!("skipped: only root can mount a disk");
        return;
    }
    for (kind, size) in [("ext4", 64 << 20), ("xfs", 320 << 20)] {
        let disk = match Disk::new(kind, size) {
            Ok(disk) => disk,
            Err(why) => {
                println!("{kind} skipped: {why}");
                continue;
            }
        };
        let options = Options { state: Some(disk.path.join("state")), ..Options::default() };
        let mut mounted = Mounted::start(options);
        mounted.template("t", &template());
        let view = opened(&mounted.path("t?rom=off&view=a"));
        let map = Mapping::shared(&view).unwrap();
        let new = stored(0..256);
        // In an order that is not the file's, in several syncs.
        for part in 0..4 {
            for page in (0..128).rev().filter(|page| page % 4 == part) {
                map.write(page * PAGE, &new[page * PAGE..][..PAGE]);
            }
            map.sync(0, SIZE / 2).unwrap();
        }
        let synced = disk.after_power_cut();
        map.write(SIZE / 2, &new[SIZE / 2..]);
        let later = disk.after_power_cut();
        drop((view, map));
        mounted.kill();
        drop(disk);
        for image in [synced, later] {
            let left = image.mount();
            after_restart(&mounted.store, &left.path.join("state"), "synced");
        }
    }
}

/// Whoever unmounts loses nothing to the restart that follows, synced or not.
#[test]
fn what_was_unmounted_is_there_after_a_restart() {
    let _limit = limit(Duration::from_secs(60));
    if !is_root() {
        println!("skipped: only root can show a process another start of the machine");
        return;
    }
    let mut mounted = Mounted::start(Options::default());
    mounted.template("t", &template());
    fs::write(mounted.path("t?rom=off&view=a"), stored(0..256)).unwrap();
    assert!(mounted.stop().success());
    after_restart(&mounted.store, &mounted.state, "all");
}
