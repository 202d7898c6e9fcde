//! What the policies of the mount say to an OPEN, and to a view that grows.

use std::path::Path;

use super::Engine;
use super::nodes::{Node, OpenState, PrivateRef, TemplateRef, What};
use crate::access::Caller;
use crate::caller;
use crate::error::{Error, Result};
use crate::manifest::Fact;
use crate::policy::{self, Guard, Wish};
use crate::rules::Kind;

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

    /// May `caller` open this node at all?
    pub(super) fn admit_open(&self, caller: &Caller, node: &Node) -> Result<()> {
        let Some((template, kind)) = kind_of(&node.what) else { return Ok(()) };
        if self.inspectors.contains_key(&caller.pid) {
            return Ok(());
        }
        let groups = || {
            let others = caller::supplementary_groups(caller).unwrap_or_default();
            others.into_iter().chain([caller.gid]).collect()
        };
        let size = template.identity.size;
        let path = &template.path;
        self.guard.check(&Wish { path, kind, uid: caller.uid, groups: &groups, size })?;
        match kind.is_private() {
            true => self.admit_size(path, size).and_then(|()| self.require(path)),
            false => Ok(()),
        }
    }

    /// Does the template's manifest vouch for all that is required of it?
    fn require(&self, path: &Path) -> Result<()> {
        let required = self.guard.required(path);
        if required.is_empty() {
            return Ok(());
        }
        let found = self.store.manifest(path)?;
        let vouches = |fact: &Fact| found.as_ref().is_some_and(|(_, manifest)| manifest.safe.contains(fact));
        match required.into_iter().find(|(fact, _)| !vouches(fact)) {
            None => Ok(()),
            Some((fact, title)) => {
                let manifest = found.as_ref().map(|(path, _)| path.as_path());
                Err(policy::not_vouched_for(path, fact, &title, manifest))
            }
        }
    }

    /// Counts a private view that is about to be open, unless it is already.
    pub(super) fn claim_view(&self, state: &mut OpenState, private: &PrivateRef) -> Result<()> {
        if state.claim.is_some() {
            return Ok(());
        }
        let template = &private.template;
        let limit = self.guard.max_views(&template.path);
        let most = limit.as_ref().map(|(most, _)| *most);
        state.claim = self.shares.claim_view(private.uid, template.identity.file(), most)?;
        match limit.filter(|_| state.claim.is_none()) {
            Some((most, title)) => Err(Error::Quota(format!(
                "{}: {title} lets {most} private views of it be open at once, and they are: close one, or raise max-views \
                 there",
                template.path.display()
            ))),
            None => Ok(()),
        }
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
