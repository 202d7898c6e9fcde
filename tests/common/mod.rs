//! Test support. Each test crate uses a part of it, which makes the rest dead code there.
#![allow(dead_code)]

pub mod child;
pub mod clean_root;
pub mod clones;
pub mod computing;
pub mod costly;
pub mod disks;
pub mod files;
pub mod ground;
pub mod guest;
pub mod handles;
pub mod limit;
pub mod lines;
pub mod manager;
pub mod maps;
pub mod model;
pub mod mounted;
pub mod ops;
pub mod processes;
pub mod qemu;
pub mod random;
pub mod small;
pub mod sparse;
pub mod stuck;
/// The program's own system calls, some of which the tests make too.
#[path = "../../src/sys.rs"]
pub mod sys;
pub mod terminal;
pub mod users;
pub mod vhost_user;
pub mod views;
