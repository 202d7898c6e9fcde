//! Reading and writing what is open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::Engine;
use super::counters::Counters;
use super::nodes::{Content, Node, What};
use super::opened::{Handle, HandleId};
use crate::error::{Error, Result};
use crate::pins::Pinned;
use crate::views::View;

/// lseek(2) with SEEK_DATA or SEEK_HOLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// fallocate(2), as far as the kernel forwards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    Punch,
    Zero { keep_size: bool },
    Plain { keep_size: bool },
}

impl Allocate {
    pub fn from_mode(mode: i32) -> Result<Self> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Ok(Self::Plain { keep_size }),
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(Self::Punch),
            libc::FALLOC_FL_ZERO_RANGE => Ok(Self::Zero { keep_size }),
            _ => Err(Error::Unsupported(format!("fallocate mode {mode:#x} is not supported"))),
        }
    }

    fn may_grow(self) -> bool {
        !matches!(self, Self::Punch | Self::Zero { keep_size: true } | Self::Plain { keep_size: true })
    }
}

impl Engine {
    /// Fills `buf` from `offset`; fewer bytes only at the end.
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let handle = self.handle(handle)?;
        let read = match &handle.content {
            Content::Template(pinned) => {
                watch(&handle.node, pinned);
                let template = pinned.template();
                let length = template.identity().size.saturating_sub(offset).min(buf.len() as u64) as usize;
                template.read_at(&mut buf[..length], offset).map(|()| length)
            }
            Content::View(view) => {
                watch(&handle.node, &view.pinned);
                view.overlay.read(offset, buf)
            }
            Content::Authored(_) | Content::Memory(_) => read_file(own_file(&handle)?, offset, buf),
        };
        let length = read.map_err(|e| self.failed(&handle.node, "read", offset, buf.len(), e))?;
        self.count(&handle.node, |counters| counters.read(length));
        Ok(length)
    }

    /// Writes all of `data` or nothing of it. The kernel may name any open file of the node when
    /// it writes mapped pages back.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<()> {
        let handle = self.handle(handle)?;
        let written = match &handle.content {
            Content::View(view) => {
                self.admit_end(&handle.node, view, offset, data.len() as u64)?;
                view.overlay.write(offset, data)
            }
            _ => own_file(&handle)?.write_all_at(data, offset),
        };
        written.map_err(|e| self.failed(&handle.node, "write", offset, data.len(), e))?;
        self.count(&handle.node, |counters| counters.written(data.len()));
        Ok(())
    }

    /// Until the result is dropped, this much of a write-back counts as held.
    pub fn holding(&self, handle: HandleId, bytes: usize) -> impl Drop + use<> {
        struct Holding(Option<Arc<Handle>>, usize);
        impl Drop for Holding {
            fn drop(&mut self) {
                if let Some(handle) = &self.0 {
                    handle.node.counters.held_no_more(self.1);
                }
            }
        }
        let handle = self.handle(handle).ok();
        if let Some(handle) = &handle {
            handle.node.counters.held(bytes);
        }
        Holding(handle, bytes)
    }

    pub fn allocate(&self, handle: HandleId, offset: u64, length: u64, how: Allocate) -> Result<()> {
        let handle = self.handle(handle)?;
        let done = match &handle.content {
            Content::View(view) => {
                let overlay = &view.overlay;
                if how.may_grow() {
                    self.admit_end(&handle.node, view, offset, length)?;
                }
                match how {
                    Allocate::Punch => overlay.punch(offset, length),
                    Allocate::Zero { keep_size } => overlay.zero_range(offset, length, keep_size),
                    Allocate::Plain { keep_size } => overlay.allocate(offset, length, keep_size),
                }
            }
            Content::Memory(memory) if matches!(how, Allocate::Zero { .. }) => {
                memory.zero_range(offset, length, how == Allocate::Zero { keep_size: true })
            }
            _ => fallocate(own_file(&handle)?, fallocate_flags(how), offset, length).map_err(io::Error::from),
        };
        done.map_err(|e| self.failed(&handle.node, "fallocate", offset, length as usize, e))
    }

    /// May the view reach to the end of this range, if it does not yet?
    fn admit_end(&self, node: &Node, view: &View, offset: u64, length: u64) -> Result<()> {
        match (&node.what, offset.checked_add(length)) {
            (What::Private(private), Some(end)) if end > view.overlay.size() => {
                self.admit_size(&private.template.path, end)?;
                self.promise_growth(node, private, end)
            }
            _ => Ok(()),
        }
    }

    /// Whether mapped stores that the kernel has not written back yet could turn a hole of this
    /// file into data.
    pub fn holes_may_be_dirty(&self, handle: HandleId) -> Result<bool> {
        let handle = self.handle(handle)?;
        if !matches!(handle.content, Content::View(_)) {
            return Ok(false);
        }
        let node = &handle.node;
        let writable = |other: &Arc<Handle>| other.node.id == node.id && other.access.write;
        Ok(self.handles.iter().any(|entry| writable(entry.value())))
    }

    /// `Error::NoMoreData` where there is nothing at or after `offset`.
    pub fn seek(&self, handle: HandleId, offset: u64, whence: Seek) -> Result<u64> {
        let handle = self.handle(handle)?;
        let node = &handle.node;
        let failed = |e: io::Error| self.failed(node, "lseek", offset, 0, e);
        let (size, found) = match &handle.content {
            Content::Template(pinned) => {
                let template = pinned.template();
                let found = match whence {
                    Seek::Data => template.next_data(offset),
                    Seek::Hole => template.next_hole(offset).map(Some),
                };
                (template.identity().size, found)
            }
            Content::View(view) => {
                let found = match whence {
                    Seek::Data => view.overlay.next_data(offset),
                    Seek::Hole => view.overlay.next_hole(offset).map(Some),
                };
                (view.overlay.size(), found)
            }
            Content::Authored(_) | Content::Memory(_) => {
                let file = own_file(&handle)?;
                let size = file.metadata().map_err(failed)?.len();
                let from = match whence {
                    Seek::Data => SeekFrom::Data(offset),
                    Seek::Hole => SeekFrom::Hole(offset),
                };
                let found = match seek(file, from) {
                    Err(Errno::NXIO) => Ok(None),
                    found => found.map(Some).map_err(io::Error::from),
                };
                (size, found)
            }
        };
        match found.map_err(failed)? {
            Some(at) if offset < size => Ok(at),
            _ => Err(Error::NoMoreData),
        }
    }

    pub fn sync(&self, handle: HandleId) -> Result<()> {
        let handle = self.handle(handle)?;
        let synced = match &handle.content {
            Content::View(view) => view.overlay.sync(),
            Content::Authored(authored) => authored.file.sync_all(),
            Content::Template(_) | Content::Memory(_) => Ok(()),
        };
        synced.map_err(|e| self.failed(&handle.node, "fsync", 0, 0, e))
    }

    fn failed(&self, node: &Node, what: &str, offset: u64, length: usize, error: io::Error) -> Error {
        self.count(node, Counters::failed);
        let template = match &node.what {
            What::Rom { template, .. } | What::Template { template } | What::Warm { template } => {
                Some(template)
            }
            What::Private(private) => Some(&private.template),
            What::Directory { .. } | What::Leftover { .. } => None,
        };
        let path = template.map_or_else(String::new, |template| template.path.display().to_string());
        Error::io(format!("{path} (node {}): {what} of {length} bytes at {offset}", node.id), error)
    }
}

fn watch(node: &Node, pinned: &Pinned) {
    if let What::Rom { template, .. } | What::Private(super::nodes::PrivateRef { template, .. }) = &node.what
    {
        pinned.watch(&template.path);
    }
}

/// The file to write; nothing that shows a template alone has one.
fn own_file(handle: &Handle) -> Result<&File> {
    let denied = || Error::Denied(format!("node {}: it is open for reading only", handle.node.id));
    handle.content.file().ok_or_else(denied)
}

fn read_file(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn fallocate_flags(how: Allocate) -> FallocateFlags {
    let keep = |keep_size| if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
    match how {
        Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Allocate::Zero { keep_size } => FallocateFlags::ZERO_RANGE | keep(keep_size),
        Allocate::Plain { keep_size } => keep(keep_size),
    }
}
