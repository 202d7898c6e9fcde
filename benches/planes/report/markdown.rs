//! docs/BENCHMARKS.md. Pure.

use std::fmt::Write;

use super::figures::{self, Access, Order, Sharing, steady, touch};
use super::stats::quantile;
use super::svg::number;
use super::targets::{self, Limit, TEMPLATES, Target};
use super::{Run, plots};

const MIB: f64 = (1 << 20) as f64;

const HOW: &str = "\
Output of `cargo bench --bench planes`: do not edit it, run it (root; `--help` tells how to run parts). All samples are
in [benchmarks.json](benchmarks.json); `--render` makes this page and its plots of them again. The peers are Debian
packages: `apt-get install --no-install-recommends qemu-utils xmount nbdkit libnbd-bin fuse-overlayfs xfsprogs
btrfs-progs`, and `tests/run` installs what guests need; what is missing is listed as refused.

In each round every subject has its turn, beginning with another one each time, on the same template and the same pages,
so that what disturbs the machine disturbs all.

A cell is `median (least–most)` of the samples, and behind it `×ratio` to the baseline of that table. The templates are
in memory before each measurement; a view, and what its server knows of the template, is new each time.

- **first touch**: time of one load or store to each of some pages that the view has not touched, divided by
  their number. Sequential: neighbours from a random page on. Random: distinct pages anywhere.
- **steady**: a load or store to one of those pages again, in the same order; the median of a few hundred passes.
- **making a view**: until there is a private file that can be mapped; with overlay filesystems up to the end of the
  first opening for writing, which copies. templatefs makes a view when it is opened.
- **memory per view, counted**: page cache of the view and of the files that keep its data, pages that mappings copied,
  and its server's heap, after msync; the template and what a loop device caches aside. Beside it the growth of
  MemTotal − MemFree of the whole machine, which others disturb and which includes what a loop device caches, and
  `cost_bytes` of `templatefs views`.
- **clone to answer**: from starting QEMU (TCG, 96 MiB, a restored guest) until a command on its console was answered.

The template `random` is incompressible. `guest` is the RAM of a Linux guest that has worked: data, pages of zeros,
and holes where it never wrote. \"Private\" is MAP_PRIVATE, \"shared\" MAP_SHARED. Times are in microseconds.
";

pub fn render(run: &Run) -> String {
    let mut out = format!("# Benchmarks\n\n{HOW}\n");
    machine(&mut out, run);
    subjects(&mut out, run);
    target_table(&mut out, run);
    for (name, _) in plots::all(run) {
        let _ = writeln!(out, "![{}]({name})", name.trim_end_matches(".svg"));
    }
    for at in TEMPLATES {
        first_touch(&mut out, run, at);
    }
    let columns = [figures::MAKE, figures::OPEN, figures::MSYNC].map(str::to_owned);
    over(&mut out, run, "Making, opening, msync", "random", &columns, None);
    let columns = Sharing::ALL.map(|sharing| Access::ALL.map(|access| steady(access, sharing))).concat();
    over(&mut out, run, "Steady state (×: of memfd)", "random", &columns, Some(figures::MEMFD));
    let columns =
        [figures::PREAD_4K, figures::PREAD_1M, figures::PWRITE_4K, figures::PWRITE_1M].map(str::to_owned);
    over(&mut out, run, "pread and pwrite (×: of memfd)", "random", &columns, Some(figures::MEMFD));
    opens(&mut out, run);
    views(&mut out, run);
    dirtying(&mut out, run);
    clones(&mut out, run);
    refusals(&mut out, run);
    out
}

fn machine(out: &mut String, run: &Run) {
    let machine = &run.machine;
    let load = super::stats::Summary::of(&machine.load);
    let _ = writeln!(
        out,
        "## The run\n\n{} cores of {}, {:.0} GiB of memory, Linux {}; {:.0} minutes.",
        machine.cores,
        machine.processor,
        machine.memory_bytes as f64 / (MIB * 1024.0),
        machine.kernel,
        machine.seconds / 60.0
    );
    if let Some(load) = load {
        let _ = writeln!(
            out,
            "One-minute load while it ran, the benchmark's own work included: median {:.1}, {:.1} to {:.1}.",
            load.median, load.least, load.most
        );
    }
    out.push('\n');
    for line in &run.plan {
        let _ = writeln!(out, "- {line}");
    }
    let programs: Vec<_> =
        machine.programs.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(out, "- {}\n", programs.join(", "));
}

