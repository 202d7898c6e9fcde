//! READ, WRITE and LSEEK of views, and STATFS: the room there is for what is written.

use std::cell::RefCell;

use fuser::{Errno, ReplyData, ReplyLseek, ReplyStatfs, ReplyWrite, Request};

use super::Adapter;
use super::convert::refuse;
use crate::engine::{RESENT, Seek};
use crate::errands::{self, WriteBack};
use crate::panics;

thread_local! {
    /// One READ's data; kept, so that reading allocates nothing.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Of this thread, which may rest for long.
pub fn let_go_of_buffer() {
    BUFFER.take();
}

impl Adapter {
    pub fn read_view(&self, request: &Request, handle: u64, offset: u64, size: usize, reply: ReplyData) {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = self.engine.read(handle, offset, &mut buffer[..size]);
            let length = try_reply!(reply, "read", request, read);
            reply.data(&buffer[..length]);
        });
    }

    /// `is_write_back`: the kernel writes mapped pages, and whoever stored to them has gone on.
    pub fn write_view(
        &self,
        request: &Request,
        handle: u64,
        offset: u64,
        data: &[u8],
        is_write_back: bool,
        reply: ReplyWrite,
    ) {
        let write = || self.engine.write(handle, offset, data);
        let is_first_try = request.unique().0 & RESENT == 0;
        let write_back = WriteBack { handle, offset, is_first_try };
        let written = match is_write_back {
            true => write_back.attempt(&self.engine, data),
            false if is_first_try => panics::unanswered(write),
            false => write(),
        };
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) if is_write_back && !errands::is_final(&error) => {
                errands::hold_write(self.engine.clone(), write_back, data.to_vec(), error, reply);
            }
            Err(error) => reply.error(refuse("write", request, &error)),
        }
    }

    pub fn seek_in_view(
        &self,
        request: &Request,
        (node, handle): (u64, u64),
        offset: u64,
        whence: Seek,
        reply: ReplyLseek,
    ) {
        let dirty = try_reply!(reply, "lseek", request, self.engine.holes_may_be_dirty(handle));
        if dirty && let Some(notifier) = self.notifier.get() {
            let (engine, notifier) = (self.engine.clone(), notifier.clone());
            return errands::seek(engine, notifier, (node, handle), offset, whence, reply);
        }
        let at = try_reply!(reply, "lseek", request, self.engine.seek(handle, offset, whence));
        reply.offset(at as i64);
    }

    pub fn room(&self, reply: ReplyStatfs) {
        match rustix::fs::statvfs(&self.state_directory) {
            Ok(s) => {
                let fragment = s.f_frsize as u32;
                reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, 4096, 255, fragment);
            }
            Err(e) => reply.error(Errno::from_i32(e.raw_os_error())),
        }
    }
}
