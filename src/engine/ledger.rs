//! What a successor must know of a mount beside the files of its views: which node ids and open
//! files the kernel knows, and what they stand for. Each change is an [`Entry`], recorded before
//! the reply that makes it true.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::nodes::What;
use super::opened::{Access, HandleId};
use crate::access::Caller;
use crate::name::Label;

/// Set by the kernel in the id of a request that it sends again (FUSE_UNIQUE_RESEND).
pub const RESENT: u64 = 1 << 63;

/// Requests that a daemon may have done but not answered when it died: one for each thread that
/// serves, of which there are fewer.
const UNANSWERED: usize = 2048;

/// The latest nodes that were looked up and not opened: more are not on their way to an OPEN.
const LOOKED_UP: usize = 4096;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Entry {
    Negotiated(Negotiated),
    /// So many daemons have taken over by now.
    Takeovers {
        count: u64,
    },
    /// Ids below these may have been dealt out.
    Dealt {
        nodes: u64,
        handles: HandleId,
    },
    Directory {
        node: u64,
        #[serde(with = "path_bytes")]
        path: PathBuf,
    },
    /// Any other node, of a LOOKUP soon after a takeover.
    LookedUp {
        node: u64,
        what: What,
    },
    Forgotten {
        node: u64,
    },
    Opened(OpenFile),
    Released {
        handle: HandleId,
    },
    /// The view with a name that this node is was discarded, but is still open.
    Retired {
        node: u64,
        view: Label,
    },
    /// This request has discarded a view.
    Discarded {
        request: u64,
    },
}

/// What INIT has settled with the kernel for the life of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// The kernel's version of the protocol.
    pub major: u32,
    pub minor: u32,
    /// FUSE_* flags (include/uapi/linux/fuse.h) that were asked for and granted.
    pub flags: u64,
}

/// One open file, as [`super::opened::Handle`] is it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenFile {
    pub handle: HandleId,
    pub node: u64,
    /// The OPEN that made it, without [`RESENT`].
    pub request: u64,
    pub what: What,
    pub source: Source,
    /// The kernel's name for the file that it reads by itself.
    pub backing: Option<u32>,
    pub access: Access,
    pub opener: Caller,
    pub inspection: bool,
}

/// Where an open file's content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    Template,
    View,
    Authored,
    Memory,
}

/// All entries taken together.
#[derive(Debug, Default)]
pub struct Ledger {
    pub negotiated: Option<Negotiated>,
    pub takeovers: u64,
    pub dealt_nodes: u64,
    pub dealt_handles: HandleId,
    pub directories: BTreeMap<u64, PathBuf>,
    pub looked_up: BTreeMap<u64, What>,
    pub open: BTreeMap<HandleId, OpenFile>,
    pub retired: BTreeMap<u64, Label>,
    pub discarded: VecDeque<u64>,
}

impl Ledger {
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Negotiated(negotiated) => self.negotiated = Some(negotiated),
            Entry::Takeovers { count } => self.takeovers = self.takeovers.max(count),
            Entry::Dealt { nodes, handles } => {
                self.dealt_nodes = self.dealt_nodes.max(nodes);
                self.dealt_handles = self.dealt_handles.max(handles);
            }
            Entry::Directory { node, path } => {
                self.directories.insert(node, path);
            }
            Entry::LookedUp { node, what } => {
                self.looked_up.insert(node, what);
                if self.looked_up.len() > LOOKED_UP {
                    self.looked_up.pop_first();
                }
            }
            Entry::Forgotten { node } => {
                self.directories.remove(&node);
                self.looked_up.remove(&node);
            }
            Entry::Opened(file) => {
                // A number is one open file's.
                self.close(file.handle);
                self.dealt_handles = self.dealt_handles.max(file.handle.saturating_add(1));
                if matches!(&file.what, What::Private(private) if private.view.is_none()) {
                    // It ends with its last close, and must not begin again after a takeover.
                    self.looked_up.remove(&file.node);
                }
                self.open.insert(file.handle, file);
            }
            Entry::Released { handle } => self.close(handle),
            Entry::Retired { node, view } => {
                if self.open.values().any(|file| file.node == node) {
                    self.retired.insert(node, view);
                }
            }
            Entry::Discarded { request } => {
                self.discarded.push_back(request);
                if self.discarded.len() > UNANSWERED {
                    self.discarded.pop_front();
                }
            }
        }
    }

    fn close(&mut self, handle: HandleId) {
        if let Some(file) = self.open.remove(&handle)
            && self.retired.contains_key(&file.node)
            && !self.open.values().any(|other| other.node == file.node)
        {
            self.retired.remove(&file.node);
        }
    }

    /// The fewest entries that say the same.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.negotiated.map(Entry::Negotiated).into_iter().collect();
        entries.push(Entry::Takeovers { count: self.takeovers });
        entries.push(Entry::Dealt { nodes: self.dealt_nodes, handles: self.dealt_handles });
        let directory = |(node, path): (&u64, &PathBuf)| Entry::Directory { node: *node, path: path.clone() };
        entries.extend(self.directories.iter().map(directory));
        let looked_up = |(node, what): (&u64, &What)| Entry::LookedUp { node: *node, what: what.clone() };
        entries.extend(self.looked_up.iter().map(looked_up));
        entries.extend(self.open.values().cloned().map(Entry::Opened));
        let retired = |(node, view): (&u64, &Label)| Entry::Retired { node: *node, view: view.clone() };
        entries.extend(self.retired.iter().map(retired));
        entries.extend(self.discarded.iter().map(|request| Entry::Discarded { request: *request }));
        entries
    }
}

