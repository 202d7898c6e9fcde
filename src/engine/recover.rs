//! A successor takes over what the ledger tells of a dead daemon's open files.

mod waiting;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::Engine;
use super::ledger::{OpenFile, RESENT, Source};
use super::nodes::{Content, PrivateRef, What};
use super::opened::{Handle, HandleId, Opened, Plane, ReadOnly};
use super::shares::Thing;
use crate::error::{Error, Result};
use crate::keeper::Kept;
use crate::memory::MemoryView;
use crate::pins::Pinned;
use crate::store::Metadata;
use crate::stragglers::each;
pub use waiting::Waiting;

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    pub directories: usize,
    pub files: usize,
    /// Nodes that could not be taken over; the log says why.
    pub set_aside: usize,
    /// Nodes whose files do not answer yet, or cannot be read now.
    pub waiting: usize,
}

/// How often what cannot be read is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What all nodes are taken over from.
struct Taking<P> {
    engine: Arc<Engine>,
    left: AtomicUsize,
    kept: Mutex<Kept>,
    recovered: Mutex<Recovered>,
    /// Those that could not be read.
    failing: Mutex<Vec<Waiter>>,
    passed: P,
}

/// A node that is to be taken over.
struct Waiter {
    id: u64,
    files: Vec<OpenFile>,
    /// What has been taken of it already. A template that was kept for it is kept no more.
    pinned: Option<Arc<Pinned>>,
    failed: bool,
}

impl<P: Fn(&Content, u32) + Send + Sync + 'static> Taking<P> {
    fn take(&self, mut waiter: Waiter) {
        let engine = &self.engine;
        let id = waiter.id;
        match engine.recover_node(&waiter.files, &self.kept, &mut waiter.pinned, &self.passed) {
            Ok(()) => self.recovered.lock().files += waiter.files.len(),
            Err(error) if error.may_pass() => {
                if !waiter.failed {
                    log::error!("node {id} is taken over when that can be done, and its users wait: {error}");
                }
                return self.failing.lock().push(Waiter { failed: true, ..waiter });
            }
            Err(error) => {
                log::error!("node {id} is set aside, and its users get errors: {error}");
                engine.nodes.abandon(id);
                engine.lost.add(id, error.to_string());
                self.recovered.lock().set_aside += 1;
            }
        }
        engine.waiting.end(id);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            engine.pins.forget_rest(std::mem::take(&mut self.kept.lock()));
        }
    }

    /// Until all that cannot be read now is taken over, or cannot be.
    fn take_failing(self: &Arc<Self>) {
        while self.left.load(Ordering::Acquire) > 0 {
            thread::sleep(RETRY);
            let again = std::mem::take(&mut *self.failing.lock());
            let taking = self.clone();
            each(again, move |waiter| taking.take(waiter));
        }
    }
}

impl Engine {
    /// Before the first request. What cannot be taken over is reported and left alone; whoever has it
    /// open gets errors, and all others are served. What waits for a file is taken over when that
    /// answers, and what cannot be read now when it can. `passed` is told of each content that the
    /// kernel moves by itself, and under which name.
    pub fn recover(
        self: &Arc<Self>,
        kept: Kept,
        passed: impl Fn(&Content, u32) + Send + Sync + 'static,
    ) -> Recovered {
        let (directories, looked_up, files) = self
            .recorder
            .read(|ledger| (ledger.directories.clone(), ledger.looked_up.clone(), ledger.open.clone()));
        let known_directories = directories.len();
        for (id, path) in directories {
            self.nodes.restore(0, id, What::Directory { path }, None);
        }
        let mut by_node = BTreeMap::<u64, Vec<OpenFile>>::new();
        for file in files.into_values() {
            by_node.entry(file.node).or_default().push(file);
        }
        let looked_up = looked_up.into_iter().filter(|(id, _)| !by_node.contains_key(id));
        let looked_up: Vec<(u64, What)> = looked_up.collect();
        for (id, files) in &by_node {
            self.begin_node(*id, files);
        }
        let known = Arc::new(Taking {
            engine: self.clone(),
            left: AtomicUsize::new(by_node.len()),
            kept: Mutex::new(kept),
            recovered: Mutex::new(Recovered { directories: known_directories, ..Recovered::default() }),
            failing: Mutex::default(),
            passed,
        });
        if by_node.is_empty() {
            self.pins.forget_rest(std::mem::take(&mut known.kept.lock()));
        }
        let waiters =
            by_node.into_iter().map(|(id, files)| Waiter { id, files, pinned: None, failed: false });
        let taking = known.clone();
        each(waiters, move |waiter| taking.take(waiter));
        let waiting = known.left.load(Ordering::Acquire);
        if waiting > 0 {
            let taking = known.clone();
            let taking = move || taking.take_failing();
            if let Err(error) = thread::Builder::new().name("take-over".into()).spawn(taking) {
                log::error!("what cannot be read now is not taken over: {error}");
            }
        }
        // It may wait for files as well.
        let engine = self.clone();
        each(looked_up, move |(id, what)| engine.look_up_again(id, what));
        let recovered = *known.recovered.lock();
        Recovered { waiting, ..recovered }
    }

    /// So that no LOOKUP gives the view another node.
    fn begin_node(&self, id: u64, files: &[OpenFile]) {
        let Some(first) = files.first() else { return };
        let node = self.nodes.restore(first.opener.uid, id, first.what.clone(), None);
        if self.recorder.read(|ledger| ledger.retired.contains_key(&id)) {
            self.nodes.hide(&node);
        }
        self.waiting.begin(files);
    }

