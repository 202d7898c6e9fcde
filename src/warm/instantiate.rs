//! Makes the kernel know a node that nobody uses: a process of its own looks it up.
//!
//! A daemon must not wait for its own mount (inspect/cache.rs). The process gets lines `NODE` and
//! answers each with `ok` or why not. It opens the node with O_PATH, of which the daemon hears
//! nothing but the LOOKUP, and again while it holds the first one: both LOOKUPs are of one inode,
//! which is what engine/nodes.rs counts on. It keeps no descriptor, so that the mount is not busy, and
//! is killed with the daemon: nobody would answer it before a successor does.

use std::io::{self, BufRead, Write};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::broker::{Conversation, Looker};
use crate::engine::{Engine, TemplateRef};

/// A new node that the kernel knows.
pub fn instantiate(engine: &Engine, template: &TemplateRef) -> io::Result<u64> {
    let mut looker = Conversation::begin(Looker::Warm)?;
    let node = engine.begin_warming(template, looker.process).map_err(io::Error::other)?;
    let looked_up = look_up(&mut looker, node);
    let is_known = engine.end_warming(node);
    looked_up?;
    match is_known {
        true => Ok(node),
        false => Err(io::Error::other("the kernel forgot it at once: memory is short")),
    }
}

fn look_up(looker: &mut Conversation, node: u64) -> io::Result<()> {
    match looker.ask(&node.to_string())?.trim_end() {
        "ok" => Ok(()),
        "" => Err(io::Error::other("the process that looks nodes up has ended")),
        why => Err(io::Error::other(why.to_owned())),
    }
}

/// The process that looks, for as long as `parent` lives.
pub fn answer(
    mountpoint: &Path,
    parent: i32,
    questions: impl BufRead,
    mut answers: impl Write,
) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(parent) {
        return Err(io::Error::other("the daemon has ended"));
    }
    writeln!(answers, "{}", std::process::id())?;
    answers.flush()?;
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