/// Paths are bytes, and need not be UTF-8.
pub mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(OsString::from_vec).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::engine::nodes::{PrivateRef, TemplateRef};
    use crate::rules::Backing;
    use crate::store::Identity;

    fn opened(handle: HandleId, node: u64) -> Entry {
        let path = PathBuf::from(OsString::from_vec(b"a/\xff".to_vec()));
        let identity = Identity { dev: 1, ino: u64::MAX, size: 3, mtime_ns: -4, btime_ns: Some(5) };
        let template = TemplateRef { path, identity };
        let what = What::Private(PrivateRef {
            template,
            view: Label::new(b"web-1"),
            vm: None,
            if_writable: false,
            backing: Backing::Overlay,
            uid: 0,
            gid: 0,
        });
        Entry::Opened(OpenFile {
            handle,
            node,
            request: 8,
            what,
            source: Source::View,
            backing: None,
            access: Access { read: true, write: true },
            opener: Caller { uid: 1, gid: 2, pid: 3 },
            inspection: false,
        })
    }

    fn label() -> Label {
        Label::new(b"web-1").unwrap()
    }

    fn ledger(entries: impl IntoIterator<Item = Entry>) -> Ledger {
        let mut ledger = Ledger::default();
        entries.into_iter().for_each(|entry| ledger.apply(entry));
        ledger
    }

    #[test]
    fn what_is_closed_or_forgotten_is_not_known_and_its_number_never_comes_again() {
        let ledger = ledger([
            Entry::Directory { node: 70, path: "a".into() },
            Entry::Directory { node: 71, path: "b".into() },
            opened(5, 72),
            opened(6, 72),
            Entry::Retired { node: 72, view: label() },
            Entry::Forgotten { node: 70 },
            Entry::Released { handle: 6 },
        ]);
        assert_eq!(ledger.directories.keys().collect::<Vec<_>>(), [&71]);
        assert_eq!((ledger.open.keys().next(), ledger.dealt_handles), (Some(&5), 7));
        assert_eq!(ledger.retired.get(&72), Some(&label()), "it is still open once");
        let mut ledger = ledger;
        ledger.apply(Entry::Released { handle: 5 });
        assert!(ledger.retired.is_empty() && ledger.open.is_empty());
        assert_eq!(ledger.dealt_handles, 7);
    }

    /// Whoever holds such a node from before its last close would find the template again in its view.
    #[test]
    fn a_closed_view_without_a_name_is_nothing_that_was_looked_up() {
        let Entry::Opened(named) = opened(5, 72) else { panic!("not opened") };
        let What::Private(private) = &named.what else { panic!("not private") };
        let what = What::Private(PrivateRef { view: None, ..private.clone() });
        let unnamed = OpenFile { handle: 6, node: 73, what: what.clone(), ..named.clone() };
        let ledger = ledger([
            Entry::LookedUp { node: 72, what: named.what.clone() },
            Entry::LookedUp { node: 73, what },
            Entry::Opened(named),
            Entry::Opened(unnamed),
            Entry::Released { handle: 5 },
            Entry::Released { handle: 6 },
        ]);
        assert_eq!(ledger.looked_up.keys().collect::<Vec<_>>(), [&72]);
    }

    /// An entry with the largest number that there is ended the process that read it, in a debug build.
    #[test]
    fn any_number_is_one_open_files() {
        let ledger =
            ledger([opened(u64::MAX, 72), Entry::Retired { node: 72, view: label() }, opened(u64::MAX, 73)]);
        assert_eq!((ledger.open.len(), ledger.retired.len(), ledger.dealt_handles), (1, 0, u64::MAX));
    }

    #[test]
    fn the_fewest_entries_say_the_same() {
        let first = ledger([
            Entry::Negotiated(Negotiated { major: 7, minor: 45, flags: 1 << 37 }),
            Entry::Takeovers { count: 2 },
            Entry::Dealt { nodes: 1088, handles: 0 },
            Entry::Directory { node: 71, path: "b".into() },
            opened(5, 72),
            opened(6, 73),
            Entry::Released { handle: 6 },
            Entry::LookedUp { node: 74, what: What::Leftover { view: label(), reason: "gone".into() } },
            Entry::Retired { node: 72, view: label() },
            Entry::Discarded { request: 12 },
        ]);
        let read =
            |entry: Entry| -> Entry { serde_json::from_slice(&serde_json::to_vec(&entry).unwrap()).unwrap() };
        let again = ledger(first.entries().into_iter().map(read));
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
    }
}
