//! Makes the kernel know a node that nobody uses: a process of its own looks it up.
//!
//! A daemon must not wait for its own mount (inspect/cache.rs). The process gets lines `NODE` and
//! answers each with `ok` or why not. It opens the node with O_PATH, of which the daemon hears
//! nothing but the LOOKUP, and again while it holds the first one: both LOOKUPs are of one inode,
//! which is what engine/nodes.rs counts on. It keeps no descriptor, so that the mount is not busy, and
//! is killed with the daemon: nobody would answer it before a successor does.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::engine::{Engine, TemplateRef};
use crate::program;

/// The process that looks nodes up; it ends with this value.
struct Looker {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Looker {
    fn start(mountpoint: &Path) -> io::Result<Self> {
        let mut child = program::command()
            .arg("warm")
            .arg(mountpoint)
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let questions = child.stdin.take();
        let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    fn look_up(&mut self, node: u64) -> io::Result<()> {
        let questions = self.questions.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(questions, "{node}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim_end() {
            "ok" => Ok(()),
            "" => Err(io::Error::other("the process that looks nodes up has ended")),
            why => Err(io::Error::other(why.to_owned())),
        }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        // Without questions it ends.
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}

/// A new node that the kernel knows.
pub fn instantiate(engine: &Engine, mountpoint: &Path, template: &TemplateRef) -> io::Result<u64> {
    let mut looker = Looker::start(mountpoint)?;
    let node = engine.begin_warming(template, looker.child.id()).map_err(io::Error::other)?;
    let looked_up = looker.look_up(node);
    let is_known = engine.end_warming(node);
    looked_up?;
    match is_known {
        true => Ok(node),
        false => Err(io::Error::other("the kernel forgot it at once: memory is short")),
    }
}

/// The process that looks, for as long as `daemon` lives.
pub fn answer(
    mountpoint: &Path,
    daemon: i32,
    questions: impl BufRead,
    mut answers: impl Write,
) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(daemon) {
        return Err(io::Error::other("the daemon has ended"));
    }
    let directory = mountpoint.join(".templatefs/warm");
    for node in questions.lines() {
        let path = directory.join(node?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(CWD, &path, flags, Mode::empty());
        let held = open().and_then(|first| open().map(|second| (first, second)));
        match held {
            Ok(both) => {
                drop(both);
                writeln!(answers, "ok")?;
            }
            Err(error) => writeln!(answers, "{}: {error}", path.display())?,
        }
        answers.flush()?;
    }
    Ok(())
}
