//! What the engine knows of its views at one moment, for those who look at them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Engine;
use super::counters::CounterValues;
use super::nodes::{Content, Node, PrivateRef, TemplateRef, What};
use super::opened::Handle;
use crate::access::{Caller, READ, SEARCH};
use crate::caller::process_of;
use crate::name::{Label, written};
use crate::overlay::{PAGE, State, Usage};
use crate::store::{Found, Identity};
use crate::views::Named;

/// First page, how many, and whose they are.
pub type PageRun = (u64, u64, State);

/// One view, or one template that is open for authoring.
#[derive(Debug, Clone)]
pub struct ViewSnapshot {
    /// None for a named view that nobody has open.
    pub node: Option<u64>,
    /// The view's name, or `@NODE` for one without.
    pub id: String,
    /// The template's path in the store, as it is written in a path of the mount.
    pub template: String,
    pub vm: Option<Label>,
    /// `rom`, `private` or `template`.
    pub kind: &'static str,
    /// `template` where nothing but the template is read, `overlay` where the view owns pages,
    /// `memory` where all of it is in memory of its own.
    pub backing: &'static str,
    /// Why, where `backing=auto` decided.
    pub backing_reason: Option<&'static str>,
    pub uid: u32,
    pub size: u64,
    pub template_size: u64,
    /// How far the template shows through: less than its size where the view was made shorter once.
    pub template_shown: u64,
    pub usage: Usage,
    pub since: SystemTime,
    pub counters: CounterValues,
    /// Who opened it, first to last; one entry an open file.
    pub openers: Vec<Opener>,
    /// The kernel reads the template by itself: the view's inode caches no pages.
    pub passed_through: bool,
    source: TemplateRef,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    pub pid: u32,
    pub uid: u32,
    pub writable: bool,
}

impl ViewSnapshot {
    /// The same for views of one template file, and for no others.
    pub fn template_key(&self) -> (PathBuf, Identity) {
        (self.source.path.clone(), self.source.identity.clone())
    }
}

impl Engine {
    /// The views that `caller` may see: root all, others their own; in the order of their
    /// templates and names.
    pub fn snapshot(&self, caller: &Caller) -> Vec<ViewSnapshot> {
        let mut openers = self.openers(|_| true);
        let open = self.nodes.open().into_iter().filter_map(|node| {
            let openers = openers.remove(&node.id)?;
            self.open_snapshot(&node, openers)
        });
        let mut views: Vec<ViewSnapshot> = open.collect();
        let open: HashSet<String> = views.iter().map(|view| view.id.clone()).collect();
        let at_rest = self.views.all().into_iter().filter(|(name, _)| !open.contains(name.as_str()));
        views.extend(at_rest.map(|(name, known)| snapshot_at_rest(&name, known)));
        views.retain(|view| caller.uid == 0 || view.uid == caller.uid);
        views.sort_by(|a, b| (&a.template, &a.id).cmp(&(&b.template, &b.id)));
        views
    }

    /// By node, of the open files that are `wanted`.
    fn openers(&self, wanted: impl Fn(&Handle) -> bool) -> HashMap<u64, Vec<Opener>> {
        let wanted = self.handles.iter().filter(|entry| wanted(entry.value()));
        let mut handles: Vec<_> = wanted.map(|entry| (*entry.key(), entry.value().clone())).collect();
        handles.sort_unstable_by_key(|(id, _)| *id);
        let mut openers: HashMap<u64, Vec<Opener>> = HashMap::new();
        // The kernel names threads, and /proc their processes.
        let mut processes: HashMap<u32, u32> = HashMap::new();
        for (_, handle) in handles {
            if handle.inspection {
                continue;
            }
            let Caller { uid, pid, .. } = handle.opener;
            let pid = *processes.entry(pid).or_insert_with(|| process_of(pid));
            openers.entry(handle.node.id).or_default().push(Opener {
                pid,
                uid,
                writable: handle.access.write,
            });
        }
        openers
    }

    fn open_snapshot(&self, node: &Node, openers: Vec<Opener>) -> Option<ViewSnapshot> {
        let (content, backing_reason) = {
            let state = node.state.lock();
            (state.content.clone()?, state.why)
        };
        let uid = owner(&content, openers.first().map_or(0, |opener| opener.uid));
        let mut snapshot = ViewSnapshot { openers, backing_reason, ..snapshot_of_nothing(node, uid)? };
        match &content {
            Content::Template(pinned) => {
                snapshot.passed_through = pinned.passed_through.get() == Some(&true);
            }
            Content::View(view) => {
                let record = view.record();
                snapshot.backing = "overlay";
                snapshot.vm = record.vm;
                snapshot.size = record.extent.size;
                snapshot.template_shown = record.extent.template_len;
                snapshot.usage = view.overlay.usage();
                snapshot.since = UNIX_EPOCH + Duration::from_secs(record.created);
            }
            Content::Memory(memory) => {
                let (size, private_bytes) = memory.size_and_usage().ok()?;
                snapshot.backing = "memory";
                snapshot.template_shown = 0;
                snapshot.size = size;
                snapshot.usage = Usage { private_bytes, zero_bytes: 0 };
                snapshot.passed_through = true;
            }
            Content::Authored(_) => {}
        }
        Some(snapshot)
    }

