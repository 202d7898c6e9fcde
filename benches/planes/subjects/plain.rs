//! No filesystem's help.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{Subject, View};
use crate::Result;
use crate::report::{Role, figures};
use crate::template::Template;

/// A private mapping of the template file itself: what every private mapping is measured by.
pub struct Native;

impl Subject for Native {
    fn name(&self) -> &'static str {
        figures::NATIVE
    }

    fn role(&self) -> Role {
        Role::Native
    }

    fn what(&self) -> &'static str {
        "MAP_PRIVATE of the template file itself, opened O_RDONLY; not shareable between processes"
    }

    fn writable(&self) -> bool {
        false
    }

    fn makes(&self) -> bool {
        false
    }

    fn make(&mut self, template: &Template) -> Result<View> {
        Ok(View { writable: false, ..View::new(&template.path, ()) })
    }
}

/// A full copy in memory: what every shared mapping is measured by.
pub struct Memfd;

impl Subject for Memfd {
    fn name(&self) -> &'static str {
        figures::MEMFD
    }

    fn role(&self) -> Role {
        Role::Native
    }

    fn what(&self) -> &'static str {
        "a memfd that the template was copied into, with its holes"
    }

    fn make(&mut self, template: &Template) -> Result<View> {
        let memory = File::from(memfd_create("planes", MemfdFlags::CLOEXEC)?);
        let mut file = File::open(&template.path)?;
        memory.set_len(template.size)?;
        for piece in template.data()? {
            io::Seek::seek(&mut file, io::SeekFrom::Start(piece.start))?;
            io::Seek::seek(&mut &memory, io::SeekFrom::Start(piece.start))?;
            io::copy(&mut io::Read::take(&mut file, piece.end - piece.start), &mut &memory)?;
        }
        Ok(View::new(format!("/proc/self/fd/{}", memory.as_raw_fd()), memory))
    }
}
