//! Requests about one file: what of it is open, and what that holds.

use rustix::fs::FallocateFlags;
use templatefs::engine::FIRST_FOREIGN;

use super::kernel::number;
use super::operation::{Data, Flags, Mode, Number, Which};
use super::protocol::{FALLOCATE, GETATTR, LSEEK, OPEN, READ, RELEASE, SETATTR, WRITE};
use super::tree::Found;
use super::{Handle, Node, Shared, Users, words};

impl Users<'_> {
    pub(super) fn getattr(&mut self, which: Which) {
        let id = self.node(which);
        let Ok(shown) = self.ask(GETATTR, id, &words(&[0, 0])) else { return };
        let size = number(&shown, 24, 8);
        match self.nodes.get(&id) {
            Some(Node { found: Found::Rom(template), .. }) => {
                assert_eq!(size, self.tree.content(*template).size);
            }
            Some(Node { content: Some(content), opens: 1.., .. }) => {
                assert_eq!(size, content.borrow().size, "node {id}");
            }
            _ => {}
        }
    }

    pub(super) fn setattr(
        &mut self,
        node: Which,
        handle: Which,
        size: Option<Number>,
        mode: Option<u32>,
        owner: Option<u32>,
        times: u16,
    ) {
        let (id, handle) = (self.node(node), self.handle(handle));
        // FATTR_MODE, UID, GID, SIZE, and the rest as it comes.
        let mut valid = u64::from(times & !0b1111);
        for (given, bits) in [(mode.is_some(), 0b1), (owner.is_some(), 0b110), (size.is_some(), 0b1000)] {
            valid |= if given { bits } else { 0 };
        }
        let (mode, owner) = (u64::from(mode.unwrap_or(0)), u64::from(owner.unwrap_or(0)));
        let seconds = u64::from(times).wrapping_mul(0x1_0000_0001_0001);
        let nanoseconds = u64::from(times) << 20 | u64::from(times) << 52;
        let length = size.map_or(0, |size| size.0);
        let body = words(&[
            valid,
            handle,
            length,
            0,
            seconds,
            seconds,
            seconds,
            nanoseconds,
            nanoseconds | mode << 32,
            owner << 32,
            owner,
        ]);
        if id >= FIRST_FOREIGN || self.ask(SETATTR, id, &body).is_err() {
            return;
        }
        let Some(content) = self.view_at(id) else { panic!("node {id} is no view and was changed") };
        if size.is_some() {
            content.borrow_mut().resize(length);
        }
    }

    pub(super) fn open(&mut self, node: Which, Flags(flags): &Flags) {
        let id = self.node(node);
        if id >= FIRST_FOREIGN {
            return;
        }
        let Ok(opened) = self.ask(OPEN, id, &words(&[u64::from(*flags)])) else { return };
        let handle = number(&opened, 0, 8);
        let node = self.nodes.get(&id).unwrap_or_else(|| panic!("node {id} was never found"));
        assert!(!node.spent, "node {id} is opened again");
        // Both bits let a caller neither read nor write (open(2), "file access mode").
        let writes = matches!(flags & 3, 1 | 2);
        let (content, template) = match &node.found {
            Found::Rom(template) if !writes => (Shared::new(self.tree.content(*template).into()), true),
            Found::Private { template, view: None } if !writes && node.content.is_none() => {
                (Shared::new(self.tree.content(*template).into()), true)
            }
            Found::Private { .. } => (self.view_at(id).expect("a view"), false),
            other => panic!("{other:?} was opened with flags {flags:#o}"),
        };
        let opened = Handle { node: id, content, template };
        if self.handles.insert(handle, opened).is_some() {
            panic!("handle {handle} is two open files");
        }
        self.handle_ids.push(handle);
        self.nodes.get_mut(&id).expect("it is known").opens += 1;
    }

    pub(super) fn read(&mut self, id: u64, offset: u64, size: u64) {
        let body = words(&[id, offset, size, 0, 0]);
        let read = self.ask(READ, self.node_of(id), &body);
        let Some(handle) = self.handles.get(&id) else { return };
        match read {
            Ok(read) => {
                let content = handle.content.borrow();
                assert!(content.is_read(offset, size, &read), "handle {id}: {size} bytes at {offset}");
            }
            Err(errno) => assert!(offset > i64::MAX as u64, "handle {id} at {offset}: error {errno}"),
        }
    }

    pub(super) fn write(&mut self, handle: Which, Number(offset): Number, data: &Data, flags: u8) {
        let (id, data) = (self.handle(handle), data.bytes());
        // Mapped pages (bit 0) that find no room are not answered: they wait.
        let length = data.len() as u64 | u64::from(flags & !1) << 32;
        let body = [words(&[id, offset, length, 0, 0]), data.clone()].concat();
        let Ok(written) = self.ask(WRITE, self.node_of(id), &body) else { return };
        assert_eq!(number(&written, 0, 4), data.len() as u64);
        if id >= FIRST_FOREIGN {
            return;
        }
        self.written_through(id).borrow_mut().write(offset, &data);
    }

    pub(super) fn allocate(
        &mut self,
        handle: Which,
        Number(offset): Number,
        Number(length): Number,
        Mode(mode): &Mode,
    ) {
        let id = self.handle(handle);
        // Room that the machine has is not to be taken from it.
        let length = if length < 1 << 45 { length % (1 << 20) } else { length };
        let body = words(&[id, offset, length, u64::from(*mode)]);
        if self.ask(FALLOCATE, self.node_of(id), &body).is_err() {
            return;
        }
        let content = self.written_through(id);
        let mut content = content.borrow_mut();
        let mode = FallocateFlags::from_bits_retain(*mode);
        if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            content.zero(offset, length);
        }
        if !mode.contains(FallocateFlags::KEEP_SIZE) {
            content.reach(offset + length);
        }
    }

    pub(super) fn seek(&mut self, handle: Which, Number(offset): Number, whence: i8) {
        let id = self.handle(handle);
        let whence = if whence < 32 { 3 + (whence & 1) } else { whence };
        let body = words(&[id, offset, u64::from(whence as u32)]);
        let Ok(found) = self.ask(LSEEK, self.node_of(id), &body) else { return };
        let at = number(&found, 0, 8);
        let Some(handle) = self.handles.get(&id) else { panic!("handle {id} is not open") };
        let content = handle.content.borrow();
        assert!(offset <= at && at <= content.size, "{offset} {at} of {}", content.size);
        assert!(whence != 3 || content.is_zero(offset, at), "data between {offset} and {at}");
    }

    pub(super) fn release(&mut self, handle: Which, flags: u32) {
        let id = self.handle(handle);
        let node = self.node_of(id);
        assert!(self.ask(RELEASE, node, &words(&[id, u64::from(flags), 0])).is_ok());
        if let Some(handle) = self.handles.remove(&id)
            && let Some(node) = self.nodes.get_mut(&handle.node)
        {
            self.handle_ids.retain(|known| *known != id);
            node.opens -= 1;
            node.spent |= node.opens == 0 && matches!(node.found, Found::Private { view: None, .. });
        }
    }
}
