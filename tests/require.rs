//! `--require` and `require` in a policy: private views only of templates that somebody vouches for.

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use common::files::{assert_refused, error_line, open_ro, open_rw, templatefs};
use common::ground::Ground;
use common::limit::limit;
use common::mounted::{Mounted, Options, again_as_ordinary_user};

fn import(store: &Path, name: &str, safe: &[&str]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![b'T'; 8192]).unwrap();
    let mut words: Vec<OsString> = ["import", "--name", name].map(OsString::from).into();
    if !safe.is_empty() {
        words.extend(["--safe".into(), safe.join(",").into()]);
    }
    words.extend([file.path().into(), store.into()]);
    let output = templatefs(words);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn private_views_are_only_of_what_is_vouched_for() {
    let _limit = limit(Duration::from_secs(60));
    let mounted = Mounted::start(Options::with(&["--require", "no-ssh-keys,shareable"]));
    import(&mounted.store, "both", &["shareable", "no-ssh-keys", "no-machine-id"]);
    import(&mounted.store, "one", &["shareable"]);
    mounted.template("none", b"template");
    open_rw(mounted.path("both?rom=off")).unwrap();
    open_rw(mounted.path("both?rom=off&view=a")).unwrap();
    for name in ["one", "none"] {
        open_ro(mounted.path(name)).unwrap();
        for path in [format!("{name}?rom=off"), format!("{name}?rom=off&view=b")] {
            assert_refused(open_rw(mounted.path(&path)), Errno::ACCESS, &path);
            assert_refused(open_ro(mounted.path(&path)), Errno::ACCESS, &path);
        }
    }
    mounted.wait_for_log(
        "one: --require requires no-ssh-keys of it, and its manifest one.manifest.json does not",
    );
    mounted.wait_for_log("none: --require requires no-ssh-keys of it, and it has no manifest");

    // What a manifest of the same directory says of others it does not say of this.
    fs::create_dir(mounted.store.join("set")).unwrap();
    mounted.template("set/both", b"not what the manifest is of");
    mounted.template("set/other", b"other");
    fs::copy(mounted.store.join("both.manifest.json"), mounted.store.join("set/manifest.json")).unwrap();
    open_rw(mounted.path("set/both?rom=off")).unwrap();
    assert_refused(open_rw(mounted.path("set/other?rom=off")), Errno::ACCESS, "no part of the set");
    // One that cannot be read vouches for nothing.
    fs::remove_file(mounted.store.join("set/manifest.json")).unwrap();
    fs::write(mounted.store.join("set/manifest.json"), b"torn").unwrap();
    assert_refused(open_rw(mounted.path("set/both?rom=off")), Errno::INVAL, "torn");
    fs::remove_file(mounted.store.join("set/manifest.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", mounted.store.join("set/manifest.json")).unwrap();
    assert_refused(open_rw(mounted.path("set/both?rom=off")), Errno::ACCESS, "a link that leads outside");
}

#[test]
fn an_ordinary_users_mount_requires_it_too() {
    let _limit = limit(Duration::from_secs(60));
    again_as_ordinary_user("private_views_are_only_of_what_is_vouched_for");
}

#[test]
fn a_rule_requires_it_of_its_templates() {
    let _limit = limit(Duration::from_secs(60));
    let ground = Ground::new();
    let store = ground.at("store");
    import(&store, "tenants/a", &["no-machine-id"]);
    import(&store, "tenants/b", &[]);
    fs::write(store.join("templatefs.toml"), "[[rule]]\npath = 'tenants/**'\nrequire = ['no-machine-id']\n")
        .unwrap();
    let refused = ground.mount(&["--require", "harmless"]);
    assert!(error_line(&refused).contains("the facts are vmgenid, no-ssh-keys"), "{refused:?}");
    assert!(ground.mount(&[]).status.success());
    open_rw(ground.at("mnt/tenants/a?rom=off")).unwrap();
    open_rw(ground.at("mnt/t?rom=off")).unwrap();
    assert_refused(open_rw(ground.at("mnt/tenants/b?rom=off")), Errno::ACCESS, "nobody vouches for it");
    let log = fs::read_to_string(ground.at("state/daemon.log")).unwrap();
    assert!(log.contains("templatefs.toml: rule 1 (tenants/**) requires no-machine-id of it"), "{log}");
}
