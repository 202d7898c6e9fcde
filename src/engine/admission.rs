//! What the policies of the mount say to an OPEN, and to a view that grows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use parking_lot::Mutex;

use super::Engine;
use super::nodes::{Node, TemplateRef, What};
use crate::access::Caller;
use crate::caller;
use crate::error::{Error, Result};
use crate::policy::{self, Guard, Wish};
use crate::rules::Kind;

/// OPENs of views that were counted and are not open yet: the node, and the template's file.
#[derive(Default)]
pub struct Counting(Mutex<BTreeMap<u64, Opening>>);

type Opening = (u64, (u64, u64));

/// Held until the view is open. What that waits for keeps no other OPEN.
pub struct Counted<'a> {
    counting: &'a Counting,
    serial: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counting.0.lock().remove(&self.serial);
    }
}

impl Engine {
    /// As a mount has it whose policies were read.
    pub fn guarded_by(mut self, guard: Guard) -> Self {
        self.guard = guard;
        self
    }

    /// Takes the policies as they are now, or none of them.
    pub fn reload_policies(&self) -> Result<()> {
        self.guard.reload(self.store.as_ref())
    }

    /// May `caller` open this node at all? What is returned is held until it is open.
    pub(super) fn admit_open(&self, caller: &Caller, node: &Node) -> Result<Option<Counted<'_>>> {
        let Some((template, kind)) = kind_of(&node.what) else { return Ok(None) };
        if self.inspectors.contains_key(&caller.pid) {
            return Ok(None);
        }
        let groups = || {
            let others = caller::supplementary_groups(caller).unwrap_or_default();
            others.into_iter().chain([caller.gid]).collect()
        };
        let size = template.identity.size;
        let path = &template.path;
        self.guard.check(&Wish { path, kind, uid: caller.uid, groups: &groups, size })?;
        if kind.is_private() {
            self.admit_size(path, size)?;
        }
        match self.guard.max_views(path).filter(|_| kind.is_private()) {
            Some((limit, title)) => self.count_views(node, template, limit, &title).map(Some),
            None => Ok(None),
        }
    }

    fn count_views(
        &self,
        node: &Node,
        template: &TemplateRef,
        limit: u64,
        title: &str,
    ) -> Result<Counted<'_>> {
        let mut counting = self.counting.0.lock();
        let file = template.identity.file();
        let same = |other: &Node| matches!(&other.what, What::Private(private) if private.template.identity.file() == file);
        let open = self.nodes.open().into_iter().filter(|other| same(other)).map(|other| other.id);
        let opening = counting.values().filter(|(_, of)| *of == file).map(|(id, _)| *id);
        let others: BTreeSet<u64> = open.chain(opening).filter(|id| *id != node.id).collect();
        if others.len() as u64 >= limit {
            return Err(Error::Quota(format!(
                "{}: {title} lets {limit} private views of it be open at once, and they are: close one, or raise \
                 max-views there",
                template.path.display()
            )));
        }
        let serial = counting.keys().last().map_or(0, |last| last + 1);
        counting.insert(serial, (node.id, file));
        Ok(Counted { counting: &self.counting, serial })
    }

    /// May a private view of this template become `size` bytes long?
    pub(super) fn admit_size(&self, path: &Path, size: u64) -> Result<()> {
        let of_mount = self.options.max_private.map(|limit| (limit, "--max-private".to_owned()));
        match self.guard.max_size(path).into_iter().chain(of_mount).min_by_key(|(limit, _)| *limit) {
            Some((limit, title)) if size > limit => Err(policy::too_large(path, size, limit, &title)),
            _ => Ok(()),
        }
    }
}

fn kind_of(what: &What) -> Option<(&TemplateRef, Kind)> {
    match what {
        What::Rom { template, .. } => Some((template, Kind::Rom)),
        What::Template { template } => Some((template, Kind::Template)),
        What::Private(private) => Some((&private.template, Kind::Private)),
        What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => None,
    }
}
