//! Warm nodes: node ids that the kernel knows and has pages of before they are anybody's view.
//!
//! A LOOKUP of a private view without a name takes one instead of a new id. The kernel may be
//! given pages only of an inode that nobody can have open: it writes them over whatever is there.
//! So a node is warmed first and handed out then, once; it comes back only if the kernel threw
//! that LOOKUP away (nodes.rs, `WARM_LOOKUPS`). Who has nothing warm gets a cold view, which is
//! the same in every other way.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::nodes::{Content, Node, Origin, PrivateRef, TemplateRef, Warmth, What};
use super::walks::{Step, Walks};
use super::{Attributes, Engine};
use crate::access::Caller;
use crate::error::{Error, Result};
use crate::overlay::{PAGE, State as PageState};
use crate::rules::Backing;
use crate::store::{Found, Identity, Metadata, Template};

/// What the life of a view tells of its template.
#[derive(Debug)]
pub enum Lesson {
    Opened {
        node: u64,
        template: TemplateRef,
    },
    /// With the pages that were written, as page numbers.
    Closed {
        node: u64,
        template: TemplateRef,
        written: Vec<Range<u64>>,
    },
    /// There will be no more.
    End,
}

/// What there is to do for whoever warms nodes.
#[derive(Debug)]
pub enum WarmWork {
    Prepare(TemplateRef),
    /// The kernel may drop this node.
    Drop(u64),
}

pub struct Warming {
    size: usize,
    state: Mutex<State>,
    wake: Condvar,
    walks: Walks,
    lessons: OnceLock<SyncSender<Lesson>>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Ready>,
    /// The templates that were opened last, latest first, less those that were given up: at most as
    /// many as nodes are kept ready, so that each has its share of them.
    wanted: VecDeque<TemplateRef>,
    /// The node that is being warmed, and the process that may look it up.
    preparing: Option<(u64, u32)>,
    /// Nothing is warmed before.
    paused_until: Option<Instant>,
    unwanted: Vec<u64>,
}

impl State {
    fn count(&self, template: &TemplateRef) -> usize {
        self.ready.iter().filter(|ready| ready.template.identity == template.identity).count()
    }

    fn wants(&self, template: &TemplateRef) -> bool {
        self.wanted.iter().any(|wanted| wanted.identity == template.identity)
    }
}

struct Ready {
    id: u64,
    template: TemplateRef,
    pages: u64,
}

impl Warming {
    pub fn new(size: usize) -> Self {
        Self {
            size,
            state: Mutex::default(),
            wake: Condvar::new(),
            walks: Walks::default(),
            lessons: OnceLock::new(),
        }
    }

    /// A node of this template that nobody else gets. Those of what the file was before go.
    fn take(&self, identity: &Identity) -> Option<Ready> {
        let mut state = self.state.lock();
        let outdated = |ready: &Ready| {
            ready.template.identity.file() == identity.file() && ready.template.identity != *identity
        };
        while let Some(at) = state.ready.iter().position(outdated) {
            self.displace(&mut state, at);
        }
        let at = state.ready.iter().position(|ready| ready.template.identity == *identity)?;
        state.ready.remove(at)
    }

    fn add(&self, ready: Ready) {
        let mut state = self.state.lock();
        state.ready.push_back(ready);
        while state.ready.len() > self.size {
            let share = self.share(&state);
            let too_many =
                |ready: &Ready| state.count(&ready.template) > share || !state.wants(&ready.template);
            let at = state.ready.iter().position(too_many).unwrap_or(0);
            self.displace(&mut state, at);
        }
    }

    /// How many nodes of each wanted template are kept ready.
    fn share(&self, state: &State) -> usize {
        self.size / state.wanted.len().max(1)
    }

    fn displace(&self, state: &mut State, at: usize) {
        if let Some(ready) = state.ready.remove(at) {
            state.unwanted.push(ready.id);
            self.wake.notify_all();
        }
    }

    /// The kernel has forgotten this node.
    pub fn lost(&self, id: u64) {
        self.state.lock().ready.retain(|ready| ready.id != id);
    }

