//! The figures of a view, as programs read them: docs/INSPECT.md. A figure that could not be
//! read is null, never 0.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::SetAside;
use crate::error::{Error, Result};
use crate::name::{Label, printable};

/// The version of what is written here; it changes when a field goes or changes its meaning.
pub const SCHEMA: u32 = 1;

/// The views that this user may see on a mount, as the mount tells them now.
///
/// ```no_run
/// # use templatefs::inspect;
/// # fn main() -> Result<(), templatefs::error::Error> {
/// for view in inspect::read("/mnt/t".as_ref())?.views {
///     println!("{} of {}: {:?} bytes", view.id, view.template, view.cost_bytes);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where no templatefs is mounted or it does not answer.
pub fn read(mountpoint: &Path) -> Result<Report> {
    let path = mountpoint.join(".templatefs/views.json");
    let text = std::fs::read(&path).map_err(|e| {
        Error::io(
            format!("{}: no templatefs is mounted there, or it does not answer", mountpoint.display()),
            e,
        )
    })?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::io(format!("{}", path.display()), std::io::Error::from(e)))
}

/// `MOUNTPOINT/.templatefs/views.json`, which [`read`] reads; also from elsewhere, by serde. Fields that it does not know
/// are passed over.
///
/// ```
/// use templatefs::inspect::{Report, SCHEMA};
///
/// let report: Report = serde_json::from_str(r#"{"schema": 1, "views": [], "newer": true}"#)?;
/// assert_eq!(report.schema, SCHEMA);
/// let cost: Option<u64> = report.views.iter().map(|view| view.cost_bytes).sum();
/// assert_eq!(cost, Some(0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    pub schema: u32,
    pub views: Vec<ViewReport>,
    /// Those that nobody can use; they are not among `views`, unless they can be opened anew.
    #[serde(default)]
    pub set_aside: Vec<SetAsideReport>,
}

/// What one view is, who has it open, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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

/// A view that cannot be used and is left as it is, until somebody puts it right or discards it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SetAsideReport {
    /// As that of a [`ViewReport`].
    pub id: String,
    /// Null where nothing tells of it.
    pub template: Option<String>,
    pub uid: Option<u32>,
    /// Open files of it now, whose users get errors.
    pub opens: u64,
    /// Its files in the state directory, as a pattern; null for one that has none.
    pub files: Option<String>,
    pub reason: String,
}

impl SetAsideReport {
    pub(super) fn of(view: SetAside) -> Self {
        let SetAside { id, template, uid, opens, files, reason } = view;
        let files = files.map(|files| printable(files.as_os_str().as_encoded_bytes()));
        Self { id, template, uid, opens, files, reason }
    }
}

/// The process that opened a view, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenerReport {
    pub pid: u32,
    pub uid: u32,
    pub comm: String,
}

/// A process that has a view open or mapped, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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
