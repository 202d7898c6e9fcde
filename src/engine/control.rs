//! `.templatefs/`, the control directory at a mount's root: hidden from listings, like a door
//! that only those find who know it. Its files hold what the daemon knows, as of their opening.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::lookup::DirectoryEntry;
use super::nodes::{Content, Node, PrivateRef, What};
use super::{Attributes, Engine, FileKind, ROOT};
use crate::access::Caller;
use crate::caller::{comm, process_of};
use crate::error::{Error, Result};
use crate::name::{Label, printable};
use crate::overlay::Usage;

pub const DIRECTORY: &[u8] = b".templatefs";
const DIRECTORY_NODE: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlFile {
    Views,
    Version,
}

const FILES: [(u64, &str, ControlFile); 2] =
    [(3, "version", ControlFile::Version), (4, "views.json", ControlFile::Views)];

/// `views.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewList {
    pub schema: u32,
    pub views: Vec<ViewEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewEntry {
    /// The view's name, or `@NODE` for one without; NODE is its inode number on the mount.
    pub id: String,
    /// The template's path in the store, as it is written in a path of the mount.
    pub template: String,
    pub vm: Option<Label>,
    /// `rom`, `private` or `template`.
    pub kind: String,
    /// `template` where nothing but the template is read, `overlay` where the view owns pages.
    pub backing: String,
    pub uid: u32,
    pub size_bytes: u64,
    pub private_bytes: u64,
    pub zero_bytes: u64,
    pub opens: u64,
    pub openers: Vec<Opener>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opener {
    pub pid: u32,
    pub uid: u32,
    pub comm: String,
    pub writable: bool,
}

pub(super) fn nodes() -> impl Iterator<Item = (u64, What)> {
    let files = FILES.into_iter().map(|(id, _, file)| (id, What::Control(file)));
    std::iter::once((DIRECTORY_NODE, What::ControlDirectory)).chain(files)
}

/// The control node that `name` means in `parent`, if it means one; an error where only control
/// files are.
pub(super) fn lookup(parent: &Node, name: &[u8]) -> Result<Option<u64>> {
    if parent.id == ROOT {
        return Ok((name == DIRECTORY).then_some(DIRECTORY_NODE));
    }
    if !matches!(parent.what, What::ControlDirectory) {
        return Ok(None);
    }
    match FILES.iter().find(|(_, file, _)| file.as_bytes() == name) {
        Some((id, ..)) => Ok(Some(*id)),
        None => Err(Error::NotFound(format!(".templatefs/{}: no such control file", printable(name)))),
    }
}

pub(super) fn list() -> Vec<DirectoryEntry> {
    FILES
        .iter()
        .map(|(_, name, _)| DirectoryEntry { name: name.as_bytes().to_vec(), is_directory: false })
        .collect()
}

pub(super) fn attributes(node: u64, what: &What) -> Attributes {
    let now = SystemTime::now();
    let directory = matches!(what, What::ControlDirectory);
    Attributes {
        node,
        kind: if directory { FileKind::Directory } else { FileKind::File },
        size: 0,
        blocks: 0,
        mode: if directory { 0o555 } else { 0o444 },
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        atime: now,
        mtime: now,
        ctime: now,
        valid: Duration::ZERO,
    }
}

impl Engine {
    pub(super) fn render_control(&self, caller: &Caller, file: ControlFile) -> Result<Vec<u8>> {
        match file {
            ControlFile::Version => Ok(format!("{}\n", env!("CARGO_PKG_VERSION")).into_bytes()),
            ControlFile::Views => {
                let list = ViewList { schema: 1, views: self.view_entries(caller) };
                let mut text = serde_json::to_vec(&list)
                    .map_err(|e| Error::io("views.json", std::io::Error::other(e)))?;
                text.push(b'\n');
                Ok(text)
            }
        }
    }

    /// What is open, and the views with a name, as far as `caller` may see them: root all, others
    /// their own.
    fn view_entries(&self, caller: &Caller) -> Vec<ViewEntry> {
        let mut openers: BTreeMap<u64, Vec<Opener>> = BTreeMap::new();
        for handle in self.handles.iter() {
            let Caller { uid, pid, .. } = handle.opener;
            let pid = process_of(pid);
            let opener = Opener { pid, uid, comm: comm(pid), writable: handle.access.write };
            openers.entry(handle.node.id).or_default().push(opener);
        }
        let mut entries: Vec<ViewEntry> =
            self.nodes.open().iter().filter_map(|node| self.open_entry(node)).collect();
        for (name, known) in self.views.all() {
            if !entries.iter().any(|entry| entry.id == name.as_str()) {
                let record = &known.record;
                entries.push(ViewEntry {
                    id: name.to_string(),
                    template: template_name(&record.template),
                    vm: record.vm.clone(),
                    kind: "private".into(),
                    backing: "overlay".into(),
                    uid: record.uid,
                    size_bytes: record.extent.size,
                    private_bytes: known.usage.private_bytes,
                    zero_bytes: known.usage.zero_bytes,
                    opens: 0,
                    openers: Vec::new(),
                });
            }
        }
        for entry in &mut entries {
            if let Some(id) = entry.id.strip_prefix('@').and_then(|id| id.parse().ok()) {
                entry.openers = openers.remove(&id).unwrap_or_default();
            }
        }
        self.attach_named_openers(&mut entries, &openers);
        entries.retain(|entry| caller.uid == 0 || entry.uid == caller.uid);
        for entry in &mut entries {
            entry.openers.retain(|opener| caller.uid == 0 || opener.uid == caller.uid);
        }
        entries.sort_by(|a, b| (&a.template, &a.id).cmp(&(&b.template, &b.id)));
        entries
    }

    fn attach_named_openers(&self, entries: &mut [ViewEntry], openers: &BTreeMap<u64, Vec<Opener>>) {
        for (id, list) in openers {
            let Some(node) = self.nodes.get(*id) else { continue };
            if let What::Private(PrivateRef { view: Some(name), .. }) = &node.what
                && let Some(entry) = entries.iter_mut().find(|entry| entry.id == name.as_str())
            {
                entry.openers.extend(list.iter().cloned());
            }
        }
    }

    fn open_entry(&self, node: &Node) -> Option<ViewEntry> {
        let (opens, content) = {
            let state = node.state.lock();
            (state.opens, state.content.clone()?)
        };
        let (template, kind, vm, view) = match &node.what {
            What::Rom { template, vm } => (template, "rom", vm, None),
            What::Private(private) => (&private.template, "private", &private.vm, private.view.as_ref()),
            What::Template { template } => (template, "template", &None, None),
            What::Directory { .. } | What::Leftover { .. } | What::ControlDirectory | What::Control(_) => {
                return None;
            }
        };
        let mut entry = ViewEntry {
            id: view.map_or_else(|| format!("@{}", node.id), Label::to_string),
            template: template_name(template.path.as_os_str().as_encoded_bytes()),
            vm: vm.clone(),
            kind: kind.into(),
            backing: "template".into(),
            uid: node.metadata.lock().as_ref().map_or(0, |m| m.uid),
            size_bytes: template.identity.size,
            private_bytes: 0,
            zero_bytes: 0,
            opens,
            openers: Vec::new(),
        };
        if let What::Private(private) = &node.what {
            entry.uid = private.uid;
        }
        if let Content::View(view) = &content {
            let record = view.record();
            let Usage { private_bytes, zero_bytes } = view.overlay.usage();
            entry = ViewEntry {
                backing: "overlay".into(),
                vm: record.vm,
                uid: record.uid,
                size_bytes: record.extent.size,
                private_bytes,
                zero_bytes,
                ..entry
            };
        }
        Some(entry)
    }
}

/// A template's path in the store as it is written in a path of the mount.
fn template_name(path: &[u8]) -> String {
    let parts: Vec<String> =
        path.split(|b| *b == b'/').map(|part| printable(&crate::name::escape(part))).collect();
    parts.join("/")
}