    /// One that is not what it was any more is left out: it gets ESTALE, as it would have.
    fn look_up_again(&self, id: u64, what: What) {
        let (uid, template) = match &what {
            What::Rom { template, .. } | What::Template { template } => (0, template),
            What::Private(private) => (private.uid, &private.template),
            What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => return,
        };
        if let Ok(metadata) = self.find_unchanged(template) {
            self.nodes.restore(uid, id, what, Some(metadata));
        }
    }

    fn recover_node(
        &self,
        files: &[OpenFile],
        kept: &Mutex<Kept>,
        pinned: &mut Option<Arc<Pinned>>,
        passed: &impl Fn(&Content, u32),
    ) -> Result<()> {
        let Some(first) = files.first() else { return Ok(()) };
        let node = self.nodes.get(first.node).ok_or_else(|| Error::Stale("it is gone".into()))?;
        let _opening = node.opening.lock();
        let (content, metadata) = self.content_again(first, kept, pinned)?;
        if let Some(backing) = first.backing {
            passed(&content, backing);
        }
        *node.metadata.lock() = Some(metadata);
        {
            let mut state = node.state.lock();
            state.opens = files.len() as u64;
            state.promise = size_of(&content).map(|bytes| self.budget.owe(bytes));
            state.content = Some(content.clone());
            if let What::Private(private) = &node.what {
                state.claim = Some(self.shares.owe_view(private.uid, private.template.identity.file()));
            }
        }
        for file in files {
            let handle = Handle {
                node: node.clone(),
                content: content.clone(),
                access: file.access,
                backing: file.backing,
                opener: file.opener.clone(),
                inspection: file.inspection,
                _claim: self.shares.owe(file.opener.uid, Thing::OpenFile),
            };
            self.handles.insert(file.handle, Arc::new(handle));
            self.unanswered.insert(file.request, file.handle);
        }
        Ok(())
    }

    fn content_again(
        &self,
        file: &OpenFile,
        kept: &Mutex<Kept>,
        held: &mut Option<Arc<Pinned>>,
    ) -> Result<(Content, Metadata)> {
        let (template, private) = match &file.what {
            What::Rom { template, .. } | What::Template { template } => (template, None),
            What::Private(private) => (&private.template, Some(private)),
            What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => {
                return Err(Error::Stale("the journal says that it is open, which it cannot be".into()));
            }
        };
        let store = self.store.as_ref();
        if file.source == Source::Authored {
            let authored = self.pins.author_again(store, &template.path, &template.identity, kept)?;
            let metadata = store.metadata(authored.file.as_fd())?;
            return Ok((Content::Authored(authored), metadata));
        }
        let pinned = self.pins.pin_again(store, &template.path, &template.identity, kept)?;
        *held = Some(pinned.clone());
        let metadata = match pinned.template().readable() {
            Some(file) => store.metadata(file)?,
            None => self.find_template(template)?.0,
        };
        let content = match (file.source, private) {
            (Source::Memory, Some(private)) => Content::Memory(Arc::new(MemoryView::again(
                file.node,
                private.uid,
                private.gid,
                &self.keeper,
                &mut kept.lock(),
            )?)),
            (Source::View, Some(private)) => Content::View(self.view_again(file.node, private, &pinned)?),
            _ => Content::Template(pinned),
        };
        Ok((content, metadata))
    }

    fn view_again(
        &self,
        node: u64,
        private: &PrivateRef,
        pinned: &Arc<Pinned>,
    ) -> Result<Arc<crate::views::View>> {
        let retired = self.recorder.read(|ledger| ledger.retired.contains_key(&node));
        match &private.view {
            Some(name) if !retired => {
                let gone = || Error::NotFound(format!("view {name}: its files are gone"));
                let known = self.views.find(name)?.ok_or_else(gone)?;
                let fits = |record: &_| Self::check_fits(name, record, &private.template);
                self.views.open_named(name, node, pinned, fits, || known.record)
            }
            name => self.views.reopen_unnamed(node, pinned, name.is_some()),
        }
    }

    /// What an OPEN that is sent again has opened already.
    pub(super) fn opened_before(&self, request: u64) -> Result<Option<Opened>> {
        if request & RESENT == 0 {
            return Ok(None);
        }
        let Some((_, handle)) = self.unanswered.remove(&(request & !RESENT)) else { return Ok(None) };
        let open = self.handle(handle)?;
        let plane = match &open.content {
            Content::Template(pinned) => Plane::Template(ReadOnly::new(pinned.clone(), open.access)?),
            Content::View(_) => Plane::Cached { keep: true },
            Content::Memory(view) => Plane::Memory(view.clone()),
            Content::Authored(_) => Plane::Cached { keep: false },
        };
        Ok(Some(Opened {
            handle,
            plane,
            backing: open.backing,
            drop_cache: false,
            inspection: open.inspection,
        }))
    }
}

/// Of a private view, in bytes.
fn size_of(content: &Content) -> Option<u64> {
    match content {
        Content::View(view) => Some(view.overlay.size()),
        Content::Memory(memory) => memory.file.metadata().ok().map(|metadata| metadata.len()),
        Content::Template(_) | Content::Authored(_) => None,
    }
}

impl Handle {
    pub(super) fn recorded(&self, handle: HandleId, request: u64) -> OpenFile {
        let source = match &self.content {
            Content::Template(_) => Source::Template,
            Content::View(_) => Source::View,
            Content::Authored(_) => Source::Authored,
            Content::Memory(_) => Source::Memory,
        };
        OpenFile {
            handle,
            node: self.node.id,
            request: request & !RESENT,
            what: self.node.what.clone(),
            source,
            backing: self.backing,
            access: self.access,
            opener: self.opener.clone(),
            inspection: self.inspection,
        }
    }
}

#[cfg(test)]
mod tests;
