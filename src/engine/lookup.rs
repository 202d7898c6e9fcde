//! A directory entry becomes a node. Nothing that lasts is made here: a LOOKUP is not an open.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::attributes::STORE_VALID;
use super::ledger::{Entry, RESENT};
use super::nodes::{Node, Origin, PrivateRef, TemplateRef, What};
use super::walks::Step;
use super::{Attributes, Engine};
use crate::access::{Caller, READ, SEARCH, WRITE};
use crate::admit::{admit, misnamed};
use crate::caller::is_operator;
use crate::error::{Error, Result};
use crate::name::{self, Label, Query, Request};
use crate::overlay::Record;
use crate::rules::{Backing, Kind};
use crate::store::{Found, Identity, Metadata};
use crate::views::Discarded;

/// One line of a directory, named as it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    pub is_directory: bool,
}

impl Engine {
    pub fn lookup(&self, caller: &Caller, parent: u64, raw: &[u8]) -> Result<Attributes> {
        let node = self.look_up_node(caller, parent, raw)?;
        let attributes = self.attributes_of(caller, &node).inspect_err(|_| self.forget(node.id, 1))?;
        Ok(Attributes { entry_valid: self.entry_valid(parent, &node), ..attributes })
    }

    /// A private view's entry is never believed: each path walk asks, and may get a node of its own. A
    /// ROM view's and a directory's may be for a while: an OPEN of what is no longer there is
    /// answered ESTALE, upon which the kernel asks. Not where an access list decides who may search
    /// the directory: the kernel knows nothing of it.
    fn entry_valid(&self, parent: u64, node: &Node) -> Duration {
        let is_shared = matches!(node.what, What::Rom { .. } | What::Directory { .. });
        let has_no_list =
            |parent: Arc<Node>| parent.metadata.lock().as_ref().is_some_and(|seen| seen.acl.is_none());
        match is_shared && self.nodes.get(parent).is_some_and(has_no_list) {
            true => STORE_VALID,
            false => Duration::ZERO,
        }
    }

    fn look_up_node(&self, caller: &Caller, parent: u64, raw: &[u8]) -> Result<Arc<Node>> {
        let parent = self.node(parent)?;
        // Before the store is asked anything: a flood of junk should cost little.
        let (request, path) = parse(directory_of(&parent)?, raw)?;
        let directory = self.directory(caller, &parent, SEARCH)?;
        let shown = || shown(directory, raw);
        let origin = Origin::new(caller, parent.id, raw);
        let (metadata, identity) = match self.store.find(&path) {
            Ok(Found::Template(metadata, identity)) => (metadata, identity),
            Ok(Found::Directory(metadata)) if request.query.is_none() => {
                return self.nodes.look_up(origin, What::Directory { path }, Some(metadata));
            }
            Ok(Found::Directory(_)) => {
                return Err(Error::Invalid(format!("{}: a directory takes no query", shown())));
            }
            Err(Error::NotFound(reason)) => {
                admit(&request, shown)?;
                let view = request.query.and_then(|query| query.view);
                let Some(view) = view.filter(|view| self.is_leftover_of(view, &path)) else {
                    return Err(Error::NotFound(reason));
                };
                return self.nodes.look_up(origin, What::Leftover { view, reason }, None);
            }
            Err(error) => return Err(error),
        };
        let kind = admit(&request, shown)?;
        let query = request.query.unwrap_or_default();
        let what = self.what(caller, kind, query, path, &metadata, identity)?;
        match what {
            What::Private(private) if self.may_be_warm(&private) => {
                self.look_up_warmed(Step::new(caller, parent.id, raw), origin, private, metadata)
            }
            what => self.nodes.look_up(origin, what, Some(metadata)),
        }
    }

