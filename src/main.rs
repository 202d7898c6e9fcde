use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use templatefs::cli::{Cli, with_mount_inserted};
use templatefs::commands;

fn main() -> ExitCode {
    let cli = Cli::parse_from(with_mount_inserted(std::env::args_os().collect()));
    commands::run(cli.command).unwrap_or_else(|error| {
        // With stderr closed the exit code has to do.
        let _ = writeln!(std::io::stderr(), "templatefs: {error}");
        ExitCode::FAILURE
    })
}