    /// What a view that is open owns now; None where it owns no pages at all, or is closed.
    pub fn usage_now(&self, view: &ViewSnapshot) -> Option<Usage> {
        match self.nodes.get(view.node?)?.state.lock().content.as_ref()? {
            Content::View(view) => Some(view.overlay.usage()),
            Content::Template(_) | Content::Authored(_) | Content::Memory(_) => None,
        }
    }

    /// The view that a node stands for, if `caller` may see it. It need not be open, nor made: one
    /// that nobody uses yet owns nothing, and is there for whoever may read its template.
    pub fn snapshot_of_node(&self, caller: &Caller, id: u64) -> Option<ViewSnapshot> {
        let node = self.nodes.get(id)?;
        let openers = self.openers(|handle| handle.node.id == id).remove(&id).unwrap_or_default();
        let may_see = |view: &ViewSnapshot| caller.uid == 0 || view.uid == caller.uid;
        if let Some(view) = self.open_snapshot(&node, openers) {
            return Some(view).filter(may_see);
        }
        let at_rest = match &node.what {
            What::Private(PrivateRef { view: Some(name), template, .. }) => {
                let known = self.views.find(name).ok().flatten();
                known
                    .filter(|known| Self::check_fits(name, &known.record, template).is_ok())
                    .map(|known| (name, known))
            }
            What::Leftover { view, .. } => Some((view, self.views.find(view).ok()??)),
            _ => None,
        };
        if let Some((name, known)) = at_rest {
            return Some(snapshot_at_rest(name, known)).filter(may_see);
        }
        let view = snapshot_of_nothing(&node, caller.uid)?;
        let metadata = node.metadata.lock().clone()?;
        self.check(caller, &view.source.path, &metadata, READ).ok()?;
        Some(view)
    }

    /// As [`Self::template_data`], where no file must be asked for it.
    pub fn known_template_data(&self, view: &ViewSnapshot) -> Option<Option<u64>> {
        match self.nodes.get(view.node?)?.content().0? {
            Content::Template(pinned) => pinned.known_data_bytes(),
            Content::View(view) => view.pinned.known_data_bytes(),
            Content::Authored(_) | Content::Memory(_) => None,
        }
    }

    /// Of a view's template, what is no hole; None where it cannot be read. Reads the template's
    /// layout once while it is pinned.
    pub fn template_data(&self, view: &ViewSnapshot) -> Option<u64> {
        let TemplateRef { path, identity } = &view.source;
        let pinned = match view.node {
            // Its pin is there, also where its path has come to mean another file.
            Some(_) => self.pins.pin(self.store.as_ref(), path, identity),
            None => match self.store.find(path).ok()? {
                Found::Template(_, now) if now.continues(identity) => {
                    self.pins.pin(self.store.as_ref(), path, &now)
                }
                _ => return None,
            },
        };
        pinned.ok()?.data_bytes()
    }

    /// The view with this id, if it is one of those.
    pub fn snapshot_of(&self, caller: &Caller, id: &str) -> Option<ViewSnapshot> {
        self.snapshot(caller).into_iter().find(|view| view.id == id)
    }

    /// The ids of the views that `caller` may see, in no order: cheap enough for a LOOKUP.
    pub fn view_ids(&self, caller: &Caller) -> BTreeSet<String> {
        let may_see = |uid: u32| caller.uid == 0 || caller.uid == uid;
        let at_rest = self.views.all().into_iter();
        let named = at_rest.filter(|(_, known)| may_see(known.record.uid)).map(|(name, _)| name.to_string());
        let mut first: HashMap<u64, (u64, Arc<Handle>)> = HashMap::new();
        for entry in self.handles.iter().filter(|entry| !entry.inspection) {
            let opened = (*entry.key(), entry.value().clone());
            let known = first.entry(entry.node.id).or_insert_with(|| opened.clone());
            if opened.0 < known.0 {
                *known = opened;
            }
        }
        let open = first.into_values().filter_map(|(_, handle)| {
            let content = handle.node.state.lock().content.clone()?;
            id_of(&handle.node).filter(|_| may_see(owner(&content, handle.opener.uid)))
        });
        named.chain(open).collect()
    }

