//! templatefs: a store of unwritable VM templates, mounted; see README.md and docs/DESIGN.md.

pub mod access;
pub mod admit;
mod caller;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
mod errands;
pub mod error;
pub mod explain;
mod fuse;
mod holders;
mod logging;
pub mod mount;
pub mod mount_options;
pub mod name;
pub mod overlay;
mod passthrough;
pub mod pins;
pub mod qemu;
pub mod rules;
mod session;
mod state;
pub mod store;
mod sys;
pub mod views;
