//! What stat(2) shows, and what may be changed of it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Engine;
use super::nodes::{Content, Node, PrivateRef, TemplateRef, What};
use super::opened::HandleId;
use crate::access::{Caller, WRITE};
use crate::error::{Error, Result};
use crate::memory::{MemoryView, Owner};
use crate::name::Label;
use crate::rules::Backing;
use crate::store::{Found, Metadata};
use crate::views::Named;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
}

#[derive(Debug, Clone)]
pub struct Attributes {
    pub node: u64,
    pub kind: FileKind,
    pub size: u64,
    /// Units of 512 bytes: for a private view, what it owns.
    pub blocks: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// How long the kernel may believe this.
    pub valid: Duration,
    /// How long it may believe that an entry is this node.
    pub entry_valid: Duration,
}

/// What setattr asks for.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<SystemTime>,
}

/// The store's files change rarely, and what decides is checked again at OPEN.
pub(super) const STORE_VALID: Duration = Duration::from_secs(1);

impl Engine {
    pub fn getattr(&self, caller: &Caller, id: u64) -> Result<Attributes> {
        let node = self.node(id)?;
        if let What::Directory { path } = &node.what
            && let Found::Directory(metadata) = self.store.find(path)?
        {
            *node.metadata.lock() = Some(metadata);
        }
        self.attributes_of(caller, &node)
    }

    pub(super) fn attributes_of(&self, caller: &Caller, node: &Node) -> Result<Attributes> {
        let metadata = || {
            let seen = node.metadata.lock().clone();
            seen.ok_or_else(|| Error::Stale(format!("node {}: it was never looked up", node.id)))
        };
        match &node.what {
            What::Directory { .. } => Ok(directory(node.id, &metadata()?)),
            What::Rom { template, .. } => {
                let seen = metadata()?;
                let size = template.identity.size;
                Ok(Attributes { size, mode: shown_mode(&seen) & 0o555, ..of_template(node.id, &seen) })
            }
            What::Template { .. } => {
                let seen = metadata()?;
                let mode = shown_mode(&seen);
                let mut attributes =
                    Attributes { valid: Duration::ZERO, mode, ..of_template(node.id, &seen) };
                if let Some(file) = node.content().0.as_ref().and_then(Content::file) {
                    let now = file.metadata().map_err(|e| Error::io("stat of a template", e))?;
                    attributes.size = now.len();
                    attributes.blocks = now.blocks();
                    attributes.mtime = now.modified().unwrap_or(attributes.mtime);
                }
                Ok(attributes)
            }
            What::Private(private) => self.private_attributes(caller, node, private, &metadata()?),
            What::Warm { template } => Ok(of_warm(node.id, template)),
            What::Leftover { view, .. } => self.leftover_attributes(node.id, view),
        }
    }

    fn private_attributes(
        &self,
        caller: &Caller,
        node: &Node,
        private: &PrivateRef,
        seen: &Metadata,
    ) -> Result<Attributes> {
        let mut attributes = Attributes {
            size: private.template.identity.size,
            blocks: 0,
            mode: 0o600,
            nlink: 1,
            uid: private.uid,
            gid: private.gid,
            valid: private_valid(private),
            ..of_template(node.id, seen)
        };
        let content = node.state.lock().content.clone();
        let (record, usage, mtime) = match (content, &private.view) {
            (Some(Content::Memory(memory)), _) => return of_memory(attributes, &memory),
            (Some(Content::View(view)), _) => (view.record(), view.overlay.usage(), view.overlay.mtime()),
            (_, Some(name)) => match self.views.find(name)? {
                Some(known) => (known.record, known.usage, known.mtime),
                // Whoever asks could be the one who makes it.
                None => return Ok(Attributes { uid: caller.uid, gid: caller.gid, ..attributes }),
            },
            _ => return Ok(attributes),
        };
        attributes.size = record.extent.size;
        attributes.blocks = usage.private_bytes / 512;
        (attributes.uid, attributes.gid, attributes.mode) = (record.uid, record.gid, record.mode);
        attributes.mtime = mtime;
        attributes.ctime = mtime.max(UNIX_EPOCH + Duration::from_secs(record.created));
        Ok(attributes)
    }

    /// What a view that cannot be opened costs, and whose it is. One of which nothing is known is the
    /// daemon's own.
    fn leftover_attributes(&self, node: u64, view: &Label) -> Result<Attributes> {
        let mut attributes = of_nothing(node);
        match self.views.find(view) {
            Ok(Some(Named { record, usage, mtime })) => {
                attributes.size = record.extent.size;
                attributes.blocks = usage.private_bytes / 512;
                (attributes.uid, attributes.gid, attributes.mode) = (record.uid, record.gid, record.mode);
                (attributes.atime, attributes.mtime, attributes.ctime) = (mtime, mtime, mtime);
                Ok(attributes)
            }
            Ok(None) => Err(Error::NotFound(format!("view {view}: there is no such view"))),
            Err(_) => Ok(attributes),
        }
    }

    /// The kernel has checked the caller against the attributes that it was shown.
    pub fn setattr(
        &self,
        caller: &Caller,
        id: u64,
        handle: Option<HandleId>,
        changes: &Changes,
    ) -> Result<Attributes> {
        let node = self.node(id)?;
        match &node.what {
            What::Rom { template, .. } if changes.size.is_some() => {
                return Err(Error::Denied(format!(
                    "{}: a ROM view cannot be truncated; open NAME?rom=off for a private writable view",
                    template.path.display()
                )));
            }
            What::Template { template } => self.change_template(caller, &node, template, handle, changes)?,
            What::Private(private) => self.change_private(caller, &node, private, changes)?,
            What::Leftover { reason, .. } => return Err(Error::Stale(reason.clone())),
            What::Warm { .. } => return Err(super::warming::not_a_view(node.id)),
            What::Rom { .. } | What::Directory { .. } => {
                return Err(Error::ReadOnly(format!("node {id}: its attributes are changed in the store")));
            }
        }
        self.attributes_of(caller, &node)
    }

