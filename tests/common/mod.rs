//! Test support. Each test crate uses a part of it, which makes the rest dead code there.
#![allow(dead_code)]

pub mod clones;
pub mod child;
pub mod guest;
pub mod limit;
pub mod lines;
pub mod maps;
pub mod model;
pub mod files;
pub mod mapping;
pub mod mounted;
pub mod ops;
pub mod qemu;
pub mod views;
pub mod random;
pub mod sparse;
