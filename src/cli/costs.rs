//! Arguments of what shows the cost of views.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::inspect::summary::SortKey;

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
