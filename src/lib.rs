//! templatefs: a store of unwritable VM templates, mounted, where the path that a VMM opens decides what it gets.
//!
//! The program is the product, and README.md its manual. This library is for programs that prepare paths, look into
//! a store or account for views without starting `templatefs` for it:
//!
//! - [`explain`] says what a path would be, by QEMU's rule; [`name`] and [`rules`] are its two halves, as types.
//! - [`store`] finds, pins and reads the templates of a directory tree, and nothing outside of it.
//! - [`inspect`] reads what each view of a mount costs.
//! - [`error`] is what goes wrong, as one line for people and as an errno.
//!
//! These modules follow semantic versioning. What else is public is so for the program and its own tests, and is not
//! shown here.
//!
//! ```
//! use templatefs::explain::explain;
//!
//! let private = explain(b"debian/12.ram?rom=off&vm=web-1");
//! assert_eq!(private.kind, Some("private"));
//! assert_eq!(private.vm.as_deref(), Some("web-1"));
//!
//! let refused = explain(b"debian/12.ram?share=on&rom=off").refusal.unwrap();
//! assert_eq!(refused.errno, "EINVAL");
//! assert!(refused.advice.contains("leave out share"));
//! ```

pub mod error;
pub mod explain;
pub mod inspect;
pub mod name;
pub mod rules;
pub mod store;

#[doc(hidden)]
pub mod access;
#[doc(hidden)]
pub mod admit;
mod bdi;
mod broker;
#[doc(hidden)]
pub mod budget;
mod caller;
mod check;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod commands;
#[doc(hidden)]
pub mod config;
mod confine;
#[doc(hidden)]
pub mod control;
mod digest;
#[doc(hidden)]
pub mod doctor;
#[doc(hidden)]
pub mod engine;
mod errands;
mod forget;
#[doc(hidden)]
pub mod fuse;
#[doc(hidden)]
pub mod holder;
mod holders;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod keeper;
#[doc(hidden)]
pub mod listen;
mod logging;
#[doc(hidden)]
pub mod manifest;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod mount;
#[doc(hidden)]
pub mod mount_options;
#[doc(hidden)]
pub mod overlay;
mod panics;
mod passthrough;
#[doc(hidden)]
pub mod pins;
mod plain;
#[doc(hidden)]
pub mod policy;
#[doc(hidden)]
pub mod profile;
mod program;
#[doc(hidden)]
pub mod publish;
mod qcow2;
#[doc(hidden)]
pub mod qemu;
mod qmp;
#[doc(hidden)]
pub mod run_args;
mod session;
#[doc(hidden)]
pub mod sparse;
#[doc(hidden)]
pub mod state;
#[doc(hidden)]
pub mod steps;
mod stragglers;
mod sys;
#[doc(hidden)]
pub mod takeover;
#[doc(hidden)]
pub mod turns;
#[doc(hidden)]
pub mod views;
mod vm;
mod warm;
