//! OPEN and RELEASE: where a node gets its content, and where that ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Engine;
use super::counters::Counters;
use super::ledger::Entry;
use super::nodes::{Content, Node, PrivateRef, TemplateRef, What};
use super::opened::{Access, Handle, HandleId, Opened, Plane, ReadOnly, Released};
use super::recorder::Recorder;
use super::shares::Thing;
use crate::access::{Caller, READ};
use crate::error::{Error, Result};
use crate::name::Label;
use crate::overlay::{Extent, Record};
use crate::steps::step;
use crate::store::{Found, Identity, Metadata};
use crate::views::View;

impl Engine {
    /// `request` is the id of the OPEN: one that a dead daemon has done but not answered is sent
    /// again. `pass` decides whether the kernel moves the data by itself.
    pub fn open(
        &self,
        caller: &Caller,
        id: u64,
        access: Access,
        request: u64,
        pass: impl FnOnce(&Plane) -> Result<Option<u32>>,
    ) -> Result<Opened> {
        let node = self.node(id);
        if let Some(opened) = self.opened_before(request)? {
            return Ok(opened);
        }
        step("open 1: begun");
        let node = node?;
        let inspection = self.inspectors.contains_key(&caller.pid);
        let claim = match inspection {
            true => self.shares.owe(caller.uid, Thing::OpenFile),
            false => self.shares.claim(caller.uid, Thing::OpenFile)?,
        };
        self.admit_open(caller, &node)?;
        let (content, plane) = {
            let _opening = match inspection {
                false => node.opening.lock(),
                true => node.opening.try_lock().ok_or_else(|| busy(id))?,
            };
            let (content, plane) = match &node.what {
                _ if inspection => open_to_look(&node, access)?,
                What::Rom { template, .. } => self.open_rom(caller, &node, template, access)?,
                What::Template { template } => self.open_template(caller, &node, template, access)?,
                What::Private(private) => self.open_private(caller, &node, private, access)?,
                What::Leftover { reason, .. } => return Err(Error::Stale(reason.clone())),
                What::Warm { .. } => return Err(super::warming::not_a_view(id)),
                What::Directory { .. } => {
                    return Err(Error::io("a directory", rustix::io::Errno::ISDIR));
                }
            };
            node.state.lock().opens += 1;
            (content, plane)
        };
        if !inspection {
            self.count(&node, Counters::opened);
            self.opened_view(&node, &content);
        }
        // Opened for reading only, it is the template, whose pages the kernel has already.
        let drop_cache = node.warmth.is_some() && matches!(content, Content::Template(_));
        if drop_cache {
            node.counters.prefetched(0);
        }
        step("open 2: made");
        let (backing, passed) = match pass(&plane) {
            Ok(backing) => (backing, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let opener = caller.clone();
        let open = Arc::new(Handle { node, content, access, backing, opener, inspection, _claim: claim });
        step("open 3: passed");
        self.handles.insert(handle, open.clone());
        if let Err(error) = passed.and_then(|()| self.record_open(&open, handle, request)) {
            if let Released::DropCache(node) = self.release(handle)
                && self.warms()
            {
                self.drop_warm(node);
            }
            return Err(error);
        }
        Ok(Opened { handle, plane, backing, drop_cache, inspection })
    }

    /// A discard that was put on record before this counts for nobody who had the view open then: it is
    /// put there again.
    fn record_open(&self, open: &Handle, handle: HandleId, request: u64) -> Result<()> {
        self.recorder.record(Entry::Opened(open.recorded(handle, request)))?;
        let _taken_back = TakenBack { recorder: &self.recorder, handle };
        step("open 4: recorded");
        match &open.node.what {
            What::Private(PrivateRef { view: Some(view), .. }) if open.node.content().1 => {
                self.recorder.record(Entry::Retired { node: open.node.id, view: view.clone() })
            }
            _ => Ok(()),
        }
    }

    /// A handle that is not open was released by a daemon that died before it could say so.
    pub fn release(&self, id: HandleId) -> Released {
        self.waiting.for_handle(id);
        let Some((_, handle)) = self.handles.remove(&id) else {
            self.release_lost(id);
            return Released::Nothing;
        };
        self.recorder.record_past(Entry::Released { handle: id });
        step("release 1: recorded");
        let node = handle.node.clone();
        drop(handle);
        let opening = node.opening.lock();
        let mut released = Released::Nothing;
        if let (Some(content), What::Private(private)) = (closed(&node), &node.what) {
            self.teach(&node, private, content.as_ref());
            // A view that was warm caches pages also where it was never written.
            if self.closed_view(&node, private, content) || node.warmth.is_some() {
                released = Released::DropCache(node.id);
            }
        }
        drop(opening);
        self.nodes.closed(&node);
        released
    }

    /// Lets go of what a private view's node held; true if the view is gone with it.
    pub(super) fn closed_view(&self, node: &Node, private: &PrivateRef, content: Option<Content>) -> bool {
        let Some(Content::View(view)) = content else { return false };
        match &private.view {
            Some(name) => self.views.close_named(name, view),
            None => self.views.remove_unnamed(node.id),
        }
        step("release 2: removed");
        private.view.is_none()
    }

    fn open_rom(
        &self,
        caller: &Caller,
        node: &Node,
        template: &TemplateRef,
        access: Access,
    ) -> Result<(Content, Plane)> {
        if access.write {
            return Err(Error::Denied(format!(
                "{}: a ROM view cannot be opened for writing; open NAME?rom=off for a private writable view",
                template.path.display()
            )));
        }
        let metadata = self.find_unchanged(template)?;
        self.check(caller, &template.path, &metadata, READ)?;
        self.open_read_only(node, template, access)
    }

    fn open_private(
        &self,
        caller: &Caller,
        node: &Node,
        private: &PrivateRef,
        access: Access,
    ) -> Result<(Content, Plane)> {
        let template = &private.template;
        let metadata = self.find_unchanged(template)?;
        self.check_template_rights(caller, &template.path, &metadata, private.if_writable)?;
        self.claimed(node, private, || self.open_claimed(caller, node, private, access))
    }

    /// Counts the view before `make` opens it; what could not be opened is not counted.
    fn claimed<T>(&self, node: &Node, private: &PrivateRef, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.claim_view(&mut node.state.lock(), private)?;
        let made = make();
        node.state.lock().claim_if_there();
        made
    }

    fn open_claimed(
        &self,
        caller: &Caller,
        node: &Node,
        private: &PrivateRef,
        access: Access,
    ) -> Result<(Content, Plane)> {
        let template = &private.template;
        let (content, spent) = node.content();
        match content {
            Some(Content::Template(_)) if access.write => Err(Error::Denied(format!(
                "{}: this view was opened read-only first and is the template itself; open its path again for a \
                 writable view",
                template.path.display()
            ))),
            Some(Content::Template(pinned)) => Ok((
                Content::Template(pinned.clone()),
                Plane::Template(ReadOnly::new(pinned.clone(), access)?),
            )),
            Some(Content::Memory(memory)) => {
                Ok((Content::Memory(memory.clone()), Plane::Memory(memory.clone())))
            }
            None if private.view.is_none() && !access.write && !spent => {
                self.open_read_only(node, template, access)
            }
            _ => {
                let view = self.view_locked(caller, node, private)?;
                Ok((Content::View(view), Plane::Cached { keep: true }))
            }
        }
    }

    fn open_read_only(
        &self,
        node: &Node,
        template: &TemplateRef,
        access: Access,
    ) -> Result<(Content, Plane)> {
        let pinned = match node.content().0 {
            Some(Content::Template(pinned)) => pinned,
            _ => self.pins.pin(self.store.as_ref(), &template.path, &template.identity)?,
        };
        let content = Content::Template(pinned.clone());
        node.state.lock().content = Some(content.clone());
        Ok((content, Plane::Template(ReadOnly::new(pinned, access)?)))
    }

    /// The view that a change of attributes is meant for; made, if it is not there yet.
    pub(super) fn view_to_change(
        &self,
        caller: &Caller,
        node: &Node,
        private: &PrivateRef,
    ) -> Result<Arc<View>> {
        self.admit_open(caller, node)?;
        let _opening = node.opening.lock();
        if let Some(Content::Template(_)) = node.content().0 {
            return Err(Error::Denied(format!(
                "{}: this view was opened read-only and is the template itself",
                private.template.path.display()
            )));
        }
        self.claimed(node, private, || {
            let view = self.view_locked(caller, node, private)?;
            // What nobody has open ends with this process, and its node must not begin anew.
            if private.view.is_none() && self.recorder.read(|ledger| ledger.looked_up.contains_key(&node.id))
            {
                self.recorder.record(Entry::Forgotten { node: node.id })?;
            }
            Ok(view)
        })
    }

    /// `opening` of the node must be held, as for all that changes what it is.
    fn view_locked(&self, caller: &Caller, node: &Node, private: &PrivateRef) -> Result<Arc<View>> {
        let template = &private.template;
        let allowed = |name: &Label, record: &Record| {
            if caller.uid != 0 && caller.uid != record.uid {
                return Err(Error::Denied(format!("view {name}: it belongs to user {}", record.uid)));
            }
            Self::check_fits(name, record, template)
        };
        let (content, spent) = node.content();
        if let Some(Content::View(view)) = content {
            private.view.as_ref().map_or(Ok(()), |name| allowed(name, &view.record()))?;
            return Ok(view);
        }
        if spent {
            return Err(Error::Stale(format!(
                "{}: this view was closed and is gone",
                template.path.display()
            )));
        }
        let pinned = self.pins.pin(self.store.as_ref(), &template.path, &template.identity)?;
        let promise = self.promise(private)?;
        let record = || new_record(caller, private);
        let view = match &private.view {
            Some(name) => {
                self.views.open_named(name, node.id, &pinned, |known| allowed(name, known), record)?
            }
            None => self.views.create_unnamed(node.id, &pinned, record())?,
        };
        let mut state = node.state.lock();
        state.content = Some(Content::View(view.clone()));
        state.promise = Some(promise);
        Ok(view)
    }

    /// What the template's path leads to now, which may be another file.
    pub(super) fn find_template(&self, template: &TemplateRef) -> Result<(Metadata, Identity)> {
        match self.store.find(&template.path)? {
            Found::Template(metadata, identity) => Ok((metadata, identity)),
            Found::Directory(_) => {
                Err(Error::Stale(format!("{}: it became a directory", template.path.display())))
            }
        }
    }

    /// The template's metadata now; an error if its path has come to mean another file.
    pub(super) fn find_unchanged(&self, template: &TemplateRef) -> Result<Metadata> {
        match self.store.find(&template.path)? {
            Found::Template(metadata, identity) if identity == template.identity => Ok(metadata),
            _ => Err(Error::Stale(format!(
                "{}: the template changed while it was opened",
                template.path.display()
            ))),
        }
    }
}

/// An OPEN that panics once it is on record is answered EIO: nobody will release it.
struct TakenBack<'a> {
    recorder: &'a Recorder,
    handle: HandleId,
}

impl Drop for TakenBack<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.recorder.record_past(Entry::Released { handle: self.handle });
        }
    }
}

