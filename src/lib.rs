//! templatefs: a store of unwritable VM templates, mounted; see README.md and docs/DESIGN.md.

pub mod access;
pub mod admit;
mod bdi;
mod broker;
pub mod budget;
mod caller;
mod check;
pub mod cli;
pub mod commands;
pub mod config;
mod confine;
#[doc(hidden)]
pub mod control;
mod digest;
pub mod doctor;
pub mod engine;
mod errands;
pub mod error;
pub mod explain;
mod forget;
#[doc(hidden)]
pub mod fuse;
#[doc(hidden)]
pub mod holder;
mod holders;
pub mod inspect;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod keeper;
pub mod listen;
mod logging;
pub mod manifest;
pub mod memory;
pub mod mount;
pub mod mount_options;
pub mod name;
pub mod overlay;
mod panics;
mod passthrough;
pub mod pins;
pub mod policy;
pub mod profile;
mod program;
pub mod publish;
mod qcow2;
pub mod qemu;
mod qmp;
pub mod rules;
pub mod run_args;
mod session;
pub mod sparse;
#[doc(hidden)]
pub mod state;
#[doc(hidden)]
pub mod steps;
pub mod store;
mod stragglers;
mod sys;
#[doc(hidden)]
pub mod takeover;
pub mod turns;
pub mod views;
mod vm;
mod warm;
