//! The crate as a library, beside the examples of its documentation: on a real mount, and what it asks of a compiler.

mod common;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use common::files::opened;
use common::limit::limit;
use common::mounted::Mounted;
use templatefs::inspect;

#[test]
fn a_program_reads_what_the_views_of_a_mount_cost() {
    let _limit = limit(Duration::from_secs(60));
    let (mounted, content) = Mounted::with_data(64 << 10);
    let view = opened(&mounted.path("t?rom=off&view=web-1"));
    rustix::io::pwrite(&view, &content[..4096], 0).unwrap();
    let report = inspect::read(&mounted.mountpoint).unwrap();
    assert_eq!(report.schema, inspect::SCHEMA);
    let found = report.views.iter().find(|view| view.id == "web-1").expect("the view");
    assert_eq!((found.template.as_str(), found.kind.as_str(), found.private_bytes), ("t", "private", 4096));
    assert!(found.cost_bytes.is_some_and(|cost| cost >= 4096), "{found:?}");

    let nowhere = inspect::read(&mounted.store).unwrap_err().to_string();
    assert!(nowhere.contains("no templatefs is mounted there") && !nowhere.contains('\n'), "{nowhere}");
}

fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap()).collect()
}

/// The stated compiler would refuse the whole crate for one dependency that asks for a newer one.
#[test]
fn no_dependency_asks_for_a_newer_compiler_than_the_stated_one() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let stated = version(env!("CARGO_PKG_RUST_VERSION"));
    assert!(packages.len() > 50, "{}", packages.len());
    for package in packages {
        let Some(asked) = package["rust_version"].as_str() else { continue };
        let name = &package["name"];
        assert!(version(asked)[..2] <= stated[..2], "{name} asks for Rust {asked}, stated is {stated:?}");
    }
}
