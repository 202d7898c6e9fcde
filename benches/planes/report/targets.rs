//! Which targets a run meets. Every ratio is one of medians of the same run. Pure.

use std::slice::from_ref;

use super::figures::{
    Access, CLONE_TIME, DEFAULT, IDLE_MEMORY, LEARNED, MAKE, MEMFD, NATIVE, OPEN, OPEN_BY_SIZE,
    OPEN_BY_VIEWS, Order, READ_ONLY, REFLINKS, ROM, Sharing, VIEWS_MEMORY, VIEWS_TOUCHED, steady, touch,
};
use super::{Role, Run};

/// On these templates; a target holds on both or not at all.
pub const TEMPLATES: [&str; 2] = ["random", "guest"];
/// "Independent" is taken as: the slowest within this of the fastest.
const INDEPENDENT: f64 = 1.5;
/// Steady state is to be 1.0 of a memfd; so much is left to measuring.
const STEADY: f64 = 1.05;
const IDLE_LIMIT: f64 = 16384.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

pub struct Target {
    pub what: &'static str,
    /// What the ratio is of.
    pub of: String,
    pub subject: String,
    pub limit: Limit,
    /// None: not measured.
    pub ratio: Option<f64>,
}

impl Target {
    pub fn met(&self) -> Option<bool> {
        self.ratio.map(|ratio| match self.limit {
            Limit::AtMost(limit) => ratio <= limit,
            Limit::AtLeast(limit) => ratio >= limit,
        })
    }
}

pub fn all(run: &Run) -> Vec<Target> {
    let mut all = Vec::new();
    let mut add = |what, of: &str, subject: &str, limit, ratio| {
        all.push(Target { what, of: of.to_owned(), subject: subject.to_owned(), limit, ratio });
    };
    let first = touch(Order::Random, Access::Write, Sharing::Shared);
    let private = touch(Order::Random, Access::Write, Sharing::Private);
    let faults: Vec<_> = [Order::Sequential, Order::Random]
        .iter()
        .flat_map(|order| Access::ALL.map(|access| touch(*order, access, Sharing::Private)))
        .collect();

    let ratio = worst(run, &faults, READ_ONLY, NATIVE);
    add(
        "O_RDONLY + MAP_PRIVATE: every fault",
        "slowest of four, of native's",
        READ_ONLY,
        Limit::AtMost(1.05),
        ratio,
    );
    let ratio = least_of_peers(run, OPEN).and_then(|peer| Some(slowest(run, OPEN, ROM)? / peer));
    add(
        "opening a ROM view",
        "of the fastest FUSE peer's opening a file that is there",
        ROM,
        Limit::AtMost(1.0),
        ratio,
    );
    for mode in writable(run) {
        let open = slowest(run, OPEN, mode);
        let ratio = least_of_peers(run, MAKE).and_then(|peer| Some(peer / open?));
        add(
            "a new private view: times faster",
            "the fastest FUSE peer's making one, of opening here",
            mode,
            Limit::AtLeast(200.0),
            ratio,
        );
        let ratio = slowest(run, OPEN, ROM).and_then(|rom| Some(open? / rom));
        add("a new private view", "of opening a ROM view", mode, Limit::AtMost(3.0), ratio);
        for (what, figure) in [
            ("opening, whatever the template's size", OPEN_BY_SIZE),
            ("opening, however many views live", OPEN_BY_VIEWS),
        ] {
            add(what, "slowest of the fastest", mode, Limit::AtMost(INDEPENDENT), spread(run, figure, mode));
        }
        let learned = mode == LEARNED;
        let (what, near) = match learned {
            true => ("random first write, MAP_SHARED, working set known", 2.0),
            false => ("random first write, MAP_SHARED, template never used", 8.0),
        };
        add(what, "of a filled memfd", mode, Limit::AtMost(near), worst(run, from_ref(&first), mode, MEMFD));
        let ratio = worst(run, from_ref(&private), mode, MEMFD);
        add(
            "random first write, O_RDWR + MAP_PRIVATE",
            "of a filled memfd",
            mode,
            Limit::AtMost(near),
            ratio,
        );
        if learned {
            let own = slowest(run, &first, mode);
            let ratio = least_of_peers(run, &first).and_then(|peer| Some(peer / own?));
            add(
                "the same: times faster",
                "the fastest FUSE peer's, of it",
                mode,
                Limit::AtLeast(10.0),
                ratio,
            );
            let ratio = least(run, &first, REFLINKS.iter().copied()).and_then(|clone| Some(clone / own?));
            add("the same: times faster", "the faster reflink's, of it", mode, Limit::AtLeast(1.0), ratio);
        }
        let sequential = Access::ALL.map(|access| touch(Order::Sequential, access, Sharing::Shared));
        let ratio = worst(run, &sequential, mode, MEMFD);
        add(
            "sequential first touch, MAP_SHARED",
            "slower of two, of a filled memfd",
            mode,
            Limit::AtMost(2.0),
            ratio,
        );
        let ratio = worst(run, &Access::ALL.map(|access| steady(access, Sharing::Shared)), mode, MEMFD);
        add("steady state, MAP_SHARED", "slower of two, of memfd", mode, Limit::AtMost(STEADY), ratio);
        add(
            "memory of a share=on view",
            "of the distinct pages touched",
            mode,
            Limit::AtMost(1.1),
            memory(run, mode),
        );
        let mut most = run.circumstances(IDLE_MEMORY).into_iter().rev();
        let idle = most.find_map(|at| run.median(IDLE_MEMORY, at, mode));
        let ratio = idle.map(|bytes| bytes / IDLE_LIMIT);
        add("daemon memory per idle view", "of 16 KiB", mode, Limit::AtMost(1.0), ratio);
    }
    for mode in run.of_role(Role::Templatefs) {
        let native = run.median(CLONE_TIME, "guest", NATIVE);
        let ratio = native.and_then(|native| Some(run.median(CLONE_TIME, "guest", mode)? / native));
        add("clone to answer, p50", "of native rom=off", mode, Limit::AtMost(1.1), ratio);
    }
    all
}

