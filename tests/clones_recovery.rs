//! A real guest computes, and checks what it computed, while the process that serves its memory is killed
//! and the program replaced.

mod common;

use std::process::Command;
use std::time::Duration;

use common::clones::{Captured, mount_for_guests, settle};
use common::guest::{Backend, Guest};
use common::limit::{limit, poll};
use common::mounted::{Mounted, binary};
use common::qemu::ordinary_user;
use rustix::process::{Signal, kill_process};

const TIME: Duration = Duration::from_secs(240);
const KILLS: u32 = 5;

/// Writes data that never was before, copies it through the guest's memory and compares; goes on until
/// there is a file `stop`.
const COMPUTE: &str = "(n=0; until [ -e stop ]; do head -c 500000 /dev/urandom >a; md5sum <a >sum; cp a b; \
                       md5sum <b | cmp -s - sum && cmp -s a b || echo $n >>lost; n=$((n+1)); echo $n >new; \
                       mv new rounds; done; echo done >done) >/dev/null 2>&1 &";

fn rounds(guest: &mut Guest) -> u64 {
    guest.ok("cat rounds").parse().unwrap()
}

/// The guest has computed for some time since.
fn wait_for_rounds(guest: &mut Guest) {
    let before = rounds(guest);
    assert!(poll(TIME, || (rounds(guest) > before + 2).then_some(())).is_some(), "it does not go on");
}

/// Memory that the guest has not touched yet becomes a file of its own.
fn add_ballast(guest: &mut Guest, number: u32) {
    guest.ok(&format!("head -c 3000000 /dev/urandom >ballast{number}; md5sum ballast{number} >>ballast"));
}

fn kill(mounted: &Mounted) {
    let old = mounted.serving();
    kill_process(old, Signal::KILL).unwrap();
    assert!(poll(TIME, || (mounted.serving() != old).then_some(())).is_some(), "{}", mounted.log());
}

#[test]
fn a_guest_computes_on_over_kills_and_an_upgrade_and_loses_nothing() {
    let _limit = limit(TIME);
    let captured = Captured::get();
    let mounted = mount_for_guests(&captured.template, "ram");
    let ram = Backend::new(mounted.path("ram?rom=off&vm=computes"), "share=on");
    let mut guest = captured.template.restore_as(ordinary_user(), ram, None);
    add_ballast(&mut guest, 0);
    guest.ok(COMPUTE);
    assert!(poll(TIME, || (guest.sh("cat rounds").0 == 0).then_some(())).is_some(), "it does not begin");
    for number in 1..=KILLS {
        wait_for_rounds(&mut guest);
        if number == KILLS / 2 {
            let upgrade = Command::new(binary()).arg("upgrade").arg(&mounted.mountpoint).status().unwrap();
            assert!(upgrade.success(), "{}", mounted.log());
            wait_for_rounds(&mut guest);
        }
        kill(&mounted);
        add_ballast(&mut guest, number);
        // Half of the time the kernel alone knows what the guest stored last.
        if number % 2 == 0 {
            settle(&guest, &mounted);
        }
    }
    wait_for_rounds(&mut guest);
    guest.ok("touch stop");
    assert!(poll(TIME, || (guest.sh("[ -e done ]").0 == 0).then_some(())).is_some(), "it does not end");
    println!("{} rounds over {KILLS} kills and an upgrade", rounds(&mut guest));
    let (code, lost) = guest.sh("cat lost");
    assert_ne!(code, 0, "rounds in which memory was lost: {lost}");
    assert_eq!(guest.ok("md5sum -c ballast | grep -c OK"), (KILLS + 1).to_string());
    guest.ok("md5sum </bin/busybox");
    assert_eq!(mounted.log().matches("was taken over from a process that died").count() as u32, KILLS + 1);
    captured.assert_unchanged();
}