    fn what(
        &self,
        caller: &Caller,
        kind: Kind,
        query: Query,
        path: PathBuf,
        metadata: &Metadata,
        identity: Identity,
    ) -> Result<What> {
        if kind == Kind::Template {
            if !self.options.allow_template_writes {
                return Err(Error::ReadOnly(format!(
                    "{}: this mount does not write templates; mount with --allow-template-writes, or use rom=off for a \
                     private view",
                    path.display()
                )));
            }
            return Ok(What::Template { template: TemplateRef { path, identity } });
        }
        let template = TemplateRef { path, identity };
        let mut usable = self.pins.admit(&template.path, &template.identity);
        if kind == Kind::Rom {
            usable?;
            let vm = query.vm.filter(|_| self.has_passthrough());
            return Ok(What::Rom { template, vm });
        }
        let if_writable = kind == Kind::PrivateIfWritable;
        self.check_template_rights(caller, &template.path, metadata, if_writable)?;
        if let Some(view) = &query.view {
            usable = usable.and_then(|()| self.check_same_template(view, &template));
        }
        match (usable, &query.view) {
            (Err(Error::Stale(reason)), Some(view)) if !matches!(self.views.find(view), Ok(None)) => {
                return Ok(What::Leftover { view: view.clone(), reason });
            }
            (usable, _) => usable?,
        }
        let backing = self.backing(&query, &template.path)?;
        let (uid, gid) = (caller.uid, caller.gid);
        Ok(What::Private(PrivateRef {
            template,
            view: query.view,
            vm: query.vm,
            if_writable,
            backing,
            uid,
            gid,
        }))
    }

    /// Where the pages of a private view shall be.
    fn backing(&self, query: &Query, path: &Path) -> Result<Backing> {
        match (query.backing, &query.view) {
            (Some(Backing::Memory), _) if !self.has_passthrough() => Err(Error::Unsupported(format!(
                "{}: backing=memory needs the kernel's passthrough (Linux 6.9, mounted by root); leave backing out",
                path.display()
            ))),
            (Some(backing), _) => Ok(backing),
            (None, Some(_)) => Ok(Backing::Overlay),
            (None, None) => Ok(self.options.backing),
        }
    }

    /// Who may have a private view of a template at all.
    pub(super) fn check_template_rights(
        &self,
        caller: &Caller,
        path: &Path,
        metadata: &Metadata,
        if_writable: bool,
    ) -> Result<()> {
        self.check(caller, path, metadata, READ)?;
        if !if_writable {
            return Ok(());
        }
        self.check(caller, path, metadata, WRITE).map_err(|_| {
            Error::Denied(format!(
                "{}: readonly=off asks for a template that user {} may write, as in QEMU; leave readonly out for a \
                 private view of a template that nobody may write",
                path.display(),
                caller.uid
            ))
        })
    }

    fn check_same_template(&self, view: &Label, template: &TemplateRef) -> Result<()> {
        match self.views.find(view)? {
            Some(known) => Self::check_fits(view, &known.record, template),
            None => Ok(()),
        }
    }

    /// A view with a name opens over the file that it was made from and no other.
    pub(super) fn check_fits(view: &Label, record: &Record, template: &TemplateRef) -> Result<()> {
        if template.identity.continues(&record.identity) {
            return Ok(());
        }
        let made_from = name::printable(&record.template);
        let shown = template.path.display();
        if record.template != template.path.as_os_str().as_encoded_bytes() {
            return Err(Error::NameTaken(format!(
                "{shown}: view {view} is a view of {made_from}; open it there, or choose another name"
            )));
        }
        Err(Error::Stale(format!(
            "{shown}: view {view} was made from an earlier file of this name, and its pages fit no other; put that \
             file back, or discard the view"
        )))
    }

    /// Is `view` left over from a template that was at `path`, or a view of which nothing is known?
    fn is_leftover_of(&self, view: &Label, path: &Path) -> bool {
        match self.views.find(view) {
            Ok(known) => {
                known.is_some_and(|known| known.record.template == path.as_os_str().as_encoded_bytes())
            }
            Err(_) => true,
        }
    }