/// Modes with writable views of which anything was measured; the default and the learned always.
fn writable(run: &Run) -> Vec<&str> {
    let measured = |mode: &str| run.series.iter().any(|series| series.subject == mode);
    let chosen = |mode: &&str| {
        ![ROM, READ_ONLY].contains(mode) && ([DEFAULT, LEARNED].contains(mode) || measured(mode))
    };
    run.of_role(Role::Templatefs).filter(chosen).collect()
}

/// The largest ratio over these figures and all templates; None where one side was not measured.
fn worst(run: &Run, figures: &[String], mode: &str, base: &str) -> Option<f64> {
    let mut worst = None;
    for figure in figures {
        for at in measured(run, figure) {
            let ratio = run.median(figure, at, mode)? / run.median(figure, at, base)?;
            worst = Some(ratio.max(worst.unwrap_or(ratio)));
        }
    }
    worst
}

fn measured<'a>(run: &'a Run, figure: &str) -> impl Iterator<Item = &'static str> + use<'a> {
    let found = run.circumstances(figure);
    TEMPLATES.into_iter().filter(move |at| found.contains(at))
}

/// The larger of the two templates' medians.
fn slowest(run: &Run, figure: &str, subject: &str) -> Option<f64> {
    measured(run, figure).filter_map(|at| run.median(figure, at, subject)).reduce(f64::max)
}

fn least<'a>(run: &Run, figure: &str, subjects: impl Iterator<Item = &'a str>) -> Option<f64> {
    let medians = |subject: &str| {
        measured(run, figure).filter_map(|at| run.median(figure, at, subject)).collect::<Vec<_>>()
    };
    subjects.flat_map(medians).reduce(f64::min)
}

fn least_of_peers(run: &Run, figure: &str) -> Option<f64> {
    least(run, figure, run.of_role(Role::FusePeer))
}

fn spread(run: &Run, figure: &str, subject: &str) -> Option<f64> {
    let places = run.circumstances(figure);
    let medians: Vec<f64> = places.iter().filter_map(|at| run.median(figure, at, subject)).collect();
    let (least, most) =
        (medians.iter().copied().reduce(f64::min)?, medians.iter().copied().reduce(f64::max)?);
    (medians.len() > 1).then_some(most / least)
}

/// With the most views that were measured.
fn memory(run: &Run, mode: &str) -> Option<f64> {
    let places = run.circumstances(VIEWS_MEMORY);
    let of = |at: &&str| Some(run.median(VIEWS_MEMORY, at, mode)? / run.median(VIEWS_TOUCHED, at, mode)?);
    places.iter().rev().find_map(of)
}
