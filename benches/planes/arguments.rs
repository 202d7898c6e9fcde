//! The command line, and how much is measured.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// First touch of pages, steady state, msync, opening
    Touch,
    /// pread and pwrite
    Data,
    /// Opening by size of the template, and by number of live views
    Open,
    /// 1, 8 and 64 views that each read 30 % and write another 10 %
    Views,
    /// Sustained random dirtying of a shared view
    Dirty,
    /// From starting a clone to its guest's answer
    Clones,
}

/// Measures templatefs beside every other way to get a private view of a template.
///
/// Root. Writes BENCHMARKS.md, its plots (SVG) and the samples (JSON): into docs/ after a full run without
/// filters, else below target/.
#[derive(Debug, Parser)]
#[command(name = "planes", bin_name = "cargo bench --bench planes --", max_term_width = 100)]
pub struct Arguments {
    /// Smaller and fewer: under 3 minutes
    #[arg(long)]
    pub quick: bool,
    /// Only subjects whose name contains this; may be repeated
    #[arg(long, value_name = "SUBJECT")]
    pub only: Vec<String>,
    /// Only this workload; may be repeated
    #[arg(long, value_enum)]
    pub workload: Vec<Workload>,
    /// Seed of the random pages
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Directory for templates and peers, on a disk with room: about 10 times the template
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub scratch: PathBuf,
    /// Directory for the documents
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Measure nothing: make the documents again from the samples of an earlier run
    #[arg(long, value_name = "JSON")]
    pub render: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Arguments {
    pub fn runs(&self, workload: Workload) -> bool {
        self.workload.is_empty() || self.workload.contains(&workload)
    }

    pub fn includes(&self, subject: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| subject.contains(only.as_str()))
    }

    pub fn out(&self) -> PathBuf {
        let full = !self.quick && self.only.is_empty() && self.workload.is_empty();
        let documents = if full || self.render.is_some() {
            concat!(env!("CARGO_MANIFEST_DIR"), "/docs").into()
        } else {
            kept()
        };
        self.out.clone().unwrap_or(documents)
    }
}

/// For what is not to be committed: partial runs.
pub fn kept() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("planes")
}

/// How much. Sizes in bytes.
pub struct Plan {
    pub seed: u64,
    pub rounds: usize,
    /// Of them, on the guest's image too.
    pub guest_rounds: usize,
    pub template: u64,
    /// Of a template's pages one in so many is touched.
    pub touched: usize,
    /// How often a file is opened for one sample.
    pub opens: usize,
    /// Template of the many views.
    pub many: u64,
    pub views: [usize; 3],
    pub live: Vec<usize>,
    pub sizes: Vec<(&'static str, u64)>,
    pub dirty: Duration,
    /// Stores a second.
    pub pace: u32,
    pub clones: usize,
}

impl Plan {
    pub fn new(arguments: &Arguments) -> Plan {
        let quick = arguments.quick;
        let sizes = [("64 MiB", 64 << 20), ("1 GiB", 1 << 30), ("32 GiB", 32 << 30), ("1 TiB", 1u64 << 40)];
        let live = [1, 10, 100, 1_000, 10_000];
        Plan {
            seed: arguments.seed,
            rounds: if quick { 2 } else { 3 },
            guest_rounds: if quick { 1 } else { 3 },
            template: if quick { 256 << 20 } else { 1 << 30 },
            touched: if quick { 80 } else { 64 },
            opens: if quick { 20 } else { 50 },
            many: if quick { 4 << 20 } else { 32 << 20 },
            views: [1, 8, 64],
            live: live[..if quick { 4 } else { 5 }].to_vec(),
            sizes: sizes.to_vec(),
            dirty: Duration::from_secs(if quick { 10 } else { 120 }),
            pace: 10_000,
            clones: if quick { 5 } else { 20 },
        }
    }

    /// Sentences for the report.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "{} rounds ({} of the guest's image), in each all subjects in turn, beginning with another; seed {}",
                self.rounds, self.guest_rounds, self.seed
            ),
            format!("templates of {} MiB; first touch of one page in {}", self.template >> 20, self.touched),
            format!("many views: of a template of {} MiB", self.many >> 20),
            format!(
                "dirtying: {} s at {} stores a second over a quarter of the template",
                self.dirty.as_secs(),
                self.pace
            ),
            format!("{} clones of a guest for each way, on TCG", self.clones),
        ]
    }
}
