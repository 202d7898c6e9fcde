//! One module per subcommand: arguments in, text and an exit code out. No filesystem semantics.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::Command;
use crate::error::{Error, Result};

mod broker;
mod capture;
mod commit;
mod demo;
mod diff;
mod discard;
mod doctor;
mod export;
mod fork;
mod generate;
mod import;
mod listing;
mod ls;
mod make;
mod map;
mod mount;
mod own;
mod page_cache;
mod profile;
mod progress;
mod readers;
mod rescue;
mod resolve;
mod rm;
mod run_args;
mod serve;
mod shell;
pub mod table;
mod target;
mod top;
mod umount;
mod upgrade;
mod usage;
mod verify;
mod views;
mod warm;

/// An error becomes one line on stderr and exit code 1; clap has answered wrong usage with 2.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Resolve(args) => resolve::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
        Command::Mount(args) => mount::run(args),
        Command::Broker(args) => broker::run(&args),
        Command::PageCache(args) => page_cache::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Umount(args) => umount::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Views(args) => views::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Warm(args) => warm::run(&args),
        Command::Discard(args) => discard::run(&args),
        Command::RunArgs(args) => run_args::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Commit(args) => commit::run(&args),
        Command::Fork(args) => fork::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Rescue(args) => rescue::run(&args),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Writes to stdout. A reader that went away has seen what it wanted: no error.
pub fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("stdout", error)),
        _ => Ok(()),
    }
}

/// Prints a value as JSON for programs: indented, with a newline at the end.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|error| Error::io("JSON", io::Error::from(error)))?;
    text.push(b'\n');
    print(&text)
}