/// What is open already, and nothing of a file.
fn open_to_look(node: &Node, access: Access) -> Result<(Content, Plane)> {
    let content = node.content().0.ok_or_else(|| busy(node.id))?;
    let plane = match &content {
        Content::Template(pinned) => Plane::Template(ReadOnly::new(pinned.clone(), access)?),
        Content::View(_) | Content::Authored(_) => Plane::Cached { keep: true },
        Content::Memory(memory) => Plane::Memory(memory.clone()),
    };
    Ok((content, plane))
}

fn busy(node: u64) -> Error {
    Error::Stale(format!("node {node}: there is nothing open to look at"))
}

/// One open file less; with the last one the content goes, which is returned.
fn closed(node: &Node) -> Option<Option<Content>> {
    let mut state = node.state.lock();
    state.opens -= 1;
    if state.opens > 0 {
        return None;
    }
    if let What::Private(private) = &node.what {
        state.spent |= private.view.is_none();
    }
    Some(state.take_content())
}

fn new_record(caller: &Caller, private: &PrivateRef) -> Record {
    let size = private.template.identity.size;
    Record {
        view: private.view.clone(),
        vm: private.vm.clone(),
        template: private.template.path.as_os_str().as_encoded_bytes().to_vec(),
        identity: private.template.identity.clone(),
        uid: caller.uid,
        gid: caller.gid,
        mode: 0o600,
        extent: Extent { size, template_len: size },
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
    }
}
