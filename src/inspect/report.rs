//! The figures of a view, as programs read them: docs/INSPECT.md. A figure that could not be
//! read is null, never 0.

use serde::{Deserialize, Serialize};

use crate::name::Label;

/// The version of what is written here; it changes when a field goes or changes its meaning.
pub const SCHEMA: u32 = 1;

/// `views.json`, and `templatefs views --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    pub views: Vec<ViewReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewReport {
    /// The view's name, or `@NODE` for one without; NODE is its inode number on the mount.
    pub id: String,
    /// The template's path in the store, as it is written in a path of the mount.
    pub template: String,
    pub vm: Option<Label>,
    /// `rom`, `private` or `template`.
    pub kind: String,
    /// `template` where nothing but the template is read, `overlay` where the view owns pages,
    /// `memory` where all of it is in memory of its own.
    pub backing: String,
    /// Why, where `backing=auto` decided.
    pub backing_reason: Option<String>,
    pub uid: u32,
    pub size_bytes: u64,
    pub template_bytes: u64,
    /// How far the template shows through the view.
    pub shown_bytes: u64,
    /// Of the template, what is no hole.
    pub data_bytes: Option<u64>,
    /// Pages that the view owns in the state directory.
    pub private_bytes: u64,
    /// Punched pages; they cost nothing.
    pub zero_bytes: u64,
    /// Pages that private mappings of the view copied into their processes, in memory.
    pub cow_anon_bytes: Option<u64>,
    /// The same, swapped out.
    pub cow_swap_bytes: Option<u64>,
    /// Page cache of the view's own inode.
    pub cached_bytes: Option<u64>,
    /// Of it, what is not yet written back.
    pub dirty_bytes: Option<u64>,
    /// Mapped pages whose write-back waits until the state directory takes it.
    #[serde(default)]
    pub held_bytes: u64,
    /// Mapped pages in memory that are the template's own, shared with its other views.
    pub shared_clean_bytes: Option<u64>,
    /// What would be freed if this view went away: private, copied and cached.
    pub cost_bytes: Option<u64>,
    /// What a full copy of the template's data would have cost more; 0 where it would not.
    pub saved_bytes: Option<u64>,
    /// Open files now.
    pub opens: u64,
    pub opens_total: u64,
    /// READ requests and what they returned. On the passthrough plane there are none.
    pub reads_total: u64,
    pub read_bytes_total: u64,
    pub writes_total: u64,
    pub write_bytes_total: u64,
    /// Pages that the daemon gave on request; the kernel asks for them at a fault, with read-ahead.
    pub faults_served_total: u64,
    /// Pages that the daemon gave before they were asked for.
    pub prefetched_pages_total: u64,
    pub errors_total: u64,
    pub age_seconds: f64,
    /// Who opened it first, of those who have it open.
    pub opener: Option<OpenerReport>,
    /// The processes that have it open or mapped.
    pub processes: Vec<ProcessReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenerReport {
    pub pid: u32,
    pub uid: u32,
    pub comm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReport {
    pub pid: u32,
    pub comm: String,
    pub uid: Option<u32>,
    /// Has it open for writing.
    pub writable: bool,
    /// Address ranges that map the view; null where its mappings could not be read.
    pub mappings: Option<u64>,
    pub mapped_bytes: Option<u64>,
    /// Of these, in memory.
    pub resident_bytes: Option<u64>,
    pub cow_anon_bytes: Option<u64>,
    pub cow_swap_bytes: Option<u64>,
}
