//! The templates of a store, as `templates.json` lists them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Inspector, SCHEMA};
use crate::access::Caller;
use crate::engine::Child;
use crate::error::Result;

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
    /// The templates that `caller` may read.
    pub fn templates(&self, caller: &Caller) -> Result<TemplateList> {
        let views = self.engine.snapshot(caller);
        let mut templates = Vec::new();
        let mut directories: Vec<PathBuf> = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for found in self.engine.children(caller, &directory) {
                match found {
                    Child::Directory(path) => directories.push(path),
                    Child::Template { name, size_bytes, data_bytes } => {
                        let views = views.iter().filter(|view| view.template == name).count() as u64;
                        templates.push(TemplateReport { name, size_bytes, data_bytes, views });
                    }
                }
            }
        }
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(TemplateList { schema: SCHEMA, templates })
    }
}
