//! `views`: what a mount's control directory says of its views, as a table or as it is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::table::{Align, Table, iec_short, iec_short_or_dash};
use crate::cli::ViewsArgs;
use crate::error::{Error, Result};
pub use crate::inspect::read;
use crate::inspect::summary::{Filter, Listed, ListedAside, Sums, VmReport, by_vm, count_vms, sort};
use crate::inspect::{SCHEMA, ViewReport};
use crate::mount;
use crate::name::printable;

/// What a table for people fits in, also on paper and in a mail.
pub const COLUMNS: usize = 100;

#[derive(Serialize)]
struct Views {
    schema: u32,
    views: Vec<Listed>,
    set_aside: Vec<ListedAside>,
}

#[derive(Serialize)]
struct Vms {
    schema: u32,
    vms: Vec<VmReport>,
}

pub fn run(args: &ViewsArgs) -> Result<ExitCode> {
    let uid = args.mine.then(|| rustix::process::getuid().as_raw());
    let filter = Filter { template: args.template.clone(), uid };
    let Collected { mut views, mut set_aside, .. } = collect(args.mountpoint.as_deref())?;
    views.retain(|listed| filter.admits(&listed.view));
    set_aside.retain(|listed| filter.may_admit(&listed.view));
    if args.by_vm {
        let vms = by_vm(&views, args.sort).ok_or_else(|| {
            Error::Invalid(
                "--by-vm: a VM has no age and no template; sort by cost, private, copied, cached, saved or id"
                    .into(),
            )
        })?;
        match args.json {
            true => super::print_json(&Vms { schema: SCHEMA, vms })?,
            false => super::print((table_of_vms(&vms, &views) + &aside(&set_aside)).as_bytes())?,
        }
    } else {
        sort(&mut views, args.sort);
        match args.json {
            true => super::print_json(&Views { schema: SCHEMA, views, set_aside })?,
            false => super::print((table(&views) + &aside(&set_aside)).as_bytes())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub struct Collected {
    /// The mounts that answered.
    pub mounts: usize,
    pub views: Vec<Listed>,
    pub set_aside: Vec<ListedAside>,
}

/// The views of one mount, or of all. Asked for all of them, one that is not ours to read is left
/// out.
pub fn collect(mountpoint: Option<&Path>) -> Result<Collected> {
    let mut collected = Collected { mounts: 0, views: Vec::new(), set_aside: Vec::new() };
    for mount in match mountpoint {
        Some(path) => vec![path.to_owned()],
        None => all_mounts()?,
    } {
        let report = match read(&mount) {
            Err(_) if mountpoint.is_none() => continue,
            other => other?,
        };
        collected.mounts += 1;
        collected.views.extend(listed(&mount, report.views));
        collected.set_aside.extend(listed(&mount, report.set_aside));
    }
    Ok(collected)
}

fn listed<V>(mount: &Path, views: Vec<V>) -> impl Iterator<Item = Listed<V>> {
    views.into_iter().map(|view| Listed { mountpoint: mount.display().to_string(), view })
}

/// One that hides another on the same directory counts once.
fn all_mounts() -> Result<Vec<PathBuf>> {
    let mut mounts: Vec<PathBuf> = mount::own_mounts()?.into_iter().map(|entry| entry.mountpoint).collect();
    mounts.sort();
    mounts.dedup();
    Ok(mounts)
}

fn table(views: &[Listed]) -> String {
    let mut table = Table::new([
        ("VIEW", Align::Left),
        ("VM", Align::Left),
        ("KIND", Align::Left),
        ("COST", Align::Right),
        ("PRIVATE", Align::Right),
        ("COPIED", Align::Right),
        ("CACHED", Align::Right),
        ("SAVED", Align::Right),
        ("OPENERS", Align::Left),
        ("TEMPLATE", Align::Left),
    ]);
    let several = several_mounts(views);
    for listed in views {
        let view = &listed.view;
        table.row([
            view.id.clone(),
            view.vm.as_ref().map_or_else(|| "-".into(), ToString::to_string),
            view.kind.clone(),
            iec_short_or_dash(view.cost_bytes),
            iec_short(view.private_bytes),
            iec_short_or_dash(view.cow_anon_bytes),
            iec_short_or_dash(view.cached_bytes),
            iec_short_or_dash(view.saved_bytes),
            openers(view),
            template(listed, several),
        ]);
    }
    let sums = Sums::of(views.iter().map(|listed| &listed.view));
    table.row([
        "total".into(),
        plural(count_vms(views), "VM"),
        String::new(),
        iec_short_or_dash(sums.cost_bytes),
        iec_short_or_dash(sums.private_bytes),
        iec_short_or_dash(sums.cow_anon_bytes),
        iec_short_or_dash(sums.cached_bytes),
        iec_short_or_dash(sums.saved_bytes),
        String::new(),
        plural(views.len(), "view"),
    ]);
    table.render_within(COLUMNS) + &held(views)
}

/// Below the table, since it is rare and must be seen: whose memory waits for the state directory.
fn held(views: &[Listed]) -> String {
    let held = views.iter().map(|listed| &listed.view).filter(|view| view.held_bytes > 0);
    let line = |view: &ViewReport| {
        format!(
            "{}: {} of mapped pages wait until the state directory takes them; the log tells why\n",
            view.id,
            iec_short(view.held_bytes)
        )
    };
    held.map(line).collect()
}

/// Below the table too: which views cannot be used, why, and what can be done.
fn aside(views: &[ListedAside]) -> String {
    let line = |ListedAside { mountpoint, view }: &ListedAside| {
        let errors = if view.opens > 0 { ", with errors for who has it open" } else { "" };
        format!(
            "{} is set aside{errors}: {}; once it is put right: templatefs upgrade {}\n",
            view.id,
            printable(view.reason.as_bytes()),
            printable(mountpoint.as_bytes())
        )
    };
    views.iter().map(line).collect()
}

fn table_of_vms(vms: &[VmReport], views: &[Listed]) -> String {
    let mut table = Table::new([
        ("VM", Align::Left),
        ("VIEWS", Align::Right),
        ("COST", Align::Right),
        ("PRIVATE", Align::Right),
        ("COPIED", Align::Right),
        ("CACHED", Align::Right),
        ("SAVED", Align::Right),
    ]);
    let row = |name: String, sums: &Sums| {
        [
            name,
            sums.views.to_string(),
            iec_short_or_dash(sums.cost_bytes),
            iec_short_or_dash(sums.private_bytes),
            iec_short_or_dash(sums.cow_anon_bytes),
            iec_short_or_dash(sums.cached_bytes),
            iec_short_or_dash(sums.saved_bytes),
        ]
    };
    for vm in vms {
        table.row(row(vm.vm.as_ref().map_or_else(|| "-".into(), ToString::to_string), &vm.sums));
    }
    let total = format!("total of {}", plural(count_vms(views), "VM"));
    table.row(row(total, &Sums::of(views.iter().map(|listed| &listed.view))));
    table.render_within(COLUMNS)
}

/// `COMM:PID` of who opened it first, and how many others use it.
fn openers(view: &ViewReport) -> String {
    let first = view.opener.as_ref().map(|opener| (&opener.comm, opener.pid));
    let first = first.or_else(|| view.processes.first().map(|process| (&process.comm, process.pid)));
    let Some((comm, pid)) = first else { return "-".into() };
    let others = view.processes.iter().filter(|process| process.pid != pid).count();
    let others = if others == 0 { String::new() } else { format!(" +{others}") };
    format!("{}:{pid}{others}", printable(comm.as_bytes()))
}

/// The template's path, on its mount where there are several.
pub fn template(listed: &Listed, several_mounts: bool) -> String {
    let path = match several_mounts {
        true => format!("{}/{}", listed.mountpoint, listed.view.template),
        false => listed.view.template.clone(),
    };
    printable(path.as_bytes())
}

pub fn several_mounts<'a>(views: impl IntoIterator<Item = &'a Listed>) -> bool {
    let mut views = views.into_iter();
    let first = views.next();
    first.is_some_and(|first| views.any(|listed| listed.mountpoint != first.mountpoint))
}

pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;
    use crate::inspect::OpenerReport;
    use crate::inspect::summary::SortKey;
    use crate::inspect::summary::samples::{listed, process, set_aside};

    /// Everything as long as it can be.
    fn longest(letter: &str) -> Listed {
        let label = letter.repeat(64);
        let mut listed = listed(&label, Some(&label), |view| {
            let much = 1023 << 40;
            view.kind = "template".into();
            view.template = format!("{}模板.ram", "directory/".repeat(40));
            view.private_bytes = much;
            for figure in [
                &mut view.cow_anon_bytes,
                &mut view.cached_bytes,
                &mut view.cost_bytes,
                &mut view.saved_bytes,
            ] {
                *figure = Some(much);
            }
            view.opener = Some(OpenerReport { pid: 4194304, uid: 0, comm: "qemu-system-x86".into() });
            view.processes = (4194304 - 300..=4194304).map(process).collect();
        });
        listed.mountpoint = format!("/mnt/{letter}");
        listed
    }

    #[test]
    fn the_longest_labels_fit_100_columns_and_figures_stay_whole() {
        let views = [longest("a"), longest("b"), listed("@65", None, |view| view.cost_bytes = None)];
        let text = table(&views);
        assert!(text.lines().all(|line| line.width() <= COLUMNS), "{text}");
        let line = text.lines().nth(1).unwrap();
        assert!(line.matches("1023T").count() == 5 && line.contains("template"), "{text}");
        assert!(line.matches('…').count() == 4 && line.ends_with(".ram"), "{text}");
        let vms = by_vm(&views, SortKey::Cost).unwrap();
        let text = table_of_vms(&vms, &views);
        assert!(text.lines().all(|line| line.width() <= COLUMNS), "{text}");
        assert!(text.contains(&"a".repeat(25)), "{text}");
    }

    #[test]
    fn what_fits_is_shown_whole_and_added_up() {
        let mut view = listed("web-1", Some("web"), |view| {
            (view.cost_bytes, view.private_bytes, view.cached_bytes) = (Some(6144), 4096, Some(2048));
            view.opener = Some(OpenerReport { pid: 7, uid: 0, comm: "qemu".into() });
            view.processes = vec![process(7), process(8)];
        });
        let unknown = listed("@65", None, |view| {
            (view.kind, view.cost_bytes, view.cow_anon_bytes) = ("rom".into(), None, None);
        });
        let text = table(&[view.clone(), unknown]);
        assert_eq!(
            text,
            "VIEW   VM    KIND     COST  PRIVATE  COPIED  CACHED  SAVED  OPENERS    TEMPLATE\n\
             web-1  web   private  6.0K     4.0K       0    2.0K   1.0M  qemu:7 +1  debian/12.ram\n\
             @65    -     rom         -        0       -       0   1.0M  -          debian/12.ram\n\
             total  1 VM              -     4.0K       -    2.0K   2.0M             2 views\n"
        );
        view.mountpoint = "/mnt/u".into();
        let text = table(&[listed("a", None, |_| ()), view]);
        assert!(
            text.contains("  /mnt/t/debian/12.ram\n") && text.contains("  /mnt/u/debian/12.ram\n"),
            "{text}"
        );
        assert!(table(&[]).ends_with("0 views\n"));
    }

    #[test]
    fn what_is_set_aside_is_a_line_each() {
        let mut web = set_aside("web-1");
        web.view.reason = "/state/n-web-1.map: it is torn\nor damaged".into();
        let db = set_aside("db");
        web.view.opens = 2;
        assert_eq!(
            aside(&[db, web]),
            "db is set aside: it is damaged; once it is put right: templatefs upgrade /mnt/t\n\
             web-1 is set aside, with errors for who has it open: /state/n-web-1.map: it is torn\\nor damaged; once it is \
             put right: templatefs upgrade /mnt/t\n"
        );
        assert_eq!(aside(&[]), "");
    }
}
