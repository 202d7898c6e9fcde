//! The command line as clap reads it: raw arguments only. `config` checks those of `mount`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::inspect::summary::SortKey;

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
    Demo(DemoArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    #[command(hide = true)]
    PageCache(PageCacheArgs),
    #[command(hide = true)]
    Serve(ServeArgs),
    #[command(hide = true)]
    Warm(WarmArgs),
}

/// Mount a store of templates.
#[derive(Debug, Clone, Args)]
#[command(after_help = "With -o the same options are written allow_other, allow_template_writes, \
                        foreground, nonempty, threads=N, log_level=LEVEL, log_file=PATH, \
                        state_dir=DIR, metrics_listen=ADDR, backing=BACKING, pool=N, warm=N, read_ahead=KIB, policy=FILE, budget=SIZE, overcommit=RATIO and max_private=SIZE; a comma in a path is written `\\,` there. The usual words of \
                        fstab are accepted; ro, exec and what is unknown are errors.\n\n\
                        Example:\n  templatefs mount --allow-other /srv/templates /mnt/t")]
pub struct MountArgs {
    /// Directory tree that holds the templates
    pub store: PathBuf,
    /// Directory to mount on
    pub mountpoint: PathBuf,
    /// Let other users reach the mount, each with their own rights
    #[arg(long)]
    pub allow_other: bool,
    /// Let `?share=on&readonly=off` write the templates themselves, for authoring
    #[arg(long)]
    pub allow_template_writes: bool,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount over a directory that is not empty
    #[arg(long)]
    pub nonempty: bool,
    /// Threads that serve requests, 1 to 64 [default: one per CPU, 2 to 8]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// How much to log [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: Option<String>,
    /// File to append the log to
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Directory for the private pages of views
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Serve /metrics over HTTP on 127.0.0.1:PORT or [::1]:PORT, where every user of this host can
    /// read them, or on unix:PATH, which only the user who mounts can
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
    /// Where private views without a name keep their pages unless their path says: overlay (the
    /// default; in the state directory), memory (all of it in memory of its own: native speed, and
    /// the whole template's data as its cost) or auto
    #[arg(long, value_name = "BACKING")]
    pub backing: Option<String>,
    /// Keep N filled copies of the templates last opened with backing=memory ready, so that the
    /// next opens wait for nothing (default 0); each takes its template's data in memory
    #[arg(long, value_name = "N")]
    pub pool: Option<String>,
    /// Keep N views ready of the templates last opened for writing, with their learned working set in
    /// the page cache already (default 0); see `templatefs profile`
    #[arg(long, value_name = "N")]
    pub warm: Option<String>,
    /// What the kernel reads around a fault of a view that is served through the daemon (root; the
    /// kernel's default is 128): more makes first touches faster, and every view cache more pages
    #[arg(long, value_name = "KIB")]
    pub read_ahead: Option<String>,
    /// A policy (TOML) beside the store's own `templatefs.toml`: what may be opened as what, by whom
    /// and how much of it. Read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// What all private views together may come to own, such as 64GiB: an open for writing that cannot
    /// be promised room for all of its pages fails with ENOSPC
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<String>,
    /// Promise so many times the budget, since few views write all of their pages (default 1)
    #[arg(long, value_name = "RATIO")]
    pub overcommit: Option<String>,
    /// How large one private view may be, or become by write, fallocate and truncate
    #[arg(long, value_name = "SIZE")]
    pub max_private: Option<String>,
    /// Options as in fstab, separated by commas; may be repeated
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// The daemon that `mount` started, which reports on stdout
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Serve a mount that another process holds, which starts this one.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub mount: MountArgs,
    /// The socket to the process that holds the mount
    #[arg(long)]
    pub keeper: i32,
    /// That process
    #[arg(long)]
    pub held_by: i32,
    /// End when that process ends
    #[arg(long)]
    pub end_with_holder: bool,
    /// Only look whether this program could
    #[arg(long)]
    pub check: bool,
}

/// Let another version of templatefs serve a mount, while it is in use.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Nobody who uses the mount notices more than a short wait. When the new program cannot \
                        read the state of the mount, or does not come up, the old one serves on, and this \
                        command says why. Only the user who mounted and root may do it.\n\n\
                        Example:\n  templatefs upgrade /mnt/t\n  \
                        templatefs upgrade --binary /opt/templatefs-2/templatefs /mnt/t"
)]
pub struct UpgradeArgs {
    pub mountpoint: PathBuf,
    /// The program that is to serve [default: the one that runs this command]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// The mount's state directory, if it has an unusual one and does not answer
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Unmount; a busy mount says who holds it.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs umount /mnt/t")]
pub struct UmountArgs {
    pub mountpoint: PathBuf,
}

/// Explain what a path would be, and the QEMU options that fit it. Needs no mount.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 for a path that is something, 1 for one that is refused.\n\n\
                        Example:\n  templatefs resolve 'debian/12.ram?rom=off&view=web-1'")]
pub struct ResolveArgs {
    /// NAME or NAME?QUERY, below the store or the mountpoint (quote it: a shell takes `?` and `&`)
    pub path: OsString,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// List templates: size, data, holes, and who may read them.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs ls /srv/templates")]
pub struct LsArgs {
    /// A store, a mount of it, or a directory in one
    #[arg(value_name = "STORE_OR_MOUNT")]
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// List the views of a mount and what each costs, or each VM.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "COST is what would be freed if the view went away: PRIVATE (pages that it owns in the \
                        state directory) + COPIED (by private mappings, into the VMM; with what is swapped \
                        out) + CACHED (page cache of its own). SAVED is what a full copy of the template's \
                        data would have cost more. K, M, G are 1024 times the one before; `-` is not \
                        known.\n\n\
                        Example:\n  templatefs views --sort saved /mnt/t\n  templatefs views --by-vm"
)]
pub struct ViewsArgs {
    /// Leave it out for all mounts
    pub mountpoint: Option<PathBuf>,
    /// Figures largest first, names in their order
    #[arg(long, value_name = "KEY", value_enum, default_value_t)]
    pub sort: SortKey,
    /// Only the views of this template, as TEMPLATE names it
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Only the views of the user who asks
    #[arg(long)]
    pub mine: bool,
    /// Add up what carries the same vm label
    #[arg(long)]
    pub by_vm: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Watch the views of a mount: what each costs, and how it grows.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Keys: c, p, g, n, v sort by cost, private, growth, name, VM; r turns the order round; \
                        arrows and PageUp/PageDown select a view; Enter shows all its figures and its \
                        processes, Esc goes back; q quits. Where stdout is no terminal, one plain table is \
                        printed each interval.\n\n\
                        Example:\n  templatefs top /mnt/t\n  templatefs top --once"
)]
pub struct TopArgs {
    /// Leave it out for all mounts
    pub mountpoint: Option<PathBuf>,
    /// Between two looks, 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    pub interval: Duration,
    /// Print one plain table and end
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it is a number of seconds from 0.1 to 3600".into())
}