    /// Removes the view with a name that an entry stands for. `id` is that of the UNLINK: one
    /// that a dead daemon has done but not answered is sent again.
    pub fn unlink(&self, caller: &Caller, parent: u64, raw: &[u8], id: u64) -> Result<()> {
        if self.recorder.has_discarded(id) {
            return Ok(());
        }
        let parent = self.node(parent)?;
        let directory = self.directory(caller, &parent, SEARCH)?;
        let shown = shown(directory, raw);
        let (request, path) = parse(directory, raw)?;
        let Some(view) = request.query.and_then(|query| query.view) else {
            return Err(Error::ReadOnly(format!(
                "{shown}: only a view with a name can be removed; templates are removed in the store"
            )));
        };
        let is_of = |record: &Record| {
            let same_file = |found: Found| match found {
                Found::Template(_, identity) => identity.continues(&record.identity),
                Found::Directory(_) => false,
            };
            record.template == path.as_os_str().as_encoded_bytes()
                || self.store.find(&path).is_ok_and(same_file)
        };
        let known = self.views.find(&view).ok().flatten();
        if known.is_some_and(|known| !is_of(&known.record)) {
            return Err(Error::NameTaken(format!("{shown}: view {view} is a view of another template")));
        }
        let allowed = |record: Option<&Record>| match record {
            Some(record) if caller.uid != 0 && caller.uid != record.uid => {
                Err(Error::Denied(format!("{shown}: this view belongs to user {}", record.uid)))
            }
            None if !is_operator(caller) => Err(Error::Denied(format!(
                "{shown}: only root and the user who mounted may discard a view that is set aside"
            ))),
            _ => Ok(()),
        };
        let record = |discarded: Discarded| {
            if let Discarded::Held { node } = discarded {
                self.recorder.record(Entry::Retired { node, view: view.clone() })?;
            }
            self.recorder.record(Entry::Discarded { request: id & !RESENT })
        };
        let discarded = self.nodes.retire(&view, || self.views.discard(&view, allowed, record));
        // The dead one did it, and died before it could put that on record.
        if id & RESENT != 0 && matches!(discarded, Err(Error::NotFound(_))) {
            return Ok(());
        }
        discarded?;
        log::info!("view {view} of {} was discarded by user {}", path.display(), caller.uid);
        Ok(())
    }

    /// What a directory holds, without `.` and `..`.
    pub fn list(&self, caller: &Caller, id: u64) -> Result<Vec<DirectoryEntry>> {
        let node = self.node(id)?;
        let directory = self.directory(caller, &node, READ)?;
        let entry = |l: crate::store::Listed| DirectoryEntry {
            name: name::escape(&l.name).into_owned(),
            is_directory: l.is_directory,
        };
        Ok(self.store.list(directory)?.into_iter().map(entry).collect())
    }

    /// The path of a directory node. The kernel checks its mode; its ACL, if it has one, is
    /// checked here.
    fn directory<'a>(&self, caller: &Caller, node: &'a Node, want: u32) -> Result<&'a Path> {
        let path = directory_of(node)?;
        if caller.uid != 0
            && let Found::Directory(metadata) = self.store.find(path)?
            && metadata.acl.is_some()
        {
            self.check(caller, path, &metadata, want)?;
        }
        Ok(path)
    }
}

fn directory_of(node: &Node) -> Result<&Path> {
    match &node.what {
        What::Directory { path } => Ok(path),
        _ => Err(Error::NotADirectory(format!("node {}: not a directory of the store", node.id))),
    }
}

/// What an entry asks for, and the path of its file in the store.
fn parse(directory: &Path, raw: &[u8]) -> Result<(Request, PathBuf)> {
    let request = name::parse(raw).map_err(|source| misnamed(source, shown(directory, raw)))?;
    let path = directory.join(OsString::from_vec(request.base.clone()));
    Ok((request, path))
}

/// An entry for a person to read.
fn shown(directory: &Path, raw: &[u8]) -> String {
    name::printable(&[directory.as_os_str().as_encoded_bytes(), b"/", raw].concat())
}