    /// The page states of a view, as runs; None where it is gone.
    pub fn page_runs(&self, snapshot: &ViewSnapshot) -> Option<Vec<PageRun>> {
        let content = snapshot.node.and_then(|node| self.nodes.get(node)?.state.lock().content.clone());
        match (content, Label::new(snapshot.id.as_bytes())) {
            (Some(Content::View(view)), _) => view.overlay.page_runs(),
            (Some(Content::Memory(memory)), _) => memory.page_runs().ok(),
            (None, Some(name)) if snapshot.node.is_none() => self.views.page_runs_at_rest(&name).ok(),
            _ => Some(vec![(0, snapshot.size.div_ceil(PAGE), State::Template)]),
        }
    }
}

/// An entry of a directory of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    Directory(PathBuf),
    Template { path: PathBuf, identity: Identity },
}

impl Engine {
    /// The names in a directory of the store; none where `caller` may not list it.
    pub fn children(&self, caller: &Caller, directory: &Path) -> Vec<PathBuf> {
        let may_list = match self.store.find(directory) {
            Ok(Found::Directory(metadata)) => self.check(caller, directory, &metadata, READ | SEARCH).is_ok(),
            _ => false,
        };
        if !may_list {
            return Vec::new();
        }
        let listed = self.store.list(directory).unwrap_or_default();
        listed.into_iter().map(|listed| directory.join(OsString::from_vec(listed.name))).collect()
    }

    /// What `caller` may see at a path of the store.
    pub fn child(&self, caller: &Caller, path: PathBuf) -> Option<Child> {
        match self.store.find(&path).ok()? {
            Found::Directory(_) => Some(Child::Directory(path)),
            Found::Template(metadata, identity) => {
                self.check(caller, &path, &metadata, READ).ok()?;
                Some(Child::Template { path, identity })
            }
        }
    }

    /// Of a template, what is no hole; None where it cannot be read.
    pub fn data_of(&self, path: &Path, identity: &Identity) -> Option<u64> {
        self.pins.pin(self.store.as_ref(), path, identity).ok()?.data_bytes()
    }
}

/// A view that has no content yet; None for what is no view.
fn snapshot_of_nothing(node: &Node, uid: u32) -> Option<ViewSnapshot> {
    let (template, kind, vm) = match &node.what {
        What::Rom { template, vm } => (template, "rom", vm),
        What::Private(private) => (&private.template, "private", &private.vm),
        What::Template { template } => (template, "template", &None),
        What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => return None,
    };
    Some(ViewSnapshot {
        node: Some(node.id),
        id: id_of(node)?,
        template: written(template.path.as_os_str().as_encoded_bytes()),
        vm: vm.clone(),
        kind,
        backing: "template",
        backing_reason: None,
        uid,
        size: template.identity.size,
        template_size: template.identity.size,
        template_shown: template.identity.size,
        usage: Usage::default(),
        since: node.since,
        counters: node.counters.values(),
        openers: Vec::new(),
        passed_through: false,
        source: template.clone(),
    })
}

fn snapshot_at_rest(name: &Label, known: Named) -> ViewSnapshot {
    let record = known.record;
    let path = Path::new(OsStr::from_bytes(&record.template)).to_owned();
    ViewSnapshot {
        node: None,
        id: name.to_string(),
        template: written(&record.template),
        vm: record.vm,
        kind: "private",
        backing: "overlay",
        backing_reason: None,
        uid: record.uid,
        size: record.extent.size,
        template_size: record.identity.size,
        template_shown: record.extent.template_len,
        usage: known.usage,
        since: UNIX_EPOCH + Duration::from_secs(record.created),
        counters: CounterValues::default(),
        openers: Vec::new(),
        passed_through: false,
        source: TemplateRef { path, identity: record.identity },
    }
}

/// Whose a view is: one that owns pages knows, another is that of who opened it first.
fn owner(content: &Content, first_opener: u32) -> u32 {
    match content {
        Content::View(view) => view.record().uid,
        Content::Memory(memory) => memory.owner().uid,
        Content::Template(_) | Content::Authored(_) => first_opener,
    }
}

/// A view's name, or `@NODE` for one without; None for what is no view.
fn id_of(node: &Node) -> Option<String> {
    match &node.what {
        What::Private(PrivateRef { view: Some(name), .. }) => Some(name.to_string()),
        What::Private(_) | What::Rom { .. } | What::Template { .. } => Some(format!("@{}", node.id)),
        What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => None,
    }
}
