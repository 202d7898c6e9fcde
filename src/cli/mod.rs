//! The command line as clap reads it: raw arguments only. `config` checks those of `mount`.

// What is documented here is help in a terminal, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

mod about;
mod costs;
mod daemon;
mod mount;
mod paths;
mod templates;
mod views;
mod vmm;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use about::{CompletionsArgs, DemoArgs, ManArgs};
pub use costs::{MapArgs, ProfileArgs, TopArgs, ViewsArgs};
pub use daemon::{BrokerArgs, PageCacheArgs, RescueArgs, ServeArgs, WarmArgs};
pub use mount::{MountArgs, MountOptions, UmountArgs, UpgradeArgs};
pub use paths::{DiscardArgs, LsArgs, ResolveArgs};
pub use templates::{AboutTemplate, CaptureArgs, ImportArgs, RmArgs, Then, VerifyArgs};
pub use views::{CommitArgs, DiffArgs, ExportArgs, ExportFormat, ForkArgs};
pub use vmm::{DoctorArgs, RunArgsArgs};

/// Serves unwritable VM templates: a path decides between true ROM and a private
/// copy-on-write view.
#[derive(Debug, Parser)]
#[command(
    name = "templatefs",
    version,
    arg_required_else_help = true,
    after_help = "The form that mount.fuse3 calls for a line in fstab is understood too:\n  \
                  templatefs STORE MOUNTPOINT -o OPTIONS\n\n\
                  Exit codes: 0 done, 1 failed or refused, 2 wrong usage.\n\n\
                  Example:\n  templatefs demo"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Mount(MountArgs),
    Umount(UmountArgs),
    Upgrade(UpgradeArgs),
    Resolve(ResolveArgs),
    Ls(LsArgs),
    Views(ViewsArgs),
    Top(TopArgs),
    Map(MapArgs),
    Profile(ProfileArgs),
    Discard(DiscardArgs),
    RunArgs(RunArgsArgs),
    Doctor(DoctorArgs),
    Capture(CaptureArgs),
    Import(ImportArgs),
    Verify(VerifyArgs),
    Rm(RmArgs),
    Commit(CommitArgs),
    Fork(ForkArgs),
    Diff(DiffArgs),
    Export(ExportArgs),
    Demo(DemoArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    #[command(hide = true)]
    Broker(BrokerArgs),
    #[command(hide = true)]
    PageCache(PageCacheArgs),
    #[command(hide = true)]
    Rescue(RescueArgs),
    #[command(hide = true)]
    Serve(ServeArgs),
    #[command(hide = true)]
    Warm(WarmArgs),
}

/// Puts `mount` in front of the form that mount.fuse3 calls: `STORE MOUNTPOINT [-o OPTIONS]`.
///
/// A first word that is no command counts as a store when it looks like a path or when `-o`
/// follows; any other is left for clap, which then names the command that was meant.
pub fn with_mount_inserted(mut args: Vec<OsString>) -> Vec<OsString> {
    let Some(first) = args.get(1) else { return args };
    let bytes = first.as_encoded_bytes();
    let command = Cli::command();
    let known = |name: &str| name == "help" || command.find_subcommand(name).is_some();
    if bytes.starts_with(b"-") || first.to_str().is_some_and(known) {
        return args;
    }
    let path_like = bytes.contains(&b'/') || matches!(bytes, b"." | b"..");
    if path_like || args[2..].iter().any(|arg| arg.as_encoded_bytes().starts_with(b"-o")) {
        args.insert(1, "mount".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn parse(words: &[&str]) -> Result<Command, clap::Error> {
        let args = std::iter::once("templatefs").chain(words.iter().copied()).map(OsString::from).collect();
        Cli::try_parse_from(with_mount_inserted(args)).map(|cli| cli.command)
    }

    fn mount(words: &[&str]) -> MountArgs {
        match parse(words).unwrap() {
            Command::Mount(args) => args,
            other => panic!("{words:?} is {other:?}"),
        }
    }

    #[test]
    fn clap_agrees_with_the_definitions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_form_of_fstab_is_a_mount() {
        for words in [
            &["/srv/t", "/mnt/t", "-o", "rw,allow_other,dev,suid"][..],
            &["/srv/t", "/mnt/t", "-o", "rw", "-o", "allow_other,dev", "-osuid"],
            &["store", "/mnt/t", "-o", "rw"],
            &[".", "/mnt/t"],
            &["./demo", "/mnt/t"],
        ] {
            let args = mount(words);
            assert_eq!(args.store, PathBuf::from(words[0]));
            assert_eq!(args.mountpoint, PathBuf::from("/mnt/t"));
            assert_eq!(args.fstab_options.is_empty(), words.len() == 2);
        }
        assert_eq!(mount(&["/s", "/m", "-o", "a", "-ob"]).fstab_options, ["a", "b"]);
    }

    #[test]
    fn what_is_a_command_stays_one() {
        assert!(matches!(parse(&["ls", "/srv/t"]), Ok(Command::Ls(_))));
        assert!(matches!(parse(&["discard", "/mnt/t", "web-1"]), Ok(Command::Discard(_))));
        assert!(mount(&["mount", "-f", "/s", "/m"]).options.foreground);
        for (words, kind) in [
            (&["resovle", "x?rom=off"][..], clap::error::ErrorKind::InvalidSubcommand),
            (&["--help"], clap::error::ErrorKind::DisplayHelp),
            (&["help"], clap::error::ErrorKind::DisplayHelp),
            (&["--version"], clap::error::ErrorKind::DisplayVersion),
            (&["/srv/t"], clap::error::ErrorKind::MissingRequiredArgument),
            (&[], clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ] {
            assert_eq!(parse(words).unwrap_err().kind(), kind, "{words:?}");
        }
    }
}
