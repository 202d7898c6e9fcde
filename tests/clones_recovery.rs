//! A real guest computes, and checks what it computed, while the process that serves its memory is killed
//! and the program replaced.

mod common;

use std::process::Command;
use std::time::Duration;

use common::clones::{Captured, mount_for_guests, settle};
use common::computing::Computing;
use common::guest::Backend;
use common::limit::{limit, poll};
use common::mounted::{Mounted, binary};
use common::qemu::ordinary_user;
use rustix::process::{Signal, kill_process};

const TIME: Duration = Duration::from_secs(240);
const KILLS: u32 = 5;

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
    let mut computing = Computing::start(captured.template.restore_as(ordinary_user(), ram, None));
    for number in 1..=KILLS {
        computing.wait_for_rounds();
        if number == KILLS / 2 {
            let upgrade = Command::new(binary()).arg("upgrade").arg(&mounted.mountpoint).status().unwrap();
            assert!(upgrade.success(), "{}", mounted.log());
            computing.wait_for_rounds();
        }
        kill(&mounted);
        computing.add_ballast();
        // Half of the time the kernel alone knows what the guest stored last.
        if number % 2 == 0 {
            settle(&computing.guest, &mounted);
        }
    }
    println!("{} rounds over {KILLS} kills and an upgrade", computing.finish());
    assert_eq!(mounted.log().matches("was taken over from a process that died").count() as u32, KILLS + 1);
    captured.assert_unchanged();
}