/// Draw which pages of a view are template, private or punched, and which are in memory.
#[derive(Debug, Clone, Args)]
#[command(after_help = "In the terminal the picture fits the window (or COLUMNS and LINES) and is \
                        coloured, unless NO_COLOR is set. A FILE of `-` is stdout.\n\n\
                        Example:\n  templatefs map web-1\n  \
                        templatefs map /mnt/t web-1 --svg web-1.svg\n  \
                        templatefs map --template debian/12.ram /mnt/t")]
pub struct MapArgs {
    /// A view's ID or its path on a mount; a mountpoint when ID follows, or with --template
    #[arg(value_name = "VIEW", required_unless_present = "template")]
    pub target: Option<PathBuf>,
    /// The view's ID, as `templatefs views` lists it
    #[arg(value_name = "ID", conflicts_with = "template")]
    pub view: Option<String>,
    /// Instead: over all views of a template, how many own each region
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Write an SVG picture
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write a PNG picture
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
}

/// Show, export, import or clear what was learned of templates: the pages that their views touch.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A mount learns from each private view without a name that is written: what it wrote, and, on a \
                        mount with --warm, what it had mapped in its first seconds. PAGES are those that at \
                        least half of the last 8 views touched; VIEWS is how many taught it; READY how many \
                        views wait with these pages in the page cache. A profile is of one file: a template \
                        that is replaced is learned anew.\n\n\
                        Example:\n  templatefs profile /mnt/t\n  \
                        templatefs profile /mnt/t debian/12.ram --export 12.profile"
)]
pub struct ProfileArgs {
    pub mountpoint: PathBuf,
    /// Only this one, as it is written in a path below the mountpoint
    pub template: Option<String>,
    /// Write the profile to a file
    #[arg(long, value_name = "FILE", requires = "template", conflicts_with_all = ["import", "clear", "json"])]
    pub export: Option<PathBuf>,
    /// Take over a profile of a template with the same content, which replaces what was learned
    #[arg(long, value_name = "FILE", requires = "template", conflicts_with_all = ["clear", "json"])]
    pub import: Option<PathBuf>,
    /// Forget what was learned
    #[arg(long, conflicts_with = "json")]
    pub clear: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Discard a named view and what was written to it.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs discard '/mnt/t/debian/12.ram?rom=off&view=web-1'\n  \
                        templatefs discard /mnt/t web-1")]
pub struct DiscardArgs {
    /// MOUNTPOINT/NAME?rom=off&view=ID, or a mountpoint when ID follows
    #[arg(value_name = "PATH")]
    pub target: PathBuf,
    /// The view's name
    #[arg(value_name = "ID")]
    pub view: Option<String>,
}

/// Show it all on a small store of its own, then clean up.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs demo")]
pub struct DemoArgs {}

/// Print a completion script for a shell.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs completions bash > /etc/bash_completion.d/templatefs")]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Write the man pages, one for each command.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  templatefs man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Directory to write to; made when missing
    pub dir: PathBuf,
}

/// Tell what the kernel caches of views; a daemon runs this.
#[derive(Debug, Clone, Args)]
pub struct PageCacheArgs {
    pub mountpoint: PathBuf,
}

/// Make the kernel know nodes before they are views; a daemon runs this.
#[derive(Debug, Clone, Args)]
pub struct WarmArgs {
    pub mountpoint: PathBuf,
    /// Whose work it is: its end is the end of it
    pub daemon: i32,
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
            assert_eq!(args.options.is_empty(), words.len() == 2);
        }
        assert_eq!(mount(&["/s", "/m", "-o", "a", "-ob"]).options, ["a", "b"]);
    }

    #[test]
    fn what_is_a_command_stays_one() {
        assert!(matches!(parse(&["ls", "/srv/t"]), Ok(Command::Ls(_))));
        assert!(matches!(parse(&["discard", "/mnt/t", "web-1"]), Ok(Command::Discard(_))));
        assert!(mount(&["mount", "-f", "/s", "/m"]).foreground);
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
