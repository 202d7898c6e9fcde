//! What `templatefs views --json` says of a mount.

use templatefs::inspect::{Report, ViewReport};

use super::mounted::Mounted;

/// As the mount's own user sees them.
pub fn views(mounted: &Mounted) -> Vec<ViewReport> {
    let output = mounted.command().args(["views", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Report = serde_json::from_slice(&output.stdout).unwrap();
    list.views
}

/// The view of this name, which is there.
pub fn view(mounted: &Mounted, name: &str) -> ViewReport {
    let views = views(mounted);
    let found = views.iter().find(|view| view.id == name).cloned();
    found.unwrap_or_else(|| panic!("no {name} in {views:#?}"))
}
