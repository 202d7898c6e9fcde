//! Ways to get a private view of a template, measured side by side in one run; docs/BENCHMARKS.md is its output.
//!
//!     arguments.rs                 what to measure, and how much
//!     supervise.rs                 cleans up after the measuring process, however it ends
//!     template.rs  subjects/       what is measured
//!     workloads/                   what is done to it
//!     mounts.rs  memory.rs  machine.rs
//!     report/                      samples in, documents out; pure, tested by tests/benchmark.rs

mod arguments;
#[path = "../../tests/common/mod.rs"]
mod common;
mod machine;
mod memory;
mod mounts;
mod report;
mod subjects;
mod supervise;
mod template;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use arguments::{Arguments, Plan, Workload};
use report::Run;
use report::figures::{self, Access, Order, Sharing};
use subjects::Subject;
use template::Template;
use workloads::touch::Pattern;
use workloads::{Log, Task, data, dirty, open, touch, views};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAGE: usize = 4096;
const SAMPLES: &str = "benchmarks.json";
/// A refusal of all workloads.
const EVERYTHING: &str = "everything";
/// Whose shared views are dirtied for long: a full copy, a clone on a disk, a FUSE peer, and both planes of
/// templatefs that can be written.
const DIRTIED: [&str; 5] = ["memfd", "reflink-xfs", "qemu-storage-daemon", figures::DEFAULT, figures::MEMORY];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match go(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("planes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn go(arguments: &Arguments) -> Result<ExitCode> {
    let out = arguments.out();
    if let Some(samples) = &arguments.render {
        write(&serde_json::from_slice(&fs::read(samples)?)?, &out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !common::mounted::is_root() {
        return Err("it mounts filesystems and loop devices: run it as root".into());
    }
    let Some(scratch) = supervise::scratch() else { return supervise::run(&arguments.scratch) };
    let mut bench = Bench::new(arguments, &scratch)?;
    let measured = bench.measure();
    // What was measured before a failure is worth keeping.
    bench.keep()?;
    measured?;
    write(&bench.run, &out)?;
    Ok(ExitCode::SUCCESS)
}

fn write(run: &Run, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join(SAMPLES), json(run)?)?;
    fs::write(out.join("BENCHMARKS.md"), report::markdown::render(run))?;
    for (name, svg) in report::plots::all(run) {
        fs::write(out.join(name), svg)?;
    }
    println!("written: BENCHMARKS.md, benchmarks.json and plots in {}", out.display());
    Ok(())
}

fn json(run: &Run) -> Result<String> {
    Ok(serde_json::to_string(run)?.replace("},{", "},\n{"))
}

struct Bench<'a> {
    arguments: &'a Arguments,
    plan: Plan,
    subjects: Vec<Box<dyn Subject>>,
    scratch: PathBuf,
    store: PathBuf,
    run: Run,
    begin: Instant,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a Arguments, scratch: &Path) -> Result<Bench<'a>> {
        let mut subjects = subjects::all(scratch);
        subjects.retain(|subject| arguments.includes(subject.name()));
        let store = scratch.join("store");
        fs::create_dir(&store)?;
        let plan = Plan::new(arguments);
        let mut run = Run { machine: machine::describe()?, plan: plan.lines(), ..Run::default() };
        for subject in &subjects {
            let (name, what) = (subject.name().to_owned(), subject.what().to_owned());
            run.subjects.push(report::Subject { name, role: subject.role(), what });
        }
        Ok(Bench {
            arguments,
            plan,
            subjects,
            scratch: scratch.to_owned(),
            store,
            run,
            begin: Instant::now(),
        })
    }

    fn measure(&mut self) -> Result<()> {
        if self.arguments.runs(Workload::Touch) || self.arguments.runs(Workload::Data) {
            let random = Template::random(&self.store, "random", self.plan.template, self.plan.seed)?;
            let guest = self.guest()?;
            for round in 0..self.plan.rounds {
                self.rounds(&random, round)?;
                if let Some(guest) = guest.as_ref().filter(|_| round < self.plan.guest_rounds) {
                    self.rounds(guest, round)?;
                }
                self.keep()?;
            }
        }
        if self.arguments.runs(Workload::Open) {
            self.opens()?;
            self.keep()?;
        }
        if self.arguments.runs(Workload::Views) {
            self.views()?;
            self.keep()?;
        }
        if self.arguments.runs(Workload::Dirty) {
            self.dirty()?;
            self.keep()?;
        }
        if self.arguments.runs(Workload::Clones) {
            self.say("clones");
            let (store, scratch, clones) = (&self.store, &self.scratch, self.plan.clones);
            let measured = unwinding(|| {
                workloads::clones::measure(store, scratch, clones, self.arguments, &mut self.run)
            });
            measured
                .unwrap_or_else(|error| self.run.refuse("guests", "clones", &self.without_paths(&*error)));
        }
        Ok(())
    }

    /// None, with the reason in the report, where this machine has no QEMU or no guest kernel (tests/run installs them).
    fn guest(&mut self) -> Result<Option<Template>> {
        self.say("the guest image");
        let (store, size) = (&self.store, self.plan.template);
        let made = unwinding(|| Template::of_a_guest(store, "guest", size));
        Ok(made.map_err(|error| self.run.refuse("guest image", "touch", &self.without_paths(&*error))).ok())
    }

    fn rounds(&mut self, template: &Template, round: usize) -> Result<()> {
        self.run.machine.load.push(machine::load()?);
        let seed = self.plan.seed.wrapping_mul(1000) + round as u64;
        if self.arguments.runs(Workload::Touch) {
            for sharing in Sharing::ALL {
                for order in Order::ALL {
                    for access in Access::ALL {
                        let pattern = Pattern { order, access, sharing };
                        self.say(&format!("{}, round {round}, {pattern:?}", template.name));
                        self.each(
                            round,
                            "touch",
                            template,
                            template.name,
                            |subject, plan, log| match pattern.fits(subject) {
                                true => touch::measure(subject, Task { template, plan, seed }, pattern, log),
                                false => Ok(()),
                            },
                        );
                    }
                }
            }
        }
        if self.arguments.runs(Workload::Data) {
            self.say(&format!("{}, round {round}, pread and pwrite", template.name));
            self.each(round, "data", template, template.name, |subject, plan, log| {
                data::measure(subject, Task { template, plan, seed }, log)
            });
        }
        Ok(())
    }

    fn opens(&mut self) -> Result<()> {
        for (name, size) in self.plan.sizes.clone() {
            let template = Template::sparse(&self.store, name, size)?;
            for round in 0..self.plan.rounds {
                self.say(&format!("opening of {name}, round {round}"));
                // The others make a file in a time that grows with the template; opening it is like any file's.
                self.some(ours_or_native, round, "open", &template, name, |subject, plan, log| {
                    open::by_size(subject, &template, plan, log)
                });
            }
        }
        let template = Template::sparse(&self.store, "many", self.plan.many)?;
        self.say("opening by live views");
        self.some(ours_untouched, 0, "live views", &template, "", |subject, plan, log| {
            let (name, mut found) = (subject.name(), Vec::new());
            let done = open::by_views(subject, &template, plan, |figure, at, value| {
                found.push((figure.to_owned(), at.to_string(), value));
            });
            // Also where it ended early: what was reached is known.
            if let Some(run) = &mut log.run {
                found.iter().for_each(|(figure, at, value)| run.add(figure, at, name, *value));
            }
            done
        });
        Ok(())
    }

    fn views(&mut self) -> Result<()> {
        let template = Template::random(&self.store, "small", self.plan.many, self.plan.seed)?;
        for count in self.plan.views {
            self.say(&format!("{count} views"));
            let seed = self.plan.seed + count as u64;
            self.each(count, "views", &template, &count.to_string(), |subject, _, log| {
                views::measure(subject, &template, count, seed, log)
            });
        }
        Ok(())
    }

    fn dirty(&mut self) -> Result<()> {
        let template = Template::random(&self.store, "dirtied", self.plan.template, self.plan.seed)?;
        self.say("sustained dirtying");
        let seed = self.plan.seed;
        let chosen = |subject: &dyn Subject| DIRTIED.contains(&subject.name());
        self.some(chosen, 0, "dirty", &template, template.name, |subject, plan, log| {
            dirty::measure(subject, Task { template: &template, plan, seed }, log)
        });
        Ok(())
    }

    fn each(
        &mut self,
        turn: usize,
        workload: &str,
        template: &Template,
        at: &str,
        act: impl FnMut(&mut dyn Subject, &Plan, &mut Log) -> Result<()>,
    ) {
        self.some(|_| true, turn, workload, template, at, act);
    }

    /// One workload on these subjects, one after the other; each turn begins with another. A subject that
    /// fails is left out of the workload from then on, and its error is in the report.
    fn some(
        &mut self,
        chosen: impl Fn(&dyn Subject) -> bool,
        turn: usize,
        workload: &str,
        template: &Template,
        at: &str,
        mut act: impl FnMut(&mut dyn Subject, &Plan, &mut Log) -> Result<()>,
    ) {
        let count = self.subjects.len();
        for number in 0..count {
            let subject = &mut *self.subjects[(number + turn) % count];
            let name = subject.name();
            let out = |refusal: &report::Refusal| {
                refusal.subject == name && [workload, EVERYTHING].contains(&&*refusal.workload)
            };
            if !chosen(subject) || self.run.refusals.iter().any(out) {
                continue;
            }
            let mut done = Ok(());
            let mut refused = workload;
            if let Err(error) = subject.ready(template) {
                done = Err(error);
                refused = EVERYTHING;
            }
            for _ in 0..subject.training() {
                let mut log = Log { run: None, subject: name, at };
                done = done.and_then(|()| act(subject, &self.plan, &mut log));
            }
            subject.trained();
            let mut log = Log { run: Some(&mut self.run), subject: name, at };
            done = done.and_then(|()| act(subject, &self.plan, &mut log));
            if let Err(error) = done {
                println!("{name} refuses: {error}");
                self.run.refuse(name, refused, &self.without_paths(&*error));
            }
        }
    }

    /// A report names no directory of the machine.
    fn without_paths(&self, error: &dyn std::error::Error) -> String {
        error.to_string().replace(&*self.scratch.to_string_lossy(), "SCRATCH")
    }

    /// The samples so far, below target/: `--render` makes documents of them.
    fn keep(&mut self) -> Result<()> {
        self.run.machine.seconds = self.begin.elapsed().as_secs_f64();
        let directory = arguments::kept();
        fs::create_dir_all(&directory)?;
        Ok(fs::write(directory.join(SAMPLES), json(&self.run)?)?)
    }

    fn say(&self, what: &str) {
        println!("{:5.0} s  {what}", self.begin.elapsed().as_secs_f64());
    }
}

/// Nothing is touched where opening alone is measured.
fn ours_untouched(subject: &dyn Subject) -> bool {
    subject.role() == report::Role::Templatefs && !subject.learns()
}

fn ours_or_native(subject: &dyn Subject) -> bool {
    ours_untouched(subject) || subject.name() == report::figures::NATIVE
}

/// The guests of the tests panic where something is missing; here that is a refusal.
fn unwinding<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    caught.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(said.unwrap_or_else(|| "a guest failed".to_owned()).into())
    })
}
