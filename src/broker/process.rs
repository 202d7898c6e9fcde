//! The process that is asked (mod.rs).

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;

use super::ProcessFile;
use crate::holder::wire::{self, Packet};
use crate::mount;
use crate::program;

/// Answers until nobody can ask any more. Programs are started by this thread alone: those that end
/// with their parent end with the thread that started them (prctl(2), PR_SET_PDEATHSIG).
pub fn answer(mountpoint: &Path, socket: &OwnedFd) -> io::Result<()> {
    let mut children: Vec<Child> = Vec::new();
    while let Some((kind, text, stream)) = wire::receive_packet(socket)? {
        children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        let Some(stream) = stream else { continue };
        // Whoever asked sees that the stream ends.
        let _ = match kind {
            b'C' => look(&["page-cache".into(), mountpoint.into()], stream).map(|child| children.push(child)),
            b'W' => {
                let parent = std::process::id().to_string();
                look(&["warm".into(), mountpoint.into(), parent.into()], stream)
                    .map(|child| children.push(child))
            }
            // Looking at a process may wait for it, and unmounting for whoever passes by.
            _ => in_background(mountpoint.to_owned(), (kind, text, Some(stream))),
        };
    }
    Ok(())
}

fn look(arguments: &[OsString], stream: OwnedFd) -> io::Result<Child> {
    let mut command = program::command();
    command
        .args(arguments)
        .stdin(Stdio::from(stream.try_clone()?))
        .stdout(Stdio::from(stream))
        .stderr(Stdio::null())
        .spawn()
}

fn in_background(mountpoint: PathBuf, (kind, text, stream): Packet) -> io::Result<()> {
    let Some(stream) = stream.map(UnixStream::from) else { return Ok(()) };
    let work = move || match kind {
        b'P' => hand_over(&text, &stream),
        b'D' => list().and_then(|pids| {
            let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            (&stream).write_all(lines.as_bytes())
        }),
        b'U' => match mount::detach(&mountpoint) {
            Ok(()) => Ok(()),
            Err(error) => (&stream).write_all(error.to_string().as_bytes()),
        },
        _ => Ok(()),
    };
    thread::Builder::new().name("answer".into()).spawn(work).map(drop)
}

fn hand_over(wanted: &str, stream: &UnixStream) -> io::Result<()> {
    let opened = match parse(wanted) {
        Some((pid, file)) => file.open(pid),
        None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    match opened {
        Ok(file) => wire::send(stream, b'P', "", Some(std::os::fd::AsFd::as_fd(&file))),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            wire::send(stream, b'X', &errno.to_string(), None)
        }
    }
}

fn parse(wanted: &str) -> Option<(u32, ProcessFile)> {
    let (pid, name) = wanted.split_once(' ')?;
    let file = ProcessFile::ALL.into_iter().find(|file| file.name() == name)?;
    Some((pid.parse().ok()?, file))
}

pub fn list() -> io::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_these_files_of_processes_is_opened() {
        assert_eq!(parse("7 maps"), Some((7, ProcessFile::Maps)));
        for wanted in
            ["7 mem", "7 environ", "self maps", "7/../8 maps", "7 maps/", "-7 maps", "7  maps", "7", ""]
        {
            assert_eq!(parse(wanted), None, "{wanted}");
        }
    }
}
