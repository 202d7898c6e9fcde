//! What `templatefs views --json` and the metrics say of a mount.

use std::fs;

use templatefs::inspect::{Report, SetAsideReport, ViewReport};

use super::mounted::Mounted;

fn report(mounted: &Mounted) -> Report {
    let output = mounted.command().args(["views", "--json"]).arg(&mounted.mountpoint).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// As the mount's own user sees them.
pub fn views(mounted: &Mounted) -> Vec<ViewReport> {
    report(mounted).views
}

/// Those that cannot be used, as the mount's own user sees them.
pub fn set_aside(mounted: &Mounted) -> Vec<SetAsideReport> {
    report(mounted).set_aside
}

/// The value of one series of the metrics, which is there and a whole number.
pub fn metric(mounted: &Mounted, series: &str) -> u64 {
    let metrics = fs::read_to_string(mounted.path(".templatefs/metrics")).unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series}:\n{metrics}")).parse().unwrap()
}

/// The view of this name, which is there.
pub fn view(mounted: &Mounted, name: &str) -> ViewReport {
    let views = views(mounted);
    let found = views.iter().find(|view| view.id == name).cloned();
    found.unwrap_or_else(|| panic!("no {name} in {views:#?}"))
}