    fn want(&self, template: &TemplateRef) {
        let mut state = self.state.lock();
        state.wanted.retain(|wanted| wanted.identity.file() != template.identity.file());
        state.wanted.push_front(template.clone());
        state.wanted.truncate(self.size);
        drop(state);
        self.wake.notify_all();
    }
}

impl Engine {
    /// Are nodes warmed on this mount?
    pub fn warms(&self) -> bool {
        self.options.warm > 0
    }

    /// Where lessons go; told once.
    pub fn set_lessons(&self, lessons: SyncSender<Lesson>) {
        let _ = self.warming.lessons.set(lessons);
    }

    /// Nothing is learned any more.
    pub fn end_lessons(&self) {
        if let Some(lessons) = self.warming.lessons.get() {
            let _ = lessons.send(Lesson::End);
        }
    }

    /// Views that come and go faster than they are learned from teach nothing.
    fn tell(&self, lesson: Lesson) {
        if let Some(lessons) = self.warming.lessons.get()
            && let Err(TrySendError::Full(lesson)) = lessons.try_send(lesson)
        {
            log::debug!("too much to learn at once: {lesson:?} is left out");
        }
    }

    /// Is this node anything?
    pub fn knows(&self, node: u64) -> bool {
        self.nodes.get(node).is_some()
    }

    /// How many nodes of this template are ready.
    pub fn ready(&self, identity: &Identity) -> u64 {
        let state = self.warming.state.lock();
        state.ready.iter().filter(|ready| ready.template.identity == *identity).count() as u64
    }

    /// What the kernel was given of nodes that wait.
    pub fn warm_bytes(&self) -> u64 {
        self.warming.state.lock().ready.iter().map(|ready| ready.pages * PAGE).sum()
    }

    pub(super) fn may_be_warm(&self, private: &PrivateRef) -> bool {
        self.warms() && private.view.is_none() && private.backing == Backing::Overlay
    }

    /// The node of one LOOKUP of a view without a name: warm, if there is one and the kernel will
    /// not throw it away.
    pub(super) fn look_up_warmed(
        &self,
        step: Step,
        origin: Origin,
        private: PrivateRef,
        metadata: Metadata,
    ) -> Result<Arc<Node>> {
        let warming = &self.warming;
        let checked = warming.walks.is_check(&step, |node| self.nodes.get(node).is_some());
        if let Some(node) = checked.and_then(|id| self.nodes.get(id)) {
            self.drop_if_unused(&node);
        }
        let mut node = None;
        while checked.is_none() && node.is_none() {
            let Some(Ready { id, template, pages }) = warming.take(&private.template.identity) else { break };
            let warmth = Warmth { template, pages, step: step.clone() };
            node = self.nodes.hand_out(
                origin.uid,
                id,
                What::Private(private.clone()),
                Some(metadata.clone()),
                warmth,
            )?;
        }
        let node = match node {
            Some(node) => node,
            None => self.nodes.look_up(origin, What::Private(private), Some(metadata))?,
        };
        warming.walks.answered(&step, checked.is_some(), node.id);
        Ok(node)
    }

    /// A warm node that was looked up and not opened, such as by stat(2), would stay in the kernel:
    /// the entry by which it was warmed leads to it.
    fn drop_if_unused(&self, node: &Node) {
        if node.warmth.is_some() && node.counters.values().opens == 0 {
            self.drop_warm(node.id);
        }
    }

    /// Has the kernel let go of a node that was warmed and is of no use.
    pub(super) fn drop_warm(&self, id: u64) {
        self.warming.state.lock().unwanted.push(id);
        self.warming.wake.notify_all();
    }

    pub(super) fn take_back(&self, id: u64, Warmth { template, pages, step }: Warmth) {
        self.warming.walks.was_check(&step, id);
        self.warming.add(Ready { id, template, pages });
    }

    pub(super) fn opened_view(&self, node: &Node, content: &Content) {
        let (Content::View(_), What::Private(private)) = (content, &node.what) else { return };
        if private.view.is_some() {
            return;
        }
        let template = private.template.clone();
        if self.warms() && private.backing == Backing::Overlay {
            self.warming.want(&template);
        }
        self.tell(Lesson::Opened { node: node.id, template });
    }

