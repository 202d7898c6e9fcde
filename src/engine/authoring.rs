//! A template that is open for writing, where the mount allows it.

use std::sync::Arc;

use super::Engine;
use super::nodes::{Content, Node, TemplateRef, What};
use super::opened::{Access, Plane};
use crate::access::{Caller, READ, WRITE};
use crate::error::{Error, Result};
use crate::pins::Authored;
use crate::store::{Identity, Metadata};

impl Engine {
    pub(super) fn open_template(
        &self,
        caller: &Caller,
        node: &Node,
        template: &TemplateRef,
        access: Access,
    ) -> Result<(Content, Plane)> {
        let (metadata, identity) = self.find_template(template)?;
        for (wanted, right) in [(access.read, READ), (access.write, WRITE)] {
            if wanted {
                self.check(caller, &template.path, &metadata, right)?;
            }
        }
        let authored = match node.content().0 {
            Some(Content::Authored(authored)) => authored,
            _ => self.author_found(template, &metadata, &identity)?,
        };
        let content = Content::Authored(authored);
        node.state.lock().content = Some(content.clone());
        Ok((content, Plane::Cached { keep: false }))
    }

    pub(super) fn author(&self, node: &Node) -> Result<Arc<Authored>> {
        let What::Template { template } = &node.what else {
            return Err(Error::ReadOnly(format!("node {}: not a template", node.id)));
        };
        let _opening = node.opening.lock();
        if let Some(Content::Authored(authored)) = node.content().0 {
            return Ok(authored);
        }
        let (metadata, identity) = self.find_template(template)?;
        self.author_found(template, &metadata, &identity)
    }

    fn author_found(
        &self,
        template: &TemplateRef,
        metadata: &Metadata,
        identity: &Identity,
    ) -> Result<Arc<Authored>> {
        let shown = template.path.display();
        // The kernel leaves it to a filesystem to drop these bits at a write (fuse/xattr.rs).
        if metadata.mode & 0o6000 != 0 {
            return Err(Error::Denied(format!(
                "{shown}: it is setuid or setgid, and is not written so; take these bits off in the store"
            )));
        }
        if identity.file() != template.identity.file() {
            return Err(Error::Stale(format!("{shown}: the template was replaced; open it again")));
        }
        if let Some(view) = self.views.any_of(identity) {
            return Err(Error::InUse(format!(
                "{shown}: view {view} was made from this template and fits no other; discard it first, or write a new \
                 file and rename it over this one"
            )));
        }
        self.pins.author(self.store.as_ref(), &template.path, identity)
    }
}
