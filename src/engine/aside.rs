//! Views that are set aside: nobody can use them, and they are left as they are until somebody puts them right or
//! discards them. A view with a name is one whose files cannot be used (views.rs); any view that was open when a
//! process died is one that could not be taken over. A successor looks anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::Engine;
use super::ledger::{Entry, OpenFile, Source};
use super::nodes::What;
use super::opened::HandleId;
use crate::access::Caller;
use crate::caller::is_operator;
use crate::name::{Label, written};

/// One of them, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// As that of a [`super::ViewSnapshot`].
    pub id: String,
    /// The template's path in the store, as it is written in a path of the mount.
    pub template: Option<String>,
    pub uid: Option<u32>,
    /// Open files of it, whose users get errors.
    pub opens: u64,
    /// The pattern of its files in the state directory; None for one that has none.
    pub files: Option<PathBuf>,
    pub reason: String,
}

/// Why a node could not be taken over, for as long as a file of it is open.
#[derive(Default)]
pub struct Lost(Mutex<BTreeMap<u64, String>>);

impl Lost {
    pub fn add(&self, node: u64, reason: String) {
        self.0.lock().insert(node, reason);
    }
}

/// An open file of a node that could not be taken over.
struct LostFile {
    file: OpenFile,
    /// The name that the files of its view have.
    name: Option<Label>,
    reason: String,
}

impl Engine {
    /// Those that `caller` may know of, by id: root and the mount's user all, others their own.
    pub fn set_aside(&self, caller: &Caller) -> Vec<SetAside> {
        let mut found: BTreeMap<String, SetAside> = BTreeMap::new();
        for lost in self.lost_files().into_iter().filter(|lost| !lost.file.inspection) {
            if let Some(view) = self.lost_view(lost) {
                found.entry(view.id.clone()).or_insert(view).opens += 1;
            }
        }
        for (name, reason) in self.views.unusable() {
            let view = found.entry(name.to_string()).or_insert_with(|| SetAside {
                id: name.to_string(),
                template: None,
                uid: None,
                opens: 0,
                files: Some(self.views.files_of_named(&name)),
                reason: String::new(),
            });
            view.reason = reason;
        }
        let may_know = |view: &SetAside| is_operator(caller) || view.uid == Some(caller.uid);
        found.into_values().filter(may_know).collect()
    }

    fn lost_files(&self) -> Vec<LostFile> {
        let lost = self.lost.0.lock().clone();
        if lost.is_empty() {
            // As a rule. Whoever opens something waits while the ledger is read.
            return Vec::new();
        }
        self.recorder.read(|ledger| {
            let of_lost = |file: &OpenFile| {
                let reason = lost.get(&file.node)?.clone();
                let name = match &file.what {
                    What::Private(private) if !ledger.retired.contains_key(&file.node) => {
                        private.view.clone()
                    }
                    _ => None,
                };
                Some(LostFile { file: file.clone(), name, reason })
            };
            ledger.open.values().filter_map(of_lost).collect()
        })
    }

    /// None for what is no view. Its open files are not counted.
    fn lost_view(&self, LostFile { file, name, reason }: LostFile) -> Option<SetAside> {
        let (template, uid) = match &file.what {
            What::Rom { template, .. } | What::Template { template } => (template, file.opener.uid),
            What::Private(private) => (&private.template, private.uid),
            What::Directory { .. } | What::Leftover { .. } | What::Warm { .. } => return None,
        };
        let files = || match &name {
            Some(name) => self.views.files_of_named(name),
            None => self.views.files_of_node(file.node),
        };
        Some(SetAside {
            id: name.as_ref().map_or_else(|| format!("@{}", file.node), Label::to_string),
            template: Some(written(template.path.as_os_str().as_encoded_bytes())),
            uid: Some(uid),
            opens: 0,
            files: (file.source == Source::View).then(files),
            reason,
        })
    }

    /// The end of a file that could not be taken over. With the last one a view without a name is gone.
    pub(super) fn release_lost(&self, handle: HandleId) {
        let lost = self.lost_files().into_iter().find(|lost| lost.file.handle == handle);
        let Some(LostFile { file, name, .. }) = lost else { return };
        self.recorder.record_past(Entry::Released { handle });
        if self.recorder.read(|ledger| ledger.open.values().any(|other| other.node == file.node)) {
            return;
        }
        self.lost.0.lock().remove(&file.node);
        if name.is_none() && file.source == Source::View {
            self.views.remove_unnamed(file.node);
        }
    }
}