    /// At the last close of a view, when all that was mapped has been written back.
    pub(super) fn teach(&self, node: &Node, private: &PrivateRef, content: Option<&Content>) {
        let (Some(Content::View(view)), None) = (content, &private.view) else { return };
        let own = |(first, count, state)| (state == PageState::Private).then_some(first..first + count);
        let runs = view.overlay.page_runs().unwrap_or_default();
        let written = runs.into_iter().filter_map(own).collect();
        self.tell(Lesson::Closed { node: node.id, template: private.template.clone(), written });
    }

    /// Waits for something to do.
    pub fn next_warm_work(&self) -> WarmWork {
        let mut state = self.warming.state.lock();
        loop {
            if let Some(node) = state.unwanted.pop() {
                return WarmWork::Drop(node);
            }
            let share = self.warming.share(&state);
            let next = state.wanted.iter().find(|wanted| state.count(wanted) < share);
            match (next, state.paused_until.filter(|until| *until > Instant::now())) {
                (Some(_), Some(until)) => drop(self.warming.wake.wait_until(&mut state, until)),
                (Some(template), None) => return WarmWork::Prepare(template.clone()),
                (None, _) => self.warming.wake.wait(&mut state),
            }
        }
    }

    /// Nothing is warmed for so long.
    pub fn pause_warming(&self, pause: Duration) {
        self.warming.state.lock().paused_until = Some(Instant::now() + pause);
    }

    /// The first view of a template that nobody knew has taught: the second one is to be warm.
    pub fn warm_from_now_on(&self, template: &TemplateRef) {
        if self.warms() {
            self.warming.want(template);
        }
    }

    /// No more of this template until it is opened again.
    pub fn give_up_warming(&self, template: &TemplateRef) {
        self.warming.state.lock().wanted.retain(|wanted| wanted.identity != template.identity);
    }

    /// Which file is at a path of the store now.
    pub fn identity(&self, path: &Path) -> Result<Identity> {
        match self.store.find(path)? {
            Found::Template(_, identity) => Ok(identity),
            Found::Directory(_) => Err(Error::NotFound(format!("{}: it is a directory", path.display()))),
        }
    }

    /// The template's file, not pinned: nobody's writing is refused because a node is warmed.
    pub fn unpinned(&self, template: &TemplateRef) -> Result<Arc<dyn Template>> {
        self.store.pin(&template.path, &template.identity)
    }

    /// A node to be warmed, which `process` alone may look up.
    pub fn begin_warming(&self, template: &TemplateRef, process: u32) -> Result<u64> {
        let id = self.nodes.insert_warm(template.clone())?.id;
        self.warming.state.lock().preparing = Some((id, process));
        Ok(id)
    }

    /// LOOKUP of a node that is being warmed.
    pub fn look_up_warming(&self, caller: &Caller, id: u64) -> Result<Attributes> {
        let allowed = self.warming.state.lock().preparing == Some((id, caller.pid));
        let node = allowed.then(|| self.nodes.look_up_warm(id)).flatten();
        let node = node.ok_or_else(|| Error::NotFound(format!("node {id}: it is not being warmed")))?;
        self.attributes_of(caller, &node)
    }

    /// Nobody may look it up any more. True if the kernel knows it as it must.
    pub fn end_warming(&self, id: u64) -> bool {
        self.warming.state.lock().preparing = None;
        if let Some(node) = self.nodes.get(id) {
            self.nodes.closed(&node);
        }
        self.nodes.is_warm(id)
    }

    /// The kernel has these many pages of it: the next LOOKUP may have it.
    pub fn publish_warm(&self, id: u64, template: TemplateRef, pages: u64) {
        if self.nodes.is_warm(id) {
            self.warming.add(Ready { id, template, pages });
        }
    }
}

pub fn not_a_view(node: u64) -> Error {
    Error::Stale(format!("node {node}: it is no view yet"))
}
