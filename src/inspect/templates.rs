//! The templates of a store, as `templates.json` lists them.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::patience::{Patience, Subject};
use super::{Inspector, SCHEMA};
use crate::access::Caller;
use crate::engine::Child;
use crate::error::Result;
use crate::name::written;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateList {
    pub schema: u32,
    pub templates: Vec<TemplateReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateReport {
    /// The path in the store, as it is written in a path of the mount.
    pub name: String,
    pub size_bytes: u64,
    /// What of it is no hole; null where that cannot be told.
    pub data_bytes: Option<u64>,
    /// Views of it that the reader may see.
    pub views: u64,
}

impl Inspector {
    /// The templates that `caller` may read, as far as the store answers.
    pub fn templates(&self, caller: &Caller) -> Result<TemplateList> {
        let views = self.engine.snapshot(caller);
        let mut templates = Vec::new();
        let mut directories: Vec<PathBuf> = vec![PathBuf::new()];
        let (mut lists, mut finds, mut reads) = (Patience::new(), Patience::new(), Patience::new());
        while let Some(directory) = directories.pop() {
            let asked = (self.engine.clone(), caller.clone(), directory.clone());
            let list = move || asked.0.children(&asked.1, &asked.2);
            for path in lists.look(Subject::Path(directory), list).unwrap_or_default() {
                let asked = (self.engine.clone(), caller.clone(), path.clone());
                let find = move || asked.0.child(&asked.1, asked.2);
                match finds.look(Subject::Path(path), find).flatten() {
                    Some(Child::Directory(path)) => directories.push(path),
                    Some(Child::Template { path, identity }) => {
                        let name = written(path.as_os_str().as_bytes());
                        let (subject, size_bytes) = (Subject::Template(identity.file()), identity.size);
                        let engine = self.engine.clone();
                        let data_bytes =
                            reads.look(subject, move || engine.data_of(&path, &identity)).flatten();
                        let views = views.iter().filter(|view| view.template == name).count() as u64;
                        templates.push(TemplateReport { name, size_bytes, data_bytes, views });
                    }
                    None => {}
                }
            }
        }
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(TemplateList { schema: SCHEMA, templates })
    }
}