    fn change_private(
        &self,
        caller: &Caller,
        node: &Node,
        private: &PrivateRef,
        changes: &Changes,
    ) -> Result<()> {
        let shown = private.template.path.display();
        if let Some(size) = changes.size {
            self.admit_size(&private.template.path, size)?;
        }
        let content = node.state.lock().content.clone();
        if let Some(Content::Memory(memory)) = content {
            let io = |e| Error::io(format!("{shown}: truncate of a private view"), e);
            if let Some(size) = changes.size {
                self.promise_growth(node, private, size)?;
                memory.file.set_len(size).map_err(io)?;
            }
            memory.change_owner(changes.uid, changes.gid, changes.mode);
            return Ok(());
        }
        let view = self.view_to_change(caller, node, private)?;
        if let Some(size) = changes.size {
            self.promise_growth(node, private, size)?;
            view.overlay
                .truncate(size)
                .map_err(|e| Error::io(format!("{shown}: truncate of a private view"), e))?;
        }
        if changes.uid.is_some() || changes.gid.is_some() || changes.mode.is_some() {
            view.change_owner(changes.uid, changes.gid, changes.mode)?;
        }
        if let Some(mtime) = changes.mtime {
            let failed = |e| Error::io(format!("{shown}: the times of a private view"), e);
            view.overlay.set_mtime(mtime).map_err(failed)?;
        }
        Ok(())
    }

    fn change_template(
        &self,
        caller: &Caller,
        node: &Node,
        template: &TemplateRef,
        handle: Option<HandleId>,
        changes: &Changes,
    ) -> Result<()> {
        let beyond_size = changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
        if beyond_size {
            return Err(Error::ReadOnly("a template's mode and owner are changed in the store".into()));
        }
        let Some(size) = changes.size else { return Ok(()) };
        let authored =
            match handle.map(|id| self.handle(id)).transpose()?.map(|handle| handle.content.clone()) {
                Some(Content::Authored(authored)) => authored,
                _ => {
                    if let Found::Template(metadata, _) = self.store.find(&template.path)? {
                        self.check(caller, &template.path, &metadata, WRITE)?;
                    }
                    self.author(node)?
                }
            };
        authored.file.set_len(size).map_err(|e| Error::io("truncate of a template", e))
    }
}

/// Of the right size: the kernel keeps no page beyond it. Its owner is whoever it is handed out to.
fn of_warm(node: u64, template: &TemplateRef) -> Attributes {
    Attributes { size: template.identity.size, ..of_nothing(node) }
}

/// A file of the daemon's own that is empty.
fn of_nothing(node: u64) -> Attributes {
    Attributes {
        node,
        kind: FileKind::File,
        size: 0,
        blocks: 0,
        mode: 0o600,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        valid: Duration::ZERO,
        entry_valid: Duration::ZERO,
    }
}

fn of_memory(attributes: Attributes, memory: &MemoryView) -> Result<Attributes> {
    let now = memory.file.metadata().map_err(|e| Error::io("stat of a view in memory", e))?;
    let Owner { uid, gid, mode } = memory.owner();
    let modified = now.modified().unwrap_or(attributes.mtime);
    Ok(Attributes {
        size: now.len(),
        blocks: now.blocks(),
        mode,
        uid,
        gid,
        mtime: modified,
        ctime: modified,
        ..attributes
    })
}

/// A view that belongs to one path walk changes through the kernel alone, which then asks again by
/// itself (fs/fuse: FUSE_STATX_MODIFY after a write-back, FUSE_STATX_MODSIZE after a write). One with
/// a name may be discarded and changed by its other users, and one in memory is filled by OPEN and
/// written past this process.
fn private_valid(private: &PrivateRef) -> Duration {
    match private.view.is_none() && private.backing == Backing::Overlay {
        true => STORE_VALID,
        false => Duration::ZERO,
    }
}

/// The kernel knows nothing of the store's access lists and goes by the mode. Where there is one it
/// is shown a mode that lets all callers through to the engine, which asks the list at each OPEN
/// of a file, truncate(2) by path, and LOOKUP in a directory.
fn shown_mode(seen: &Metadata) -> u32 {
    if seen.acl.is_none() {
        return seen.mode;
    }
    let any = (seen.mode | seen.mode >> 3 | seen.mode >> 6) & 0o7;
    seen.mode | (any * 0o111)
}

fn of_template(node: u64, seen: &Metadata) -> Attributes {
    Attributes {
        node,
        kind: FileKind::File,
        size: seen.size,
        blocks: seen.blocks,
        mode: seen.mode,
        nlink: seen.nlink,
        uid: seen.uid,
        gid: seen.gid,
        atime: seen.atime,
        mtime: seen.mtime,
        ctime: seen.ctime,
        valid: STORE_VALID,
        entry_valid: Duration::ZERO,
    }
}

/// Views with a name are entries of directories that their owners may remove: whoever may search
/// a directory may write it, as in /tmp, and the engine admits nothing else than that.
fn directory(node: u64, seen: &Metadata) -> Attributes {
    let shown = shown_mode(seen);
    let searchable = shown & 0o111;
    let mode = (shown & 0o555) | (searchable << 1) | 0o1000;
    Attributes { kind: FileKind::Directory, mode, ..of_template(node, seen) }
}
