//! One mount, as root and as an ordinary user: the shortest way to see that it works at all.

mod common;

use std::fs;
use std::time::Duration;

use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user};

#[test]
fn a_mount_shows_rom_and_private_views() {
    let _limit = limit(Duration::from_secs(60));
    let mut mounted = Mounted::start(Options::default());
    mounted.template("debian/12.ram", b"template");
    assert_eq!(fs::read(mounted.path("debian/12.ram")).unwrap(), b"template");
    let denied = fs::write(mounted.path("debian/12.ram"), b"x").unwrap_err();
    assert_eq!(denied.raw_os_error(), Some(libc::EACCES));
    fs::write(mounted.path("debian/12.ram?rom=off&view=a"), b"private!").unwrap();
    assert_eq!(fs::read(mounted.path("debian/12.ram?rom=off&view=a")).unwrap(), b"private!");
    assert_eq!(fs::read(mounted.path("debian/12.ram?rom=off")).unwrap(), b"template");
    assert_eq!(fs::read(mounted.store.join("debian/12.ram")).unwrap(), b"template");
    assert!(mounted.stop().success());
    mounted.mount();
    assert_eq!(fs::read(mounted.path("debian/12.ram?rom=off&view=a")).unwrap(), b"private!");
}

#[test]
fn an_ordinary_users_mount_does_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("a_mount_shows_rom_and_private_views");
}