fn subjects(out: &mut String, run: &Run) {
    let rows = run.subjects.iter().map(|subject| vec![subject.name.clone(), subject.what.clone()]);
    table(out, &["subject", "what it is"], rows);
}

fn target_table(out: &mut String, run: &Run) {
    out.push_str(
        "## Targets\n\nEach ratio is one of medians of this run; the worse of both templates. What limits those that are \
         missed: [MEASURED.md](MEASURED.md).\n\n",
    );
    let row = |target: Target| {
        let limit = match target.limit {
            Limit::AtMost(limit) => format!("at most {}", number(limit)),
            Limit::AtLeast(limit) => format!("at least {}", number(limit)),
        };
        let verdict = match target.met() {
            None => "not measured",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        let ratio = target.ratio.map_or("-".to_owned(), number);
        vec![target.what.to_owned(), target.subject, ratio, target.of, limit, verdict.to_owned()]
    };
    let rows = targets::all(run).into_iter().map(row);
    table(out, &["what", "subject", "ratio", "of what", "target", ""], rows);
}

fn first_touch(out: &mut String, run: &Run, at: &str) {
    for (sharing, base) in [(Sharing::Private, figures::NATIVE), (Sharing::Shared, figures::MEMFD)] {
        let columns =
            Order::ALL.map(|order| Access::ALL.map(|access| touch(order, access, sharing))).concat();
        let title = format!("First touch, {}, template `{at}` (×: of {base})", sharing.word());
        over(out, run, &title, at, &columns, Some(base));
    }
}

/// A table of figures over subjects; nothing where none was measured.
fn over(out: &mut String, run: &Run, title: &str, at: &str, columns: &[String], base: Option<&str>) {
    let measured = |subject: &str| columns.iter().any(|figure| run.median(figure, at, subject).is_some());
    let subjects: Vec<_> = run.subjects.iter().filter(|subject| measured(&subject.name)).collect();
    if subjects.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n## {title}\n");
    let rows = subjects.iter().map(|subject| {
        let cells = columns.iter().map(|figure| cell(run, figure, at, &subject.name, base, 1.0));
        std::iter::once(subject.name.clone()).chain(cells).collect()
    });
    let heads: Vec<&str> = std::iter::once("").chain(columns.iter().map(String::as_str)).collect();
    table(out, &heads, rows);
}

fn cell(run: &Run, figure: &str, at: &str, subject: &str, base: Option<&str>, unit: f64) -> String {
    let Some(summary) = run.summary(figure, at, subject) else { return "-".to_owned() };
    let [least, median, most] =
        [summary.least, summary.median, summary.most].map(|value| number(value / unit));
    let spread = if summary.count > 1 { format!(" ({least}–{most})") } else { String::new() };
    let ratio = base.and_then(|base| run.median(figure, at, base)).map(|base| summary.median / base);
    let ratio = ratio.map_or(String::new(), |ratio| format!(" ×{}", number(ratio)));
    format!("{median}{spread}{ratio}")
}

fn opens(out: &mut String, run: &Run) {
    for (title, figure) in [
        ("Opening by size of the template (sparse)", figures::OPEN_BY_SIZE),
        ("Opening by number of live views", figures::OPEN_BY_VIEWS),
        ("Daemon memory per idle view, bytes, by their number", figures::IDLE_MEMORY),
    ] {
        by_circumstance(out, run, title, figure);
    }
}

fn by_circumstance(out: &mut String, run: &Run, title: &str, figure: &str) {
    let places = run.circumstances(figure);
    if places.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n## {title}\n");
    let subjects = run.subjects.iter().map(|subject| &subject.name);
    let subjects = subjects.filter(|name| places.iter().any(|at| run.median(figure, at, name).is_some()));
    let rows = subjects.map(|name| {
        let cells = places.iter().map(|at| cell(run, figure, at, name, None, 1.0));
        std::iter::once(name.clone()).chain(cells).collect()
    });
    let heads: Vec<&str> = std::iter::once("").chain(places.iter().copied()).collect();
    table(out, &heads, rows);
}

fn views(out: &mut String, run: &Run) {
    for count in run.circumstances(figures::VIEWS_TIME) {
        let touched = run.subjects.iter().find_map(|s| run.median(figures::VIEWS_TOUCHED, count, &s.name));
        let touched = touched.unwrap_or_default();
        let _ = writeln!(
            out,
            "\n## Views at once: {count}\n\nEach reads 30 % and writes another 10 % of its pages: {} MiB. \
             ×: of these pages.\n",
            number(touched / MIB)
        );
        let mut rows = Vec::new();
        for subject in &run.subjects {
            let name = &subject.name;
            let Some(time) = run.median(figures::VIEWS_TIME, count, name) else { continue };
            let counted = run.median(figures::VIEWS_MEMORY, count, name).unwrap_or_default();
            let mib =
                |figure| run.median(figure, count, name).map_or("-".to_owned(), |bytes| number(bytes / MIB));
            rows.push(vec![
                name.clone(),
                number(time / 1e6),
                format!("{} ×{}", number(counted / MIB), number(counted / touched)),
                mib(figures::VIEWS_MEMINFO),
                mib(figures::VIEWS_OWN),
            ]);
        }
        let heads = ["", "seconds", "MiB a view, counted", "by /proc/meminfo", "by `templatefs views`"];
        table(out, &heads, rows);
    }
}

fn dirtying(out: &mut String, run: &Run) {
    let columns = [
        (figures::DIRTY_RATE, 1.0),
        (figures::DIRTY_WRITTEN, MIB),
        (figures::DIRTY_CPU, 1.0),
        (figures::DIRTY_STALL, 1.0),
        (figures::DIRTY_WORST, 1.0),
    ];
    let at = "dirtied";
    let rows: Vec<Vec<String>> = run
        .subjects
        .iter()
        .filter(|subject| run.median(figures::DIRTY_RATE, at, &subject.name).is_some())
        .map(|subject| {
            let cells =
                columns.iter().map(|(figure, unit)| cell(run, figure, at, &subject.name, None, *unit));
            std::iter::once(subject.name.clone()).chain(cells).collect()
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    out.push_str("\n## Sustained dirtying of a shared view\n\nAfter all pages were written once; with the final msync. \
         Written back: by the server's write(2)s, its replies to the kernel included, or to the loop device.\n\n");
    let heads = [
        "",
        "stores/s",
        "MiB/s written back",
        "daemon CPU, % of a core",
        "p99.9 of a store",
        "longest store",
    ];
    table(out, &heads, rows);
}

fn clones(out: &mut String, run: &Run) {
    let at = "guest";
    let of = |name: &str| {
        let found = |series: &&super::Series| series.figure == figures::CLONE_TIME && series.subject == name;
        let mut values = run.series.iter().find(found)?.values.clone();
        values.sort_by(f64::total_cmp);
        Some((quantile(&values, 0.5)?, quantile(&values, 0.95)?))
    };
    let native = of(figures::NATIVE);
    let row = |subject: &super::Subject| {
        let (p50, p95) = of(&subject.name)?;
        let ratio = native.map_or(String::new(), |native| format!(" ×{}", number(p50 / native.0)));
        let memory = run.median(figures::CLONE_MEMORY, at, &subject.name);
        let memory = memory.map_or("-".to_owned(), |bytes| number(bytes / MIB));
        Some(vec![subject.name.clone(), format!("{}{ratio}", number(p50 / 1e3)), number(p95 / 1e3), memory])
    };
    let rows: Vec<_> = run.subjects.iter().filter_map(row).collect();
    if !rows.is_empty() {
        out.push_str("\n## From starting a clone to its guest's answer\n\n×: of native rom=off.\n\n");
        table(out, &["", "p50, ms", "p95, ms", "host memory of a clone's RAM, MiB"], rows);
    }
}

fn refusals(out: &mut String, run: &Run) {
    if run.refusals.is_empty() {
        return;
    }
    out.push_str("\n## Refused\n\nWhat could not be measured, and the error.\n\n");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for refusal in &run.refusals {
        let error = refusal.error.replace('|', "\\|");
        match rows.iter_mut().find(|row| row[0] == refusal.subject && row[2] == error) {
            Some(row) => row[1] = format!("{}, {}", row[1], refusal.workload),
            None => rows.push(vec![refusal.subject.clone(), refusal.workload.clone(), error]),
        }
    }
    table(out, &["subject", "workload", "error"], rows);
}

fn table(out: &mut String, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}
