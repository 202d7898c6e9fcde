//! The documents promise nothing that no test holds.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `file::test` below tests/, or `path/to/module.rs::test` below src/.
fn exists(reference: &str) -> bool {
    let Some((file, test)) = reference.split_once("::") else { return false };
    let path: PathBuf = match file.ends_with(".rs") {
        true => root().join("src").join(file),
        false => root().join("tests").join(format!("{file}.rs")),
    };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.contains(&format!("fn {test}("))
}

#[test]
fn each_promise_names_a_test_that_exists() {
    let text = std::fs::read_to_string(root().join("docs/SEMANTICS.md")).unwrap();
    let promises: Vec<&str> = text.lines().filter(|line| line.starts_with("- ")).collect();
    assert!(promises.len() > 50, "{}", promises.len());
    let without: Vec<&&str> = promises
        .iter()
        .filter(|line| {
            let reference = line.strip_suffix("`)").and_then(|line| line.rsplit_once("(`"));
            !reference.is_some_and(|(_, reference)| exists(reference))
        })
        .collect();
    assert!(without.is_empty(), "no test holds these:\n{without:#?}");
}

/// The table stands in the README as the rules have it.
#[test]
fn the_readme_holds_both_of_qemus_messages() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    for conflict in
        [templatefs::rules::Conflict::WritableRomOnShared, templatefs::rules::Conflict::RomOnWritable]
    {
        assert!(text.contains(conflict.qemu_message()));
    }
}

#[test]
fn the_readme_fits_its_width_and_its_links_lead_somewhere() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let screen = text.split("```console\n").find(|rest| rest.starts_with("$ templatefs top ")).expect("top");
    let screen = screen.split("```").next().unwrap();
    assert!(screen.lines().all(|line| line.chars().count() <= 100), "{screen}");
    let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let local: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
    assert!(local.contains(&"docs/map.svg"), "{local:?}");
    assert!(local.iter().all(|link| root().join(link).exists()), "{local:?}");
    assert!(std::fs::metadata(root().join("docs/map.svg")).unwrap().len() < 60_000);
}

/// What is typed at a prompt, and its continuation, without the prompts.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("console\n"));
    blocks
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("> ")))
        .map(str::trim)
        .collect()
}

/// A command that only the document has may be wrong.
#[test]
fn each_command_of_the_tutorial_is_one_of_the_script_that_the_tests_run() {
    let text = std::fs::read_to_string(root().join("docs/TUTORIAL.md")).unwrap();
    let script = std::fs::read_to_string(root().join("mount-scripts/clone-vms")).unwrap();
    let lines: Vec<&str> =
        script.lines().map(str::trim).map(|line| line.strip_prefix("run ").unwrap_or(line)).collect();
    let commands = commands(&text);
    assert!(commands.len() > 30, "{commands:#?}");
    // tests/tutorial.rs runs it.
    let only_here: Vec<_> = commands
        .into_iter()
        .filter(|line| !lines.contains(line) && *line != "templatefs demo --vm")
        .collect();
    assert!(only_here.is_empty(), "{only_here:#?}");
}
